// The list of conversations in the sidebar: it loads pages as they come into view and changes only what has changed.

import { ConversationPages } from './conversation_pages.js';
import { ConversationRow } from './conversation_row.js';
import { groupByDay } from './day_groups.js';
import { el, textButton } from './dom.js';
import { Selection } from './selection.js';
import { arrange, moveFocus } from './sidebar_parts.js';
import { t } from './texts.js';

const AHEAD = '800px'; // how far below what can be seen the next page is loaded

/**
 * A view of conversations, and the commands of its rows.
 *
 * `commands` are `open(conversation)`, `rename(row)`, `remove(row)`, `menu(row)` and `changed()`, which is called
 * whenever what is listed or selected has changed.
 */
export class ConversationList {
  selection = null; // or a Selection, while conversations are being selected
  #rows = new Map(); // by the ids of their conversations
  #sections = new Map(); // by their headings
  #openId = null;
  #tabStop = null;
  #end = el('div', { class: 'parley-list-end' });
  #groups = el('div', { class: 'parley-groups' });

  constructor(commands) {
    this.commands = commands;
    this.element = el('div', { class: 'parley-list', ariaBusy: 'true' }, this.#groups, this.#end);
    this.element.addEventListener('click', (event) => this.#click(event));
    this.element.addEventListener('keydown', (event) => this.#key(event));
    this.element.addEventListener('focusin', ({ target }) => this.#moveTabStop(this.#rowAt(target)));
  }

  /** Begin to watch what of the list can be seen in its scrolling parent. */
  watch() {
    const options = { root: this.element.parentElement, rootMargin: `0px 0px ${AHEAD} 0px` };
    this.observer = new IntersectionObserver((entries) => {
      if (entries.at(-1).isIntersecting) this.#loadMore();
    }, options);
    this.observer.observe(this.#end);
  }

  /** Show `recent`, `archived` or `trashed` conversations from the beginning, those that a filter's query leaves. */
  show(view, filter) {
    this.select(false);
    this.#groups.replaceChildren();
    this.#end.replaceChildren();
    this.#rows.clear();
    this.#sections.clear();
    this.pages = new ConversationPages(view, filter);
    this.element.parentElement.scrollTop = 0;
    return this.#load(() => this.pages.more());
  }

  /** Show what the server has now of the conversations that are loaded. */
  refresh() {
    return this.#load(() => this.pages.reload());
  }

  /** Mark the conversation that is open; null for none. */
  set openId(id) {
    for (const other of [this.#openId, id]) {
      const row = this.#rows.get(other);
      if (row) row.isOpen = other === id;
    }
    this.#openId = id;
  }

  /** The ids of all conversations that are loaded, in their order. */
  get ids() {
    return this.pages?.ids ?? [];
  }

  /** Begin to select conversations, or end it. */
  select(isSelecting) {
    this.selection = isSelecting ? new Selection() : null;
    this.element.classList.toggle('parley-selecting', isSelecting);
    this.showSelected();
  }

  /** Show which conversations are selected. */
  showSelected() {
    for (const [id, row] of this.#rows) row.isSelected = this.selection?.ids.has(id) ?? false;
    this.commands.changed();
  }

  /** Give the focus to the row that the Tab key would reach. */
  focus() {
    this.#rows.get(this.#tabStop)?.link.focus();
  }

  async #load(job) {
    const { pages } = this;
    this.element.ariaBusy = 'true';
    try {
      await job();
      if (pages !== this.pages) return; // another view is shown by now
      this.#render();
      this.#watchAgain();
    } catch (error) {
      if (pages === this.pages) this.#showFailure(error);
    } finally {
      if (pages === this.pages) this.element.ariaBusy = 'false';
    }
  }

  #loadMore() {
    if (this.pages?.next && this.element.ariaBusy === 'false') this.#load(() => this.pages.more());
  }

  // An observer tells of changes only: the end may still be in view after a page has been added.
  #watchAgain() {
    this.observer.unobserve(this.#end);
    this.observer.observe(this.#end);
  }

  #showFailure(error) {
    const again = () => this.#load(() => (this.pages.loaded ? this.pages.reload() : this.pages.more()));
    const retry = textButton(t('notice.retry'), again);
    this.#end.replaceChildren(el('p', { class: 'parley-empty', role: 'alert' }, error.message), retry);
  }

  #render() {
    const { items, show, filter } = this.pages;
    const focused = this.#rowAt(document.activeElement);
    const place = [...this.#rows.keys()].indexOf(focused?.id);
    const part = document.activeElement;
    this.#updateRows(items);
    this.#arrangeRows(groupByDay(items));
    const isEmpty = items.length === 0;
    const reason = Object.keys(filter).length ? 'filtered' : show;
    this.#end.replaceChildren(...(isEmpty ? [el('p', { class: 'parley-empty' }, t(`sidebar.empty.${reason}`))] : []));
    if (focused) this.#keepFocus(focused, part, place);
    if (!this.#rows.has(this.#tabStop)) this.#moveTabStop(this.#rows.values().next().value);
    this.selection?.keepOnly(this.ids);
    this.showSelected();
  }

  // The rows are kept in the order of the list.
  #updateRows(items) {
    const before = this.#rows;
    this.#rows = new Map();
    for (const conversation of items) {
      const row = before.get(conversation.id) ?? new ConversationRow(conversation);
      row.update(conversation);
      row.isOpen = row.id === this.#openId;
      this.#rows.set(row.id, row);
    }
    for (const [id, row] of before) if (!this.#rows.has(id)) row.element.remove();
  }

  #arrangeRows(groups) {
    const sections = [...groups.keys()].map((name) => this.#section(name));
    arrange(this.#groups, sections.map(({ section }) => section));
    for (const { name, list } of sections) {
      arrange(list, groups.get(name).map(({ id }) => this.#rows.get(id).element));
    }
    for (const [name, { section }] of this.#sections) {
      if (groups.has(name)) continue;
      section.remove();
      this.#sections.delete(name);
    }
  }

  #section(name) {
    if (!this.#sections.has(name)) {
      const list = el('ul', { ariaLabel: name });
      const heading = el('h3', { class: 'parley-heading' }, name);
      this.#sections.set(name, { name, list, section: el('section', {}, heading, list) });
    }
    return this.#sections.get(name);
  }

  // What had the focus gets it back; if its row is gone, the row that is in its place now.
  #keepFocus(row, part, place) {
    if (part === document.activeElement) return;
    if (this.#rows.has(row.id)) {
      part.focus();
      return;
    }
    const rows = [...this.#rows.values()];
    rows[Math.min(place, rows.length - 1)]?.link.focus();
  }

  #moveTabStop(row) {
    const before = this.#rows.get(this.#tabStop);
    if (!row || (row === before && row.link.tabIndex === 0)) return;
    if (before) before.isTabStop = false;
    row.isTabStop = true;
    this.#tabStop = row.id;
  }

  #rowAt(node) {
    return this.#rows.get(node?.closest?.('.parley-list .parley-row')?.dataset.id);
  }

  #click(event) {
    const row = this.#rowAt(event.target);
    if (!row || event.target.closest('.parley-ask')) return;
    if (event.target.closest('.parley-row-more')) {
      this.commands.menu(row);
    } else if (this.selection) {
      if (event.target !== row.box) event.preventDefault();
      this.#toggle(row, event.shiftKey);
    } else if (!event.ctrlKey && !event.metaKey && !event.shiftKey) { // those open a link in another tab or window
      event.preventDefault();
      this.commands.open(row.conversation);
    }
  }

  #toggle(row, isRange) {
    this.selection.toggle(row.id, isRange, this.ids);
    row.link.focus();
    this.showSelected();
  }

  #key(event) {
    const row = this.#rowAt(event.target);
    if (!row || event.target !== row.link) return;
    if (moveFocus(event, [...this.#rows.values()].map(({ link }) => link))) return;
    const command = this.#commandOf(event);
    if (!command) return;
    event.preventDefault();
    command(row);
  }

  #commandOf({ key, shiftKey }) {
    if (this.selection) return key === ' ' ? (row) => this.#toggle(row, shiftKey) : null;
    return { F2: this.commands.rename, Delete: this.commands.remove }[key];
  }
}
