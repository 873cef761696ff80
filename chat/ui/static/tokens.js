// The token view: how likely the model found each token of a reply, and what it might have written instead.

import { api } from './api.js';
import { el, textButton } from './dom.js';
import { session } from './session.js';
import { language, t } from './texts.js';

const percents = new Intl.NumberFormat(language, { style: 'percent', maximumFractionDigits: 1 });
const LEAST = 0.001; // the least share that is written out

const percent = (share) => (share < LEAST ? `< ${percents.format(LEAST)}` : percents.format(share));

/** Show the tokens of a reply in a dialog. */
const show = async (id) => {
  const body = el('div', { class: 'parley-tokens-body' }, el('p', { role: 'status', textContent: t('tokens.loading') }));
  const close = textButton(t('tokens.close'), () => dialog.close());
  const dialog = el('dialog', { class: 'parley-dialog parley-tokens', 'aria-label': t('tokens.title') },
    el('h2', { textContent: t('tokens.title') }), body, close);
  dialog.addEventListener('close', () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  try {
    const { model, tokens } = await api('GET', `${session.root}/messages/${id}/tokens`);
    body.replaceChildren(...view(model, tokens, (place, tokenId) => {
      dialog.close();
      session.branchAt(id, place, tokenId);
    }));
  } catch (error) {
    body.replaceChildren(el('p', { role: 'alert', class: 'parley-problem', textContent: error.message }));
  }
};

const view = (model, tokens, choose) => {
  const details = el('div', { class: 'parley-alternatives', 'aria-live': 'polite' },
    el('p', { class: 'parley-note', textContent: t('tokens.hint') }));
  const mean = Math.exp(tokens.reduce((sum, { probability }) => sum + Math.log(probability), 0) / tokens.length);
  const text = el('p', { class: 'parley-token-text', dir: 'auto' });
  tokens.forEach((token, place) => text.append(...tokenButton(token, () => {
    text.querySelector('[aria-pressed="true"]')?.setAttribute('aria-pressed', 'false');
    details.replaceChildren(...alternatives(token, place, choose));
  })));
  return [el('p', { class: 'parley-note', textContent: t('tokens.summary', { model, count: tokens.length, mean: percent(mean) }) }),
    text, details];
};

/** Return the button of a token, with the line break after it if its text has one. */
const tokenButton = ({ text, probability }, onClick) => {
  const button = el('button', { type: 'button', class: 'parley-token', textContent: visible(text), 'aria-pressed': 'false',
    title: percent(probability) });
  button.style.setProperty('--doubt', String(Math.min(1, -Math.log10(Math.max(probability, 1e-4)) / 2)));
  button.addEventListener('click', () => {
    onClick();
    button.setAttribute('aria-pressed', 'true');
  });
  return text.includes('\n') ? [button, el('br')] : [button];
};

const visible = (text) => text.replaceAll('\n', '⏎').replaceAll('\t', '⇥') || '∅';

const alternatives = (token, place, choose) => {
  const rows = token.alternatives.map((one) => {
    const bar = el('i', { 'aria-hidden': 'true' });
    bar.style.inlineSize = `${100 * one.probability}%`;
    const isChosen = one.token_id === token.token_id;
    const button = textButton(t('tokens.branch'), () => choose(place, one.token_id), { disabled: isChosen });
    return el('li', { class: isChosen ? 'parley-chosen' : '' }, el('code', { dir: 'auto', textContent: visible(one.text) }),
      el('span', { class: 'parley-probability' }, bar, el('span', { textContent: percent(one.probability) })), button);
  });
  return [el('p', { textContent: t('tokens.at', { place: place + 1, probability: percent(token.probability) }) }),
    el('ol', {}, ...rows)];
};

document.addEventListener('parley:show-tokens', ({ detail }) => show(detail.message_id));
