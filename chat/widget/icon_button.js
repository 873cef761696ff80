// The widget's few icons, which are the page's, and the buttons that show them.

import { el } from '/page/element.js';

const SVG = 'http://www.w3.org/2000/svg';

// Drawn on a field of 24 by 24.
const ICONS = {
  list: 'M4 6h16 M4 12h16 M4 18h10',
  compose: 'M12 4H6a2 2 0 0 0-2 2v12a2 2 0 0 0 2 2h12a2 2 0 0 0 2-2v-6 M9.5 14.5l.6-3L18.6 3 21 5.4l-8.5 8.5z',
  export: 'M12 15V3 M7.5 7.5L12 3l4.5 4.5 M5 13v6a2 2 0 0 0 2 2h10a2 2 0 0 0 2-2v-6',
  close: 'M6 6l12 12 M18 6L6 18',
  good: 'M7 11v9H4v-9z M7 11l4-7c2 0 3 1 2.5 3L13 10h6c1 0 1.5 1 1.3 2l-1.5 6.5c-.2 1-.8 1.5-1.8 1.5H7',
  bad: 'M7 13V4H4v9z M7 13l4 7c2 0 3-1 2.5-3L13 14h6c1 0 1.5-1 1.3-2l-1.5-6.5C18.6 4.5 18 4 17 4H7',
  send: 'M12 20V4 M5 11l7-7 7 7',
  stop: 'M7 7h10v10H7z',
};

/** Return a button that shows an icon, and its name to whoever points at it or cannot see it. */
export const iconButton = (name, label, onClick, kind = '') => {
  const svg = document.createElementNS(SVG, 'svg');
  const path = svg.appendChild(document.createElementNS(SVG, 'path'));
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  path.setAttribute('d', ICONS[name]);
  const named = { title: label, 'aria-label': label };
  return el('button', { type: 'button', class: `icon ${kind}`, ...named, on: { click: onClick } }, svg);
};
