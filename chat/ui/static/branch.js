// The branch of messages that is shown, and the text that its last reply has grown to.

import { GrowingText } from './growing_text.js';

/** Puts together what was read of a branch and what the stream tells of the reply being written. */
export class Branch {
  messages = [];
  running = null; // the id of the reply that is being written
  #growing = new GrowingText();
  #ended = null; // the last reply that ended: messages read before may say that it is still being written

  /** Show no message. */
  clear() {
    this.show([]);
  }

  /** Show messages as they were read. */
  show(messages) {
    this.messages = messages.map((message) => this.#newest(message));
    this.running = this.messages.find(({ status }) => status === 'streaming')?.id ?? null;
    if (!this.running) this.#growing.begin();
  }

  /** Add a piece of text that ends at a place; tells whether what comes before it is known. */
  add(id, piece, end) {
    if (!this.#growing.add(id, piece, end)) return false;
    const message = this.messages.find((one) => one.id === id);
    if (message) message.content = this.#growing.text; // else it is on its way, and will begin with this text
    return true;
  }

  /** Put a reply that has ended in its place. */
  end(message) {
    this.#ended = message;
    this.show(this.messages.map((one) => (one.id === message.id ? message : one)));
  }

  /** The message of which more text is to come, and how much of it is here; null for none. */
  get place() {
    const { id, length } = this.#growing;
    return id && { message_id: id, offset: length };
  }

  #newest(message) {
    if (message.status !== 'streaming') return message;
    if (message.id === this.#ended?.id) return this.#ended;
    return { ...message, content: this.#growing.atLeast(message.id, message.content) };
  }
}
