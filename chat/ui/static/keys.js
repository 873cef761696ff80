// The keyboard: what its combinations do, and the overlay that tells of them.

import { el, textButton } from './dom.js';
import { setOpen, toggle, uncover } from './panel.js';
import { session } from './session.js';
import { hasText, t } from './texts.js';

const composer = () => document.querySelector('.parley-composer-text');

const focusSearch = async () => {
  await setOpen('sidebar', true); // what cannot be seen takes no focus
  document.querySelector('parley-sidebar input[type="search"]')?.focus();
};

const openNeighbour = (step) => {
  const rows = [...document.querySelectorAll('parley-sidebar [data-id]')];
  const place = rows.findIndex((row) => row.dataset.id === session.conversation?.id);
  const row = rows[place < 0 ? 0 : place + step];
  if (row) session.open(row.dataset.id);
};

const editLast = () => [...document.querySelectorAll('.parley-user [data-tool="edit"]')].at(-1)?.click();

const isWriting = ({ target }) => target.matches('input, textarea, select, [contenteditable="true"]');

const SHORTCUTS = [
  { keys: 'Ctrl+Shift+O', text: 'keys.newChat', run: () => session.startNew() },
  { keys: 'Ctrl+K', text: 'keys.search', run: focusSearch },
  { keys: 'Shift+Escape', text: 'keys.focus', run: () => composer()?.focus() },
  { keys: 'Escape', text: 'keys.stop', run: () => uncover() || (session.running && session.stop()) },
  { keys: 'Alt+ArrowUp', text: 'keys.previous', run: () => openNeighbour(-1) },
  { keys: 'Alt+ArrowDown', text: 'keys.next', run: () => openNeighbour(1) },
  { keys: 'Ctrl+Shift+E', text: 'keys.edit', run: editLast },
  { keys: 'Ctrl+B', text: 'keys.sidebar', run: () => toggle('sidebar') },
  { keys: 'Ctrl+Shift+P', text: 'keys.panel', run: () => toggle('panel') },
  { keys: '?', text: 'keys.help', run: () => help().showModal(), isCharacter: true },
];

/** Return what a key event is called, such as Ctrl+Shift+O; the command key of a Mac counts as Ctrl. */
const nameOf = ({ key, ctrlKey, metaKey, shiftKey, altKey }) => {
  const isCharacter = key.length === 1 && !ctrlKey && !metaKey && !altKey;
  const modifiers = [(ctrlKey || metaKey) && 'Ctrl', altKey && 'Alt', shiftKey && !isCharacter && 'Shift'];
  return [...modifiers.filter(Boolean), key.length === 1 ? key.toUpperCase() : key].join('+');
};

const onKey = (event) => {
  if (event.isComposing || event.defaultPrevented || document.querySelector('dialog[open]')) return;
  const name = nameOf(event);
  const shortcut = SHORTCUTS.find(({ keys }) => keys === name);
  if (!shortcut || (shortcut.isCharacter && isWriting(event))) return;
  event.preventDefault();
  shortcut.run();
};

const keyName = (key) => (hasText(`key.${key}`) ? t(`key.${key}`) : key);

let dialog = null;

const help = () => {
  if (dialog) return dialog;
  const rows = SHORTCUTS.map(({ keys, text }) =>
    el('div', {}, el('dt', {}, ...keys.split('+').map((key) => el('kbd', { textContent: keyName(key) }))),
      el('dd', { textContent: t(text) })));
  dialog = el('dialog', { class: 'parley-dialog parley-help', 'aria-label': t('keys.title') },
    el('h2', { textContent: t('keys.title') }), el('dl', {}, ...rows),
    textButton(t('keys.close'), () => dialog.close(), { autofocus: true }));
  document.body.append(dialog);
  return dialog;
};

/** Listen to the keyboard. */
export const connectKeys = () => document.addEventListener('keydown', onKey);
