// What a screen reader hears of a growing reply: whole sentences, not every token.

import { el } from './element.js';

const SENTENCES = /^[\s\S]*(?:[.!?…。！？](?=\s)|\n)/;
const MARKS = /[*_`#>|]+/g; // of Markdown
const MOST_KEPT = 4;

/** A region that nobody sees and that is read out. */
export class SpokenReply {
  #id = null;
  #length = 0;
  #finished;
  element = el('div', { class: 'parley-spoken', 'aria-live': 'polite', role: 'log' });

  /** `finished` is said at the end of a reply. */
  constructor(finished) {
    this.#finished = finished;
  }

  /** Say the sentences that are finished by now. */
  grow(id, text) {
    if (id !== this.#id) {
      this.#id = id;
      this.#length = 0;
    }
    const [finished] = text.slice(this.#length).match(SENTENCES) ?? [''];
    this.#length += finished.length;
    this.#say(finished);
  }

  /** Say what is left of a reply, and that it is finished. */
  end({ id, content, error }) {
    if (id === this.#id) this.#say(content.slice(this.#length));
    this.#id = null;
    this.#say(error ?? this.#finished);
  }

  #say(text) {
    const plain = text.replace(MARKS, '').trim();
    if (!plain) return;
    this.element.append(el('p', { textContent: plain }));
    while (this.element.children.length > MOST_KEPT) this.element.firstChild.remove();
  }
}
