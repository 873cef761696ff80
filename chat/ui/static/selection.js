// Which conversations are selected, and the bar that tells what can be done with them.

import { el, iconButton, textButton } from './dom.js';
import { t } from './texts.js';

/** The ids that are selected, and the one that a range begins at. */
export class Selection {
  ids = new Set();
  #anchor = null;

  /** Select one or, with the Shift key, all of `ids` between the last one that was clicked and this one. */
  toggle(id, isRange, ids) {
    const [from, to] = [ids.indexOf(this.#anchor), ids.indexOf(id)];
    if (isRange && from >= 0) {
      for (const other of ids.slice(Math.min(from, to), Math.max(from, to) + 1)) this.ids.add(other);
    } else if (!this.ids.delete(id)) {
      this.ids.add(id);
    }
    this.#anchor = id;
  }

  /** Select all, or none if all are. */
  toggleAll(ids) {
    this.ids = new Set(ids.every((id) => this.ids.has(id)) ? [] : ids);
  }

  /** Forget those that are listed no longer. */
  keepOnly(ids) {
    this.ids = new Set(ids.filter((id) => this.ids.has(id)));
  }
}

/** Return the bar under a list: how many are selected, `actions` of `{icon, label, run}`, and how to end selecting. */
export const selectionBar = (actions, { toggleAll, end }) => {
  const count = el('span', { class: 'parley-count', role: 'status' });
  const all = textButton('', toggleAll);
  const buttons = actions.map(({ icon, label, run, isDangerous }) =>
    iconButton(icon, label, run, { class: isDangerous ? 'parley-dangerous' : '' }));
  const close = iconButton('close', t('sidebar.endSelecting'), end);
  const element = el('div', { class: 'parley-selection', role: 'toolbar', ariaLabel: t('sidebar.selection') },
    el('div', {}, count, all, close), el('div', {}, ...buttons));
  const update = (nSelected, nItems) => {
    count.textContent = t('sidebar.selected', { count: nSelected });
    all.textContent = t(nSelected > 0 && nSelected === nItems ? 'sidebar.selectNone' : 'sidebar.selectAll');
    for (const button of buttons) button.disabled = nSelected === 0;
  };
  return { element, update };
};
