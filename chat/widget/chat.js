// The chat of one visitor: what is shown, what is being written, and what goes wrong.

import { GrowingText } from '/page/growing_text.js';
import { Panel } from './panel.js';
import { Refusal, Visitor } from './visitor.js';
import { t, when } from './words.js';

const FIRST_WAIT = 500; // milliseconds
const LONGEST_WAIT = 8000;
const BUSY_SECONDS = 5;
const ENDINGS = { markdown: 'md', text: 'txt', json: 'json' };

const textOf = ({ status, code, seconds }) => {
  if (status === 0) return t('offline');
  if (code === 'wrong_hash') return t('unverified');
  if (code === 'conversation_busy') return t('another');
  if (status === 403) return t('off');
  if (status === 404) return t('gone');
  if (code?.endsWith('_too_long')) return t('long');
  if (status === 429) return t('later', { when: when(seconds) });
  if (status === 503) return t('busy', { when: when(seconds ?? BUSY_SECONDS) });
  return t('failed');
};

// What randomUUID needs is a page over https.
const newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('');

const pause = (milliseconds, signal) => new Promise((resolve) => {
  setTimeout(resolve, milliseconds);
  addEventListener('online', resolve, { once: true, signal });
});

/** Keeps the panel and the server together, and hears what the page wants. */
export class Chat {
  shown = Promise.resolve(); // once there is what a message would follow
  #visitor;
  #tell;
  #panel;
  #isOpen = false;
  #isSending = false;
  #wasOpened = false;
  #attempt = null; // the message that may not have come to the server
  #growing = new GrowingText();
  #last = ''; // of what is shown, to see whether it is still so
  #view = new AbortController(); // ends what belongs to a conversation that is shown no more

  /** What the page may ask for, by the name of its message. */
  heard = {
    opened: (isAsked) => this.#open(isAsked),
    closed: () => {
      this.#isOpen = false;
    },
    send: (text) => this.shown.then(() => this.send(text)),
    new: () => this.startNew(),
    user: (id, hash) => {
      this.shown = this.#become(id, hash);
    },
  };

