// <parley-sidebar>: begins chats, finds them, lists them, and keeps them in order.

import { ConversationList } from './conversation_list.js';
import { titleOf } from './conversation_row.js';
import { ConversationSearch } from './conversation_search.js';
import { el, icon, iconButton, textButton } from './dom.js';
import { askDeletion } from './inline_question.js';
import { openMenu } from './row_menu.js';
import { selectionBar } from './selection.js';
import { session } from './session.js';
import { SiteFilter } from './site_filter.js';
import { t } from './texts.js';

const VIEWS = ['recent', 'archived', 'trashed'];

class Sidebar extends HTMLElement {
  #view = null;
  #isSearching = false;
  #listening = null;
  #bar = null; // what can be done with the selected ones
  #list = new ConversationList({
    open: (conversation) => session.open(conversation.id),
    rename: (row) => this.#rename(row),
    remove: (row) => this.#remove(row),
    menu: (row) => openMenu(row.more, t('sidebar.options', { title: titleOf(row.conversation) }), this.#menuOf(row)),
    changed: () => this.#showState(),
  });
  #filter = new SiteFilter({
    changed: () => this.#showFiltered(),
    named: () => this.#list.refresh(),
  });
  #search = new ConversationSearch({
    open: (id, messageId) => session.open(id, { messageId }),
    changed: (isSearching) => this.#setSearching(isSearching),
    leave: () => this.#list.focus(),
  });

  connectedCallback() {
    if (!this.#view) this.#build();
    this.#listen();
    this.#show(this.#view ?? 'recent');
    this.#showOpen();
    session.begin();
  }

  disconnectedCallback() {
    this.#listening.abort();
  }

  #build() {
    const newChat = el('button', { type: 'button', class: 'parley-new-chat', on: { click: () => session.startNew() } },
      icon('compose'), t('chat.new'));
    this.temporary = iconButton('temporary', t('chat.temporary'), () => session.startNew({ temporary: true }));
    this.views = VIEWS.map((view) => textButton(t(`sidebar.view.${view}`), () => this.#show(view)));
    this.selecting = iconButton('select', t('sidebar.select'), () => this.#select(!this.#list.selection));
    const emptyTrash = textButton(t('sidebar.emptyTrash'), () => this.#emptyTrash());
    this.trash = el('div', { class: 'parley-trash', hidden: true }, emptyTrash);
    this.tools = el('div', { class: 'parley-views' }, this.#filter.element,
      el('div', { role: 'group', ariaLabel: t('sidebar.views') }, ...this.views), this.selecting);
    const lists = el('nav', { class: 'parley-scroll', ariaLabel: t('sidebar.conversations') },
      this.#search.results, this.#list.element);
    this.foot = el('div', { class: 'parley-foot' });
    this.append(el('div', { class: 'parley-begin' }, newChat, this.temporary), this.#search.form, this.tools,
      this.trash, lists, this.foot);
    this.#list.watch();
  }

  #listen() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    session.addEventListener('conversation', () => this.#showOpen(), { signal });
    session.addEventListener('list', () => this.#list.refresh(), { signal });
    document.addEventListener('visibilitychange', () => this.#showNewDay(), { signal });
    this.#filter.listen(signal);
  }

  #showNewDay() {
    if (!document.hidden) this.#list.refresh();
  }

  #show(view) {
    this.#view = view;
    this.views.forEach((button, i) => (button.ariaPressed = String(VIEWS[i] === view)));
    return this.#list.show(view, this.#filter.query);
  }

  #showFiltered() {
    this.#search.clear();
    return this.#show(this.#view);
  }

  #showOpen() {
    this.#list.openId = session.temporary ? null : (session.conversation?.id ?? null);
    this.temporary.ariaPressed = String(session.temporary);
  }

  #setSearching(isSearching) {
    this.#isSearching = isSearching;
    this.#list.select(false);
    this.tools.hidden = this.#list.element.hidden = isSearching;
    this.#showState();
  }

  // Called whenever what is listed or selected has changed.
  #showState() {
    const { selection, ids } = this.#list;
    this.trash.hidden = this.#isSearching || this.#view !== 'trashed' || ids.length === 0;
    this.selecting.ariaPressed = String(selection !== null);
    if (selection) this.#bar?.update(selection.ids.size, ids.length);
    else this.foot.replaceChildren();
  }

  // What is done with one conversation.

  #menuOf(row) {
    const ids = [row.id];
    const { pinned } = row.conversation;
    const remove = (key) => ({ label: t(key), run: () => this.#remove(row), isDangerous: true });
    if (this.#view === 'trashed') {
      return [{ label: t('sidebar.restore'), run: () => this.#after(session.restore(ids)) }, remove('sidebar.erase')];
    }
    return [
      { label: t('sidebar.rename'), run: () => this.#rename(row) },
      { label: t(pinned ? 'message.unpin' : 'message.pin'), run: () => this.#pin(ids, !pinned) },
      { label: t(`sidebar.archive.${this.#view}`), run: () => this.#archive(ids) },
      { label: t('sidebar.export'), run: () => this.#export(ids) },
      remove('message.delete'),
    ];
  }

  async #rename(row) {
    if (this.#view === 'trashed') return;
    const title = await row.askTitle();
    if (title) await this.#after(session.changeAll([row.id], { title }));
  }

  async #remove(row) {
    if (this.#view !== 'trashed') await this.#after(session.trash([row.id]));
    else await this.#erase(row.element, t('sidebar.eraseAsk', { count: 1 }), [row.id]);
  }

  // What is done with one or many.

  #pin(ids, pinned) {
    return this.#after(session.changeAll(ids, { pinned }));
  }

  #archive(ids) {
    return this.#after(session.archive(ids, this.#view === 'recent'));
  }

  async #erase(place, question, ids) {
    if (await askDeletion(place, question)) await this.#after(session.erase(ids));
  }

  #export(ids) {
    this.dispatchEvent(new CustomEvent('parley:export', { bubbles: true, detail: { ids } }));
  }

  async #emptyTrash() {
    if (!(await askDeletion(this.trash, t('sidebar.emptyTrashAsk')))) return;
    await this.#after(session.emptyTrash());
  }

  async #after(change) {
    await change;
    await this.#list.refresh();
    if (this.#list.selection?.ids.size === 0) this.#select(false);
  }

  // Selecting many.

  #select(isSelecting) {
    this.#bar = isSelecting ? this.#newBar() : null;
    this.#list.select(isSelecting);
    if (isSelecting) this.#list.focus();
    else this.selecting.focus();
  }

  #newBar() {
    const bar = selectionBar(this.#actions(), {
      toggleAll: () => this.#toggleAll(),
      end: () => this.#select(false),
    });
    this.foot.replaceChildren(bar.element);
    return bar;
  }

  #toggleAll() {
    this.#list.selection.toggleAll(this.#list.ids);
    this.#list.showSelected();
  }

  #actions() {
    const action = (name, key, run) => ({ icon: name, label: t(key), run: () => run([...this.#list.selection.ids]) });
    const remove = (key, run) => ({ ...action('delete', key, run), isDangerous: true });
    if (this.#view === 'trashed') {
      const erase = (ids) => this.#erase(this.foot, t('sidebar.eraseAsk', { count: ids.length }), ids);
      const restore = (ids) => this.#after(session.restore(ids));
      return [action('restore', 'sidebar.restore', restore), remove('sidebar.erase', erase)];
    }
    return [
      action('pin', 'message.pin', (ids) => this.#pin(ids, true)),
      action('archive', `sidebar.archive.${this.#view}`, (ids) => this.#archive(ids)),
      action('export', 'sidebar.export', (ids) => this.#export(ids)),
      remove('message.delete', (ids) => this.#after(session.trash(ids))),
    ];
  }
}

customElements.define('parley-sidebar', Sidebar);
