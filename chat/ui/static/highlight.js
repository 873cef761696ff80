// Blocks of code in a reply: a header with the language and a button that copies, and colours once a block is closed.

import { api } from './api.js';
import { copyText } from './clipboard.js';
import { el, iconButton } from './dom.js';
import { t } from './texts.js';

const MOST_KEPT = 200; // blocks whose parts are remembered

const parts = new Map(); // by language and code: a promise of what the server says of them, null if it says nothing

/** Give the blocks of code below an element their headers, and colours to those that grow no more. */
export const dressCode = (root, { isGrowing = false } = {}) => {
  for (const pre of root.querySelectorAll('pre:not(.parley-code-done)')) {
    if (!pre.classList.contains('parley-code')) addHeader(pre);
    if (isGrowing && root.lastElementChild.contains(pre)) continue;
    pre.classList.add('parley-code-done');
    nearby.observe(pre);
  }
};

// Only what is about to be seen: the code of a long conversation would keep the server busy.
const nearby = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    nearby.unobserve(target);
    colour(target.querySelector('code'));
  }
}, { rootMargin: '50%' });

const languageOf = (code) => code.className.match(/language-(\S+)/)?.[1] ?? '';

const addHeader = (pre) => {
  const code = pre.querySelector('code');
  const copy = iconButton('copy', t('code.copy'), () => copyText(code.textContent, copy));
  const name = el('span', { textContent: languageOf(code) || t('code.plain') });
  pre.classList.add('parley-code');
  pre.prepend(el('div', { class: 'parley-code-header' }, name, copy));
  code.tabIndex = 0; // wide code is scrolled by the keyboard
};

const colour = async (code) => {
  const text = code.textContent;
  const found = await partsOf(languageOf(code), text);
  if (!found || code.textContent !== text) return;
  code.replaceChildren(...found.map((part) =>
    part.kind ? el('span', { class: `parley-code-${part.kind}`, textContent: part.text }) : part.text));
};

const partsOf = (language, code) => {
  if (!language || !code) return Promise.resolve(null);
  const key = `${language}\n${code}`;
  if (!parts.has(key)) parts.set(key, ask(language, code, key));
  if (parts.size > MOST_KEPT) parts.delete(parts.keys().next().value);
  return parts.get(key);
};

// Code without colours can be read too: what fails is asked for again when the block is shown anew.
const ask = async (language, code, key) => {
  try {
    return (await api('POST', '/api/highlight', { code, language })).parts;
  } catch {
    parts.delete(key);
    return null;
  }
};
