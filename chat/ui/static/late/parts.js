// What the lists and forms of the panel are made of.

import { copyText } from '../clipboard.js';
import { el, iconButton, textButton } from '../dom.js';

let nNotes = 0;

// The note describes the control, and is no part of its name.
const withNote = (label, control, text) => {
  if (text === null) return el('div', { class: 'parley-labelled' }, label);
  const id = `parley-note-${++nNotes}`;
  control.setAttribute('aria-describedby', id);
  return el('div', { class: 'parley-labelled' }, label, el('small', { id, textContent: text }));
};

/** Return a labelled control, with a note below it if it needs one. */
export const field = (label, control, text = null) =>
  withNote(el('label', {}, el('span', { textContent: label }), control), control, text);

/** Return a box to tick, its label beside it and a note below it if it needs one. */
export const checkField = (label, box, text = null) =>
  withNote(el('label', { class: 'parley-checked' }, box, el('span', { textContent: label })), box, text);

/** Return a field for a line of text. */
export const input = (properties = {}) => el('input', { type: 'text', class: 'parley-field', dir: 'auto', ...properties });

/** Return a box to tick. */
export const checkbox = (checked, properties = {}) => el('input', { type: 'checkbox', checked, ...properties });

/** Return a field for a text of several lines. */
export const textArea = (value, rows, properties = {}) =>
  el('textarea', { class: 'parley-field', dir: 'auto', value, rows, ...properties });

/** Return a choice among `[value, label]`. */
export const choice = (options, value, properties = {}) => {
  const select = el('select', { class: 'parley-field', ...properties },
    ...options.map(([name, label]) => el('option', { value: name, textContent: label })));
  select.value = value;
  return select;
};

/** Return a form: its fields, a button that says what it does, and below it where what comes of it is shown. */
export const form = (fields, label, onSubmit, ...results) => {
  const button = el('button', { type: 'submit', class: 'parley-button parley-primary', textContent: label });
  const made = el('form', { class: 'parley-form' }, ...fields, el('div', { class: 'parley-buttons' }, button), ...results);
  // What came of the form before is no answer to what the browser stops now; this event does not bubble.
  made.addEventListener('invalid', () => results.forEach((result) => result.replaceChildren()), true);
  made.addEventListener('submit', async (event) => {
    event.preventDefault();
    button.disabled = true;
    await onSubmit();
    button.disabled = false;
  });
  return made;
};

/** Return a part of the panel that can be folded away. */
export const section = (title, children, { open = false } = {}) =>
  el('details', { class: 'parley-section', open }, el('summary', { textContent: title }), ...children);

/** Return a text as it is to be copied, and the button that does so. */
export const copyable = (text, label) => {
  const code = el('code', { textContent: text });
  const button = iconButton('copy', label, () => copyText(code.textContent, button));
  // A line is shown whole; several are as long as they are.
  const lines = el('pre', { class: text.includes('\n') ? 'parley-lines' : '', tabIndex: 0, role: 'region', ariaLabel: label },
    code);
  return { element: el('div', { class: 'parley-copyable' }, lines, button), code };
};

/** Return a short word that stands out. */
export const badge = (text, kind = '') => el('span', { class: `parley-badge ${kind}`, textContent: text });

/** Return a paragraph that explains something. */
export const note = (text) => el('p', { class: 'parley-note', textContent: text });

/** Return a button that does what cannot be taken back. */
export const dangerousButton = (label, run) =>
  textButton(label, run, { class: 'parley-button parley-dangerous' });
