// A menu that opens at a button, over everything else on the page.

import { el } from './dom.js';
import { moveFocus } from './sidebar_parts.js';

const GAP = 4; // pixels to the button, and at least to the edges of the window

/** Open a menu of items `{label, run, isDangerous}` at a button; Esc, Tab and a click elsewhere close it. */
export const openMenu = (button, label, items) => {
  const menu = el('div', { role: 'menu', class: 'parley-menu', popover: 'auto', ariaLabel: label });
  const close = () => menu.hidePopover();
  menu.append(...items.map((item) => menuItem(item, close)));
  menu.addEventListener('keydown', (event) => onKey(event, menu));
  menu.addEventListener('beforetoggle', ({ newState }) => button.setAttribute('aria-expanded', newState === 'open'));
  menu.addEventListener('toggle', ({ newState }) => {
    if (newState === 'closed') menu.remove();
  });
  document.body.append(menu);
  button.focus(); // gets the focus back when the menu closes
  menu.showPopover();
  place(menu, button);
  menu.firstElementChild.focus();
};

const menuItem = ({ label, run, isDangerous }, close) => {
  const choose = () => {
    close();
    run();
  };
  const classes = isDangerous ? 'parley-menu-item parley-dangerous' : 'parley-menu-item';
  return el('button', { type: 'button', role: 'menuitem', tabIndex: -1, class: classes, on: { click: choose } }, label);
};

const place = (menu, button) => {
  const at = button.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = menu;
  const below = at.bottom + GAP;
  const top = below + height <= innerHeight ? below : Math.max(GAP, at.top - GAP - height);
  menu.style.top = `${top}px`;
  menu.style.left = `${Math.max(GAP, Math.min(at.right - width, innerWidth - width - GAP))}px`;
};

const onKey = (event, menu) => {
  const items = [...menu.children];
  if (moveFocus(event, items)) return;
  if (event.key === 'Tab') {
    event.preventDefault();
    menu.hidePopover();
  } else if (event.key.length === 1 && event.key !== ' ' && !event.ctrlKey && !event.metaKey) {
    const start = event.key.toLocaleLowerCase();
    items.find((item) => item.textContent.toLocaleLowerCase().startsWith(start))?.focus();
  }
};
