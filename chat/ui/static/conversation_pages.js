// The conversations of one view that have been loaded so far, in the order of the server.

import { api } from './api.js';

const PAGE = 50;
const MAX_PAGE = 200;

/** The loaded conversations of a view: `recent`, `archived` or `trashed`, and of those what a filter's query leaves. */
export class ConversationPages {
  #waiting = Promise.resolve();
  #reload = null; // one that has not begun yet serves all who ask for one

  constructor(show, filter) {
    this.show = show;
    this.filter = filter;
    this.items = [];
    this.next = null; // where the next page begins; null when there is none
    this.loaded = false;
  }

  /** The ids of all that are loaded. */
  get ids() {
    return this.items.map(({ id }) => id);
  }

  /** Load one more page. */
  more() {
    return this.#afterOthers(async () => {
      if (this.loaded && this.next === null) return;
      const page = await this.#fetch(PAGE, this.next);
      const known = new Set(this.ids);
      this.#take([...this.items, ...page.conversations.filter(({ id }) => !known.has(id))], page.next);
    });
  }

  /** Load anew what is loaded. */
  reload() {
    this.#reload ??= this.#afterOthers(async () => {
      this.#reload = null;
      const wanted = Math.max(this.items.length, PAGE);
      const items = [];
      let next = null;
      do {
        const page = await this.#fetch(Math.min(wanted - items.length, MAX_PAGE), next);
        items.push(...page.conversations);
        next = page.next;
      } while (next !== null && items.length < wanted);
      this.#take(items, next);
    });
    return this.#reload;
  }

  #take(items, next) {
    this.items = items;
    this.next = next;
    this.loaded = true;
  }

  #fetch(limit, after) {
    const query = new URLSearchParams({ show: this.show, limit, ...this.filter });
    if (after !== null) query.set('after', after);
    return api('GET', `/api/conversations?${query}`);
  }

  /** Run jobs one after the other: pages that are added while others are replaced would be mixed up. */
  #afterOthers(job) {
    const done = this.#waiting.then(job);
    this.#waiting = done.catch(() => {}); // whoever asked for the job hears of its failure
    return done;
  }
}
