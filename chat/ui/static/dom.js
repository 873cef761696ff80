// What the page is built of: elements, icons and buttons.

import { el, fitHeight } from './element.js';

export { el, fitHeight };

const SVG = 'http://www.w3.org/2000/svg';

// Drawn on a field of 24 by 24 with a line of 2.
const ICONS = {
  archive: 'M4 8v11h16V8 M2.5 4h19v4h-19z M10 12h4',
  compose: 'M12 4H6a2 2 0 0 0-2 2v12a2 2 0 0 0 2 2h12a2 2 0 0 0 2-2v-6 M9.5 14.5l.6-3L18.6 3 21 5.4l-8.5 8.5z',
  export: 'M12 15V3 M7.5 7.5L12 3l4.5 4.5 M5 13v6a2 2 0 0 0 2 2h10a2 2 0 0 0 2-2v-6',
  more: 'M5 12h.01 M12 12h.01 M19 12h.01',
  restore: 'M4 10h10.5a5 5 0 0 1 0 10H10 M8 6l-4 4 4 4',
  site: 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z M3 12h18 M12 3c3 3 3.5 6 3.5 9s-.5 6-3.5 9c-3-3-3.5-6-3.5-9S9 6 12 3z',
  warning: 'M12 4L2.5 20h19z M12 10v5 M12 17.5v.01',
  search: 'M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14z M16 16l5 5',
  select: 'M4 6.5L5.5 8 8 5 M4 12.5L5.5 14 8 11 M4 18.5L5.5 20 8 17 M12 6.5h8 M12 12.5h8 M12 18.5h8',
  copy: 'M9 9h11v11H9z M5 15H4V4h11v1',
  check: 'M5 13l4 4L19 7',
  edit: 'M4 20l1-5L16 4l4 4L9 19z M14 6l4 4',
  regenerate: 'M20 11a8 8 0 1 0-2.3 6 M20 5v6h-6',
  fork: 'M6 4v16 M6 14c0-4 12-2 12-7 M15 7l3-3 3 3',
  delete: 'M4 7h16 M10 4h4 M6 7l1 13h10l1-13 M10 11v5 M14 11v5',
  pin: 'M9 4h6 M10 4v6l-3 4h10l-3-4V4 M12 14v6',
  good: 'M7 11v9H4v-9z M7 11l4-7c2 0 3 1 2.5 3L13 10h6c1 0 1.5 1 1.3 2l-1.5 6.5c-.2 1-.8 1.5-1.8 1.5H7',
  bad: 'M7 13V4H4v9z M7 13l4 7c2 0 3-1 2.5-3L13 14h6c1 0 1.5-1 1.3-2l-1.5-6.5C18.6 4.5 18 4 17 4H7',
  tokens: 'M4 6h7v5H4z M13 6h7v5h-7z M4 13h4v5H4z M10 13h10v5H10z',
  previous: 'M15 5l-7 7 7 7',
  next: 'M9 5l7 7-7 7',
  list: 'M4 6h16 M4 12h16 M4 18h10',
  send: 'M12 20V4 M5 11l7-7 7 7',
  stop: 'M7 7h10v10H7z',
  end: 'M12 4v16 M5 13l7 7 7-7',
  close: 'M6 6l12 12 M18 6L6 18',
  temporary: 'M12 3a9 9 0 0 1 9 9 M12 21a9 9 0 0 0 6.4-2.6 M3 12a9 9 0 0 0 2.6 6.4 M5.6 5.6a9 9 0 0 1 3-2 M12 7v5l3 2',
};

/** Return a drawn icon; it says nothing to a screen reader. */
export const icon = (name) => {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  svg.classList.add('parley-icon');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
};

/** Return a button that shows an icon, and its name to whoever points at it or cannot see it. */
export const iconButton = (name, label, onClick, { class: classes = '', ...properties } = {}) =>
  el('button', { type: 'button', class: `parley-icon-button ${classes}`, title: label, 'aria-label': label,
    ...properties, on: { click: onClick } }, icon(name));

/** Return a button that shows a text. */
export const textButton = (text, onClick, properties = {}) =>
  el('button', { type: 'button', class: 'parley-button', textContent: text, ...properties, on: { click: onClick } });

/** Return what the head of the page tells of something, null if nothing. */
export const toldInHead = (name) => document.querySelector(`meta[name="parley-${name}"]`)?.content ?? null;
