// Sending of messages: each one once, however often it has to be tried.

import { api } from './api.js';

/** Knows the message whose sending the server has not answered yet. */
export class Sending {
  #session;
  #shown;
  #attempt = null;
  #isBusy = false;

  /**
   * `shown.refresh()` reads what is shown again; `shown.expect(conversation)` has the stream tell of a conversation that
   * is new, before its first message is sent and the engine has no time for it; `shown.adopt(path)` shows it.
   */
  constructor(session, shown) {
    this.#session = session;
    this.#shown = shown;
  }

  /** Send a message; tells whether it has been stored now, raises ApiError if not. */
  async send(text) {
    if (this.#isBusy) return false;
    this.#isBusy = true;
    try {
      return await this.#send(this.#attemptOf(text));
    } finally {
      this.#isBusy = false;
    }
  }

  /** Take note that something else is shown: a message whose answer is missing is not tried again. */
  forget() {
    this.#attempt = null;
  }

  /** Look for the message whose answer is missing among those that are stored: the answer alone may be lost. */
  settle(messages) {
    const attempt = this.#attempt;
    const isIt = ({ role, parent_id, content }) =>
      role === 'user' && parent_id === attempt.seen && content.trim() === attempt.text.trim();
    if (attempt && messages.some(isIt)) this.#done(attempt);
  }

  #attemptOf(text) {
    if (this.#attempt?.text !== text) {
      this.#attempt = {
        text,
        key: crypto.randomUUID(),
        root: this.#session.root,
        view: this.#session.view,
        seen: this.#session.messages.at(-1)?.id ?? null,
        shown: this.#session.conversation?.id ?? null,
        created: this.#attempt?.created ?? null, // by an attempt whose text has been changed since
      };
    }
    return this.#attempt;
  }

  async #send(attempt) {
    let messages;
    try {
      messages = await this.#post(attempt);
    } catch (error) {
      if (error.status === 0) throw error;
      // A busy engine, for one, refuses when the message is stored already: then it counts as sent.
      if (await this.#isStored(attempt)) return true;
      this.forget();
      throw error;
    }
    this.#done(attempt);
    if (attempt.view === this.#session.view) await this.#show(attempt, messages);
    return true;
  }

  async #post(attempt) {
    const { root, shown, text, seen, key } = attempt;
    if (!shown) await this.#begin(attempt);
    const sent = await api('POST', `${root}/conversations/${shown ?? attempt.created.id}/messages`, {
      content: text,
      params: this.#session.params,
      seen_leaf_id: seen,
      idempotency_key: key,
    });
    return sent.messages;
  }

  async #begin(attempt) {
    attempt.created ??= await api('POST', `${attempt.root}/conversations`, this.#session.newChat);
    if (attempt.view === this.#session.view) await this.#shown.expect(attempt.created);
  }

  async #isStored(attempt) {
    if (attempt.view !== this.#session.view) return false;
    if (attempt.created) await this.#adoptOrErase(attempt);
    else await this.#shown.refresh();
    return this.#attempt !== attempt;
  }

  async #adoptOrErase({ root, created }) {
    const url = `${root}/conversations/${created.id}`;
    const path = await api('GET', `${url}/messages`);
    if (path.messages.length) this.#shown.adopt(path);
    else await api('DELETE', url);
  }

  #done(attempt) {
    this.#attempt = null;
    this.#session.dispatchEvent(new CustomEvent('sent', { detail: { conversation_id: attempt.shown } }));
  }

  async #show({ created }, messages) {
    if (created) this.#shown.adopt({ conversation: created, messages });
    else await this.#shown.refresh();
  }
}
