// The two panels at the sides, which are Gradio's: opened and closed by whoever needs them.

import { session } from './session.js';

const IDS = ['sidebar', 'panel'];
const LONGEST_START = 10_000; // milliseconds

const covers = matchMedia('(width <= 768px)'); // a panel covers the chat then
const crowds = matchMedia('(width < 1100px)'); // two panels leave too little of it

const isOpen = (id) => document.querySelector(`#${id}.open`) !== null;

/** Open or close a panel, `sidebar` or `panel`; resolves when it is so. */
export const setOpen = async (id, open) => {
  const panel = document.getElementById(id);
  if (!panel || isOpen(id) === open) return;
  if (!open && panel.contains(document.activeElement)) document.querySelector('.parley-composer-text')?.focus();
  if (open && crowds.matches) IDS.filter((other) => other !== id).forEach((other) => setOpen(other, false));
  const changed = nextChange(panel);
  panel.querySelector('.toggle-button').click();
  await changed;
};

// Gradio shows what has been asked of it a little later.
const nextChange = (panel) => new Promise((resolve) => {
  const observer = new MutationObserver(() => {
    observer.disconnect();
    resolve();
  });
  observer.observe(panel, { attributeFilter: ['class'] });
});

/** Open a panel if it is closed, else close it. */
export const toggle = (id) => setOpen(id, !isOpen(id));

/** Close the panels that cover the chat; tells whether there was one. */
export const uncover = () => {
  const covering = covers.matches ? IDS.filter(isOpen) : [];
  covering.forEach((id) => setOpen(id, false));
  return covering.length > 0;
};

/** Have the elements open and close the panels. */
export const connectPanel = () => {
  document.addEventListener('parley:toggle-panel', () => toggle('panel'));
  document.addEventListener('parley:toggle-list', () => toggle('sidebar'));
  document.addEventListener('parley:show-site', () => setOpen('sidebar', true));
  document.addEventListener('click', ({ target }) => target.matches('.gradio-container') && uncover());
  covers.addEventListener('change', uncover);
  let shown; // what is shown is wanted: then nothing may cover it
  session.addEventListener('conversation', () => {
    const id = session.conversation?.id ?? null;
    if (id !== shown && covers.matches) setOpen('sidebar', false);
    shown = id;
  });
  closeAtFirst();
};

// Gradio opens the list once it has started, also where that covers the chat; until then its button does nothing.
const closeAtFirst = () => {
  let timer;
  const look = () => {
    timer = setTimeout(look, uncover() ? 500 : 50);
  };
  const end = () => clearTimeout(timer);
  for (const name of ['pointerdown', 'keydown']) addEventListener(name, end, { capture: true, once: true });
  setTimeout(end, LONGEST_START);
  look();
};
