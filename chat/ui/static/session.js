// What this page shows, and all that it asks the server to do with conversations and messages.

import { idInAddress, writeAddress } from './address.js';
import { api, ApiError, rootFor } from './api.js';
import { Branch } from './branch.js';
import { ConversationChanges } from './conversation_changes.js';
import { Sending } from './sending.js';
import { Stream } from './stream.js';
import { t } from './texts.js';

/**
 * The state of the page. It tells of changes by events: `conversation`, `messages`, `text`, `progress`, `ended`,
 * `sent`, `reveal`, `list`, `connection`, `model`, `notice`. What goes wrong becomes a `notice`: methods do not reject.
 */
class Session extends EventTarget {
  conversation = null;
  temporary = false;
  progress = null; // what goes on before the first words of the reply
  connected = true;
  model = null;
  params = {}; // sampling parameters that are to differ from the model's own
  view = 0; // grows whenever something else is shown: what comes late for the one before is dropped
  newChat = { preset: null, system_prompt: null, recap: false }; // how the next conversation begins

  #stream = null;
  #branch = new Branch();
  #opening = 0; // grows with every conversation that is asked for: only the last one is opened
  #asked = 0; // grows with every request for the path: only the answer to the last one counts
  #listVersion = null; // that was told last: the server tells when there is another one
  #isFresh = false; // the path has been read just before the stream was opened
  #expected = null; // a conversation whose first message is being sent: the stream tells of it already
  #sending = new Sending(this, {
    refresh: () => this.#refresh(), expect: (conversation) => this.#expect(conversation), adopt: (path) => this.#adopt(path),
  });

  #changes = new ConversationChanges(
    (call) => this.#act(call).finally(() => this.#tell('list')), // the stream of a temporary chat does not tell of it
    (...notice) => this.#notify(...notice));

  #listeners = {
    conversation: (conversation) => this.#onConversation(conversation),
    gone: ({ id }) => id === this.conversation?.id && this.#showInstead(t('session.gone')),
    list: ({ version }) => this.#tell('list', { version: (this.#listVersion = version) }),
    text: (piece, id) => this.#onText(piece, id),
    progress: (progress) => this.#onProgress(progress),
    end: (message) => this.#onEnd(message),
    model: (model) => this.#tell('model', { model: (this.model = model) }),
  };

  /** The messages of the branch that is shown, root first. */
  get messages() {
    return this.#branch.messages;
  }

  /** The id of the reply that is being written, null for none. */
  get running() {
    return this.#branch.running;
  }

  /** Where the routes for what is shown are. */
  get root() {
    return rootFor(this.temporary);
  }

  get #conversationUrl() {
    return `${this.root}/conversations/${this.conversation.id}`;
  }

  #messageUrl(id) {
    return `${this.root}/messages/${id}`;
  }

  /** Begin with the conversation that the URL names; nothing happens if the page has begun. */
  begin() {
    if (this.#stream) return;
    this.#stream = new Stream({
      url: () => this.#streamUrl(),
      listeners: this.#listeners,
      onOpen: (isBack) => this.#onOpen(isBack),
      onLost: () => this.#setConnected(false),
    });
    addEventListener('popstate', () => this.#followUrl());
    addEventListener('pagehide', () => this.#endTemporary());
    addEventListener('pageshow', (event) => event.persisted && this.temporary && this.startNew());
    this.#followUrl();
  }

  /** Show a conversation, and a message of it if one is asked for, in whatever branch it is. */
  async open(id, { messageId = null } = {}) {
    if (!(await this.#open(id, false))) return;
    this.#writeUrl('pushState');
    if (messageId === null) return;
    if (!this.messages.some((message) => message.id === messageId)) await this.switchTo(messageId);
    this.#tell('reveal', { message_id: messageId });
  }

  /** Show a new chat; it is stored once its first message is sent, a temporary one never. */
  async startNew({ temporary = false } = {}) {
    this.#showNew(temporary);
    this.#writeUrl('pushState');
  }

  /** Say how the next conversation begins: its `preset`, `system_prompt`, `recap`. */
  setNewChat(values) {
    Object.assign(this.newChat, values);
    this.#tell('conversation');
  }

  async #open(id, temporary) {
    const opening = ++this.#opening;
    let path;
    try {
      path = await api('GET', `${rootFor(temporary)}/conversations/${encodeURIComponent(id)}/messages`);
    } catch (error) {
      if (opening === this.#opening) this.#notOpened(id, error);
      return false;
    }
    if (opening !== this.#opening) return false;
    this.#leave(temporary);
    this.#show(path);
    this.#openStream();
    return true;
  }

  #notOpened(id, error) {
    if (error.status === 404) return this.#showInstead(t('session.unknown'));
    this.#fail(error, { label: t('notice.retry'), run: () => this.open(id) });
    this.#stream.open(); // which goes on until the server is back
  }

  #showNew(temporary, detail = {}) {
    this.#opening++;
    this.#leave(temporary);
    this.#tell('conversation', detail);
    this.#tell('messages');
    this.#openStream();
  }

  #showInstead(text) {
    this.#showNew(false, { replaced: true });
    this.#writeUrl('replaceState');
    this.#notify(text, 'error');
  }

  #leave(temporary) {
    this.#endTemporary();
    Object.assign(this, { conversation: null, progress: null, temporary });
    this.#expected = null;
    this.#branch.clear();
    this.#sending.forget();
    this.view++;
    this.#asked++;
  }

  #endTemporary() {
    if (!this.temporary || !this.conversation) return;
    // It must arrive although the page goes. Nobody waits for it: what it misses, the server forgets at its end.
    fetch(this.#conversationUrl, { method: 'DELETE', keepalive: true }).catch(() => {});
  }

  #show({ conversation, messages }) {
    this.#asked++;
    this.#branch.show(messages);
    this.conversation = conversation;
    this.#tell('conversation');
    this.#tell('messages');
    this.#sending.settle(this.messages);
  }

  #expect(conversation) {
    this.#expected = conversation;
    return this.#stream.open();
  }

  // What the stream has told of it by now is newer than what was answered.
  #adopt({ conversation, messages }) {
    const expected = this.#expected?.id === conversation.id ? this.#expected : null;
    this.#expected = null;
    this.#show({ conversation: expected ?? conversation, messages });
    this.#writeUrl('pushState');
    this.#isFresh = true;
    if (!expected) this.#openStream();
  }

  async #refresh() {
    if (!this.conversation) return;
    const asked = ++this.#asked;
    try {
      const path = await api('GET', `${this.#conversationUrl}/messages`);
      if (asked === this.#asked) this.#show(path);
    } catch (error) {
      if (asked !== this.#asked || error.status === 0) return; // the stream tells when the server is back
      if (error.status === 404) this.#showInstead(t('session.gone'));
      else this.#fail(error);
    }
  }

  async #followUrl() {
    const id = idInAddress();
    if (id) await this.#open(id, false);
    else this.#showNew(false);
  }

  #writeUrl(how) {
    writeAddress(this.temporary ? null : this.conversation?.id, how);
  }

  // The stream of events.

  #streamUrl() {
    const query = new URLSearchParams(this.#branch.place ?? {});
    const watched = this.conversation ?? this.#expected;
    if (watched) query.set('conversation_id', watched.id);
    if (this.#listVersion) query.set('list_version', this.#listVersion);
    return `${this.root}/events?${query}`;
  }

  #openStream() {
    this.#isFresh = this.conversation !== null;
    this.#stream.open();
  }

  #onOpen(isBack) {
    this.#setConnected(true);
    if (!isBack) return;
    this.#isFresh = false; // what has changed meanwhile is not known
    if (!this.temporary && idInAddress() !== (this.conversation?.id ?? null)) this.#followUrl();
  }

  #setConnected(connected) {
    if (this.connected === connected) return;
    this.connected = connected;
    this.#tell('connection');
  }

  #onConversation(conversation) {
    if (conversation.id === this.#expected?.id) this.#expected = conversation;
    if (conversation.id !== this.conversation?.id) return;
    const isKnown = this.#isFresh && conversation.active_leaf_id === (this.messages.at(-1)?.id ?? null);
    this.#isFresh = false;
    this.conversation = conversation;
    this.#tell('conversation');
    if (!isKnown) this.#refresh();
  }

  #onText({ message_id, text }, id) {
    if (!this.#branch.add(message_id, text, Number(id.split(':').at(-1)))) return this.#stream.open();
    this.progress = null;
    const message = this.messages.find((one) => one.id === message_id);
    if (message) this.#tell('text', { message_id, text: message.content });
  }

  #onProgress({ message_id, progress }) {
    this.progress = progress;
    this.#tell('progress', { message_id, progress });
  }

  #onEnd(message) {
    this.#branch.end(message);
    this.progress = null;
    this.#tell('messages');
    this.#tell('ended', { message });
  }

  // Messages.

  /** Send a message, in a new conversation if none is shown; tells whether it has been stored. */
  async send(text) {
    try {
      if (text.trim()) return await this.#sending.send(text);
      this.#notify(t('composer.blank'), 'error');
    } catch (error) {
      this.#fail(error);
    }
    return false;
  }

  /** End the reply that is being written. */
  stop() {
    return this.#act(() => api('POST', `${this.#conversationUrl}/stop`));
  }

  /** Have another reply written beside one. */
  regenerate(id) {
    return this.#act(() => api('POST', `${this.#messageUrl(id)}/regenerate`, { params: this.params }));
  }

  /** Have a reply that was cut written on. */
  continueReply(id) {
    return this.#act(() => api('POST', `${this.#messageUrl(id)}/continue`, { params: this.params }));
  }

  /** Have another reply branch off at a token of one. */
  branchAt(id, place, tokenId) {
    const choice = { place, token_id: tokenId, params: this.params };
    return this.#act(() => api('POST', `${this.#messageUrl(id)}/branch`, choice));
  }

  /** Put another version beside a message; one of the user's own is answered. */
  edit(id, text) {
    return this.#act(() => api('POST', `${this.#messageUrl(id)}/edit`, { content: text, params: this.params }));
  }

  /** Show the branch of a message. */
  switchTo(id) {
    return this.#act(() => api('POST', `${this.#messageUrl(id)}/switch`));
  }

  /** Delete a message, with `branch` all that follows it too. */
  deleteMessage(id, { branch = false } = {}) {
    return this.#act(() => api('DELETE', `${this.#messageUrl(id)}?branch=${branch}`));
  }

  /** Say what a reply is worth; null for both takes it back. */
  rate(id, { rating = null, comment = null }) {
    return this.#act(() => api('PUT', `${this.#messageUrl(id)}/feedback`, { rating, comment }));
  }

  /** Pin a message, or unpin it. */
  pin(id, pinned) {
    return this.#act(() => api('PATCH', this.#messageUrl(id), { pinned }));
  }

  /** Show a new conversation with a copy of the path to a message. */
  async fork(id) {
    const { temporary } = this;
    try {
      const { id: forkId } = await api('POST', `${this.#messageUrl(id)}/fork`);
      if (await this.#open(forkId, temporary)) this.#writeUrl('pushState');
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Change fields of the conversation that is shown, or of how the next one begins. */
  change(fields) {
    if (!this.conversation) return this.setNewChat(fields);
    return this.#act(() => api('PATCH', this.#conversationUrl, fields));
  }

  /** Change fields of conversations: `title`, `pinned`. */
  changeAll = (ids, fields) => this.#changes.change(ids, fields);

  /** Put conversations into the archive, or take them out of it. */
  archive = (ids, archived = true) => this.#changes.archive(ids, archived);

  /** Put conversations into the trash; one that is shown is left. */
  async trash(ids) {
    if ((await this.#changes.trash(ids)) && ids.includes(this.conversation?.id)) this.startNew();
  }

  /** Take conversations out of the trash. */
  restore(ids) {
    return this.#changes.restore(ids);
  }

  /** Delete conversations for good; one that is shown is left. */
  async erase(ids) {
    if (ids.includes(this.conversation?.id)) this.startNew(); // before: a 404 would look like another's doing
    await this.#changes.erase(ids);
  }

  /** Delete for good all that is in the trash; one that is shown is left. */
  emptyTrash() {
    if (this.conversation?.trashed_at) this.startNew();
    return this.#changes.emptyTrash();
  }

  // Telling.

  /** Call the server and read what is shown again; tells whether it went well. */
  async #act(call) {
    let isDone = true;
    try {
      await call();
    } catch (error) {
      this.#fail(error);
      isDone = false;
    }
    await this.#refresh();
    return isDone;
  }

  #fail(error, action) {
    if (!(error instanceof ApiError)) throw error;
    this.#notify(error.code === 'conversation_moved' ? t('session.moved') : error.message, 'error', action);
  }

  #notify(text, kind, action) {
    this.#tell('notice', { text, kind, action });
  }

  #tell(name, detail = {}) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** The session of this page. */
export const session = new Session();
