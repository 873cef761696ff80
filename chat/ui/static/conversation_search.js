// The search in all conversations: a field, filters, and what is found, under the conversations it is in.

import { api } from './api.js';
import { formatDay, startOfDay } from './day_groups.js';
import { el, icon, textButton } from './dom.js';
import { moveFocus } from './sidebar_parts.js';
import { t } from './texts.js';

const PAUSE = 150; // milliseconds without a key before a search begins
const PAGE = 50;

/** The search; `open(id, messageId)` is called for what is chosen, `changed(isSearching)` as the field is used. */
export class ConversationSearch {
  #hits = [];
  #asked = 0; // how many searches have been asked for: only the answer to the last one counts
  #timer = null;

  constructor({ open, changed, leave }) {
    this.open = open;
    this.changed = changed;
    this.leave = leave;
    this.field = el('input', { type: 'search', class: 'parley-field', dir: 'auto', autocomplete: 'off',
      placeholder: t('sidebar.search'), ariaLabel: t('sidebar.search') });
    this.filters = filterForm();
    this.status = el('p', { class: 'parley-empty', role: 'status' });
    this.list = el('div', { class: 'parley-hits' });
    this.end = el('div', { class: 'parley-list-end' });
    this.form = el('div', { class: 'parley-search', role: 'search' },
      el('div', { class: 'parley-search-field' }, icon('search'), this.field), this.filters);
    this.results = el('div', { class: 'parley-results', hidden: true }, this.status, this.list, this.end);
    this.#listen();
    this.filters.hidden = true;
  }

  /** Empty the field and leave the search. */
  clear() {
    this.field.value = '';
    this.#ask();
  }

  #listen() {
    this.field.addEventListener('input', () => this.#ask());
    this.filters.addEventListener('change', () => this.#ask());
    this.field.addEventListener('keydown', (event) => this.#fieldKey(event));
    this.results.addEventListener('keydown', (event) => this.#resultKey(event));
    this.list.addEventListener('click', (event) => this.#click(event));
  }

  #ask() {
    clearTimeout(this.#timer);
    const isSearching = this.field.value.trim() !== '';
    this.#asked += 1;
    if (isSearching) this.#timer = setTimeout(() => this.#search(0), PAUSE);
    this.filters.hidden = this.results.hidden = !isSearching;
    this.changed(isSearching);
  }

  async #search(offset) {
    const asked = ++this.#asked;
    try {
      const { hits } = await api('GET', `/api/search?${this.#query(offset)}`);
      if (asked !== this.#asked) return;
      this.#hits = [...this.#hits.slice(0, offset), ...hits];
      this.#show(hits.length === PAGE);
    } catch (error) {
      if (asked !== this.#asked) return;
      this.status.textContent = error.message;
      this.end.replaceChildren(textButton(t('notice.retry'), () => this.#search(offset)));
    }
  }

  #query(offset) {
    const query = new URLSearchParams({ q: this.field.value.trim(), limit: PAGE, offset });
    for (const { name, type, value } of this.filters.querySelectorAll('[name]')) {
      if (value) query.set(name, type === 'date' ? startOfDay(value, name === 'until' ? 1 : 0).toISOString() : value);
    }
    return query;
  }

  #show(areMore) {
    const groups = Map.groupBy(this.#hits, (hit) => hit.conversation_id);
    if (this.#hits.length <= PAGE) this.results.parentElement.scrollTop = 0;
    this.list.replaceChildren(...[...groups.values()].map(groupElement));
    const count = this.#hits.length;
    const found = areMore ? 'sidebar.foundMore' : 'sidebar.found';
    this.status.textContent = t(count ? found : 'sidebar.foundNothing', { count });
    const more = () => this.#search(count);
    this.end.replaceChildren(...(areMore ? [textButton(t('sidebar.more'), more)] : []));
  }

  #links() {
    return [...this.list.querySelectorAll('a')];
  }

  #fieldKey(event) {
    if (event.key === 'Escape' && this.field.value) {
      event.preventDefault();
      this.clear();
    } else if (event.key === 'ArrowDown') {
      event.preventDefault();
      if (this.results.hidden) this.leave();
      else this.#links()[0]?.focus();
    }
  }

  #resultKey(event) {
    const links = this.#links();
    if (event.key === 'Escape' || (event.key === 'ArrowUp' && document.activeElement === links[0])) {
      event.preventDefault();
      this.field.focus();
    } else {
      moveFocus(event, links);
    }
  }

  #click(event) {
    const link = event.target.closest('a');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.open(link.dataset.conversation, link.dataset.message);
  }
}

const filterForm = () => el('details', { class: 'parley-filters' }, el('summary', {}, t('sidebar.filters')),
  el('div', {},
    choice('role', [['', 'sidebar.anyone'], ['user', 'message.you'], ['assistant', 'message.assistant']]),
    choice('rating', [['', 'sidebar.anyRating'], ['1', 'sidebar.good'], ['-1', 'sidebar.bad']]),
    day('since'),
    day('until'),
    choice('channel', [['', 'sidebar.all'], ['ui', 'sidebar.here'], ['widget', 'sidebar.widget']])));

const choice = (name, options) => labelled(name, el('select', { name },
  ...options.map(([value, key]) => el('option', { value }, t(key)))));

const day = (name) => labelled(name, el('input', { type: 'date', name }));

const labelled = (name, control) => el('label', {}, el('span', {}, t(`sidebar.filter.${name}`)), control);

const groupElement = (hits) => {
  const [{ conversation_id: id, title }] = hits;
  const messages = hits.filter((hit) => hit.message_id);
  const ofTitle = hits.find((hit) => !hit.message_id);
  const name = ofTitle ? marked(ofTitle.snippet) : [title || t('chat.untitled')];
  return el('section', {},
    el('h3', { class: 'parley-hit-title' }, link(id, null, el('span', { dir: 'auto', title: title ?? '' }, ...name))),
    el('ul', {}, ...messages.map((hit) => hitElement(id, hit))));
};

const hitElement = (id, { message_id: messageId, role, created_at: at, snippet }) => {
  const who = t(role === 'user' ? 'message.you' : 'message.assistant');
  return el('li', {}, link(id, messageId,
    el('span', { class: 'parley-hit-about' }, `${who} · ${formatDay(new Date(at))}`),
    el('span', { class: 'parley-hit-text', dir: 'auto' }, ...marked(snippet))));
};

const link = (id, messageId, ...children) => {
  const made = el('a', { class: 'parley-hit', href: `?c=${encodeURIComponent(id)}` }, ...children);
  made.dataset.conversation = id;
  if (messageId) made.dataset.message = messageId;
  return made;
};

const marked = (snippet) => snippet.map(([text, isMatch]) => (isMatch ? el('mark', {}, text) : text));