  /** `tell(name, ...values)` sends a message to the page. */
  constructor({ site, origin, tell, ...shown }) {
    this.#visitor = new Visitor(site, origin);
    this.#tell = tell;
    this.#panel = new Panel(this, shown);
    document.addEventListener('visibilitychange', () => document.hidden || this.#refresh());
  }

  /** Whether a message or the reply to one is on its way. */
  get isBusy() {
    return this.#isSending || this.#growing.id !== null;
  }

  /** Hide the chat. */
  close() {
    this.#tell('show', false);
  }

  /** Send a message; tells whether it has been stored. */
  async send(text) {
    if (!text.trim()) return false;
    if (this.isBusy) {
      this.#panel.putBack(text);
      return false;
    }
    const { signal } = this.#view;
    if (this.#attempt?.text !== text) this.#attempt = { text, key: newKey() };
    this.#isSending = true;
    this.#panel.expect(text);
    const sent = await this.#try(() => this.#post(this.#attempt), { again: () => this.#panel.resend() });
    if (signal.aborted) return true;
    this.#isSending = false;
    if (!sent) this.#panel.takeBack(text);
    else this.#begin(sent);
    return sent !== null;
  }

  /** Stop the reply that is being written. */
  async stop() {
    await this.#try(() => this.#visitor.call(`conversations/${this.#visitor.conversation}/stop`, { method: 'POST' }));
  }

  /** Begin a new conversation. */
  startNew() {
    if (this.#growing.id) this.stop();
    this.#show(null, []);
    this.#panel.focus();
  }

  /** Show a conversation; `gone()` is called if there is none, else that is told. */
  read(id, gone = null) {
    this.shown = this.#read(id, gone);
    return this.shown;
  }

  async #read(id, gone) {
    const { signal } = this.#leave();
    const path = await this.#try(() => this.#get(`conversations/${id}`), { again: () => this.read(id, gone), gone });
    if (path && !signal.aborted) this.#show(id, path.messages);
  }

  /** Return the visitor's conversations, the newest first. */
  async list() {
    const found = await this.#try(() => this.#get('conversations'));
    return found?.conversations ?? [];
  }

  /** Keep what the visitor thinks of a reply; tells whether that went well. */
  async rate(id, rating) {
    return (await this.#try(() => this.#visitor.send('PUT', `messages/${id}/rating`, { rating }))) !== null;
  }

  /** Hand the conversation to the visitor as a file. */
  async save(format) {
    const path = `conversations/${this.#visitor.conversation}/export?format=${format}`;
    const blob = await this.#try(async () => (await this.#visitor.call(path)).blob());
    if (!blob) return;
    const url = URL.createObjectURL(blob);
    Object.assign(document.createElement('a'), { href: url, download: `chat.${ENDINGS[format]}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  }

  #open(isAsked) {
    this.#isOpen = true;
    if (isAsked) this.#panel.focus();
    if (this.#wasOpened) this.#refresh();
    else this.shown = this.#recall();
    this.#wasOpened = true;
  }

  async #recall() {
    const { conversation } = this.#visitor;
    const showNone = () => this.#show(null, []);
    if (conversation) await this.read(conversation, showNone);
    else showNone();
  }

  async #become(id, hash) {
    this.#wasOpened = true; // what there was of somebody else is not recalled
    this.#leave();
    this.#panel.show([]);
    const user = id === null ? null : { id: String(id), hash: String(hash) };
    const isKnown = await this.#try(() => this.#visitor.identify(user), { again: () => this.#become(id, hash) });
    if (isKnown) await this.#recall();
  }

  // Another tab may have gone on with the conversation.
  async #refresh() {
    const { conversation } = this.#visitor;
    if (!this.#isOpen || !conversation || this.isBusy) return;
    const { signal } = this.#view;
    const path = await this.#try(() => this.#get(`conversations/${conversation}`));
    const isNews = path && this.#last !== lastOf(path.messages);
    if (isNews && !signal.aborted && !this.isBusy) this.#show(conversation, path.messages);
  }

  async #get(path) {
    return (await this.#visitor.call(path)).json();
  }

  async #post({ text, key }) {
    const message = { conversation_id: this.#visitor.conversation, content: text, idempotency_key: key };
    return (await this.#visitor.send('POST', 'messages', message)).json();
  }

  /** Do what may be refused, and return what comes of it; null if it is, which the visitor is told if `gone` is not. */
  async #try(act, { again = null, gone = null } = {}) {
    const { signal } = this.#view;
    try {
      const result = (await act()) ?? true;
      if (!signal.aborted) this.#panel.report('');
      return result;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (signal.aborted) return null;
      if (gone && error.status === 404) gone();
      else this.#report(error, again);
      return null;
    }
  }

  #report(refusal, again = null) {
    const { status, code, seconds } = refusal;
    this.#tell('fire', 'error', { code, seconds });
    if (status === 404) this.#panel.report(textOf(refusal), t('new'), () => this.startNew());
    else if (status === 0 && again) this.#panel.report(textOf(refusal), t('again'), again);
    else this.#panel.report(textOf(refusal));
  }

  /** Leave what is shown; what still comes of it is not seen any more. */
  #leave() {
    this.#view.abort();
    this.#view = new AbortController();
    this.#growing.begin();
    this.#isSending = false;
    this.#panel.report('');
    return this.#view;
  }

  #show(id, messages) {
    this.#leave();
    this.#attempt = null;
    this.shown = Promise.resolve();
    this.#visitor.conversation = id;
    this.#last = lastOf(messages);
    this.#panel.show(messages);
    if (messages.at(-1)?.status === 'streaming') this.#follow(messages.at(-1));
  }

  #begin({ conversation_id: conversation, messages }) {
    this.#attempt = null;
    this.#visitor.conversation = conversation;
    this.#panel.began(messages);
    this.#last = lastOf(messages);
    this.#announce(messages[0]);
    if (messages.at(-1).status === 'streaming') this.#follow(messages.at(-1));
  }

  #announce({ id, role }) {
    this.#tell('fire', 'message', { id, role, conversation: this.#visitor.conversation });
  }

  /** Hear how a reply grows until it has ended, however often the connection is lost. */
  async #follow({ id, content }) {
    const { signal } = this.#view;
    this.#growing.begin(id, content);
    this.#panel.grow(id, content);
    for (let wait = FIRST_WAIT; this.#growing.id && !signal.aborted; wait = Math.min(wait * 2, LONGEST_WAIT)) {
      try {
        await this.#listen(id, signal, () => {
          wait = FIRST_WAIT;
        });
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Refusal)) throw error;
        if ([401, 403, 404].includes(error.status)) return this.#lose(error);
      }
      if (!this.#growing.id || signal.aborted) return;
      this.#panel.lose(true);
      await pause(wait, signal);
    }
  }

  async #listen(id, signal, onWord) {
    const known = `${id}:${this.#growing.length}`;
    for await (const event of this.#visitor.events(this.#visitor.conversation, known, signal)) {
      if (signal.aborted) return;
      onWord();
      this.#panel.lose(false);
      if (event.name === 'gone') throw new Refusal(404, 'conversation_not_found');
      if (event.name === 'progress' && event.data.message_id === id) this.#panel.wait(event.data.progress);
      if (event.name === 'text' && event.data.message_id === id && !this.#grow(event)) return;
      if (event.name === 'end' && event.data.id === id) return this.#finish(event.data);
    }
  }

  #grow({ id, data }) {
    const isKnown = this.#growing.add(data.message_id, data.text, Number(id.split(':').at(-1)));
    if (isKnown) this.#panel.grow(data.message_id, this.#growing.text);
    return isKnown;
  }

  #finish(reply) {
    this.#growing.begin();
    this.#last = lastOf([reply]);
    this.#panel.finish(reply);
    this.#announce(reply);
    if (!this.#isOpen) this.#tell('unread');
  }

  #lose(refusal) {
    this.#growing.begin();
    this.#panel.lose(false);
    this.#panel.settle();
    this.#report(refusal);
  }
}

const lastOf = (messages) => `${messages.at(-1)?.id} ${messages.at(-1)?.status}`;
