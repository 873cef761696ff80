// Notices at the edge of the page: what went wrong, what was done, and the way back.

import { ApiError } from './api.js';
import { el, iconButton, textButton } from './dom.js';
import { session } from './session.js';
import { t } from './texts.js';

const SECONDS = { info: 6, error: 12 };
const MOST = 4; // at a time

const region = el('div', { class: 'parley-notices', role: 'region', 'aria-label': t('notice.region') });

/** Show a text of a kind (`error`, `info`) for a while; an action is a button {label, run}. */
export const notify = ({ text, kind = 'info', action = null }) => {
  if (!region.isConnected) document.body.append(region);
  const same = [...region.children].find((notice) => notice.dataset.text === text && !action);
  same?.remove();
  const role = kind === 'error' ? 'alert' : 'status';
  const notice = el('div', { class: `parley-notice parley-notice-${kind}`, role });
  notice.dataset.text = text;
  // An alert is read out when its text comes into a region that is there already.
  region.append(notice);
  notice.append(el('span', { class: 'parley-notice-text', textContent: text }), ...buttons(notice, action));
  while (region.children.length > MOST) region.firstChild.remove();
  expire(notice, SECONDS[kind] * 1000);
};

/** Show why a call of the API failed. */
export const notifyFailure = (error) => {
  if (!(error instanceof ApiError)) throw error;
  notify({ text: error.message, kind: 'error' });
};

const buttons = (notice, action) => {
  const close = iconButton('close', t('notice.dismiss'), () => notice.remove());
  if (!action) return [close];
  const act = () => {
    notice.remove();
    action.run();
  };
  return [textButton(action.label, act), close];
};

// Not while it is pointed at or has the focus: whoever reads it or reaches for its button has time.
const expire = (notice, milliseconds) => {
  let timer = setTimeout(() => notice.remove(), milliseconds);
  const hold = () => clearTimeout(timer);
  const release = () => {
    hold();
    timer = setTimeout(() => notice.remove(), milliseconds);
  };
  for (const name of ['pointerenter', 'focusin']) notice.addEventListener(name, hold);
  for (const name of ['pointerleave', 'focusout']) notice.addEventListener(name, release);
};

session.addEventListener('notice', ({ detail }) => notify(detail));
