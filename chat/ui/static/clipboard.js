// Copying, with a sign at the button that it went well.

import { icon } from './dom.js';
import { notify } from './notices.js';
import { t } from './texts.js';

const SHOWN = 1500; // milliseconds

/** Copy a text, and show at a button that it was copied. */
export const copyText = async (text, button) => {
  const label = button.title;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    notify({ text: t('message.copyFailed'), kind: 'error' });
    return;
  }
  show(button, 'check', t('message.copied'));
  setTimeout(() => show(button, 'copy', label), SHOWN);
};

const show = (button, name, label) => {
  button.replaceChildren(icon(name));
  button.ariaLabel = label;
};
