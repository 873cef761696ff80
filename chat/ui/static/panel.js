// The two panels at the sides, which are Gradio's: opened and closed by whoever needs them.

import { session } from './session.js';

const NARROW = 768; // pixels of width below which a panel covers the chat

const toggleOf = (id) => document.querySelector(`#${id} .toggle-button`);
const isOpen = (id) => document.querySelector(`#${id}.open, #${id} .sidebar.open`) !== null;

/** Open or close a panel: `sidebar` or `panel`. */
export const setOpen = (id, open) => {
  if (isOpen(id) !== open) toggleOf(id)?.click();
};

/** Open a panel if it is closed, else close it. */
export const toggle = (id) => setOpen(id, !isOpen(id));

// On a narrow page an open panel covers the chat: what is left of that closes it.
const closeByTheRest = ({ target }) => {
  if (innerWidth >= NARROW || target.closest('.sidebar, dialog, [popover], .parley-header')) return;
  for (const id of ['sidebar', 'panel']) setOpen(id, false);
};

/** Have the elements open and close the panels. */
export const connectPanel = () => {
  document.addEventListener('parley:toggle-panel', () => toggle('panel'));
  document.addEventListener('parley:toggle-list', () => toggle('sidebar'));
  document.addEventListener('pointerdown', closeByTheRest);
  let shown; // what is shown is wanted: then nothing may cover it
  session.addEventListener('conversation', () => {
    const id = session.conversation?.id ?? null;
    if (id !== shown && innerWidth < NARROW) setOpen('sidebar', false);
    shown = id;
  });
};
