// Questions that are asked in the place of what they are about, instead of in a dialog.

import { el, textButton } from './dom.js';
import { t } from './texts.js';

/** Cover a host with a field for a text; resolves to it, or to null after Esc. */
export const askText = async (host, label, value, maxLength) => {
  const field = el('input', { type: 'text', class: 'parley-field', dir: 'auto', ariaLabel: label, maxLength, value });
  const isDone = await ask(host, {}, field, [field], (answer) => {
    field.addEventListener('blur', () => answer(true));
    field.addEventListener('keydown', ({ key, isComposing }) => {
      if (key === 'Enter' && !isComposing) answer(true);
    });
  });
  return isDone ? field.value.trim() : null;
};

/** Cover a host with the question whether to delete; resolves to the answer. */
export const askDeletion = (host, question) => askFirst(host, question, t('message.delete'));

/** Cover a host with the question whether to do what cannot be taken back; resolves to the answer. */
export const askFirst = (host, question, label) => {
  const [no, go] = [textButton(t('message.cancel')), textButton(label)];
  go.classList.add('parley-dangerous');
  const parts = [el('span', { class: 'parley-question' }, question), go, no];
  return ask(host, { role: 'group', ariaLabel: question }, no, parts, (answer) => {
    no.addEventListener('click', () => answer(false));
    go.addEventListener('click', () => answer(true));
  });
};

const ask = (host, properties, first, parts, listen) => new Promise((resolve) => {
  const back = document.activeElement;
  const form = el('div', { class: 'parley-ask', ...properties }, ...parts);
  let isAnswered = false;
  const answer = (value) => {
    if (isAnswered) return; // a field that is removed loses the focus, and says so
    isAnswered = true;
    const hadFocus = form.contains(document.activeElement);
    resolve(value);
    form.remove();
    if (hadFocus) back.focus();
  };
  form.addEventListener('keydown', (event) => {
    event.stopPropagation(); // what is written here is no command to the list
    if (event.key === 'Escape') answer(false);
  });
  listen(answer);
  host.append(form);
  first.focus();
  first.select?.();
});
