// The messages that are shown, and where the reader is in them.

import { el, icon } from './dom.js';
import { MessageView } from './message.js';
import { session } from './session.js';
import { SpokenReply } from './spoken_reply.js';
import { t } from './texts.js';

const NEAR = 48; // pixels from the end that still are the end

/** Shows the branch; it follows the end of a growing reply as long as the reader is there. */
export class Transcript {
  #views = new Map(); // by message id, in their order
  #isFollowing = true;
  #lastTop = 0;
  #spoken = new SpokenReply(t('message.finished'));
  #list = el('div', { class: 'parley-messages', role: 'log', 'aria-live': 'off', 'aria-label': t('chat.transcript') });
  #empty = el('div', { class: 'parley-empty' });
  #inner = el('div', { class: 'parley-inner' }, this.#empty, this.#list);
  #scroll = el('div', { class: 'parley-scroll', tabIndex: -1 }, this.#inner);
  #toEnd = el('button', { type: 'button', class: 'parley-to-end', hidden: true, ariaLabel: t('chat.toEnd'),
    title: t('chat.toEnd'), on: { click: () => this.#follow() } }, icon('end'));
  #sizes = new ResizeObserver(() => this.#keepPlace());
  #focusElsewhere;

  /** `focusElsewhere()` is called when the message that had the focus is gone, and with it all others. */
  constructor(focusElsewhere) {
    this.#focusElsewhere = focusElsewhere;
    this.element = el('div', { class: 'parley-transcript' }, this.#scroll, this.#toEnd, this.#spoken.element);
    this.#scroll.addEventListener('scroll', () => this.#onScroll(), { passive: true });
  }

  /** Follow the session until the signal is aborted. */
  listen(signal) {
    const on = (name, listener) => session.addEventListener(name, listener, { signal });
    on('messages', () => this.#showMessages());
    on('text', ({ detail }) => this.#grow(detail));
    on('progress', ({ detail }) => this.#views.get(detail.message_id)?.showProgress(detail.progress));
    on('ended', ({ detail }) => this.#spoken.end(detail.message));
    on('reveal', ({ detail }) => this.#reveal(detail.message_id));
    this.#sizes.observe(this.#inner);
    this.#sizes.observe(this.#scroll);
    signal.addEventListener('abort', () => this.#sizes.disconnect());
    this.#showMessages();
  }

  /** Show a greeting where there are no messages. */
  greet(...parts) {
    this.#empty.replaceChildren(...parts);
  }

  /** Edit the user's last message; tells whether there is one that can be edited now. */
  editLast() {
    const message = session.messages.findLast(({ role }) => role === 'user');
    if (!message || session.running) return false;
    this.#views.get(message.id).edit();
    return true;
  }

  /** Show the end, and what comes after it. */
  #follow() {
    this.#isFollowing = true;
    this.#keepPlace();
    this.#focusElsewhere();
  }

  #reveal(id) {
    const view = this.#views.get(id);
    if (!view) return;
    this.#isFollowing = false;
    view.element.scrollIntoView({ block: 'center' });
    view.element.focus({ preventScroll: true });
  }

  #showMessages() {
    const { messages } = session;
    const focused = this.#focusedIndex();
    const isOther = !messages.some(({ id }) => this.#views.has(id));
    const isNew = messages.length > 0 && !this.#views.has(messages.at(-1).id);
    this.#arrange(messages);
    for (const message of messages) this.#views.get(message.id).update(message);
    if (session.running) this.#spoken.grow(session.running, messages.at(-1).content);
    this.#list.ariaBusy = session.running !== null;
    this.#empty.hidden = messages.length > 0;
    if (isOther || (isNew && session.running)) this.#isFollowing = true; // opened, or just sent
    this.#keepPlace();
    if (focused >= 0 && !this.#list.contains(document.activeElement)) this.#focusNear(focused);
  }

  // An element that stays where it is keeps its focus and its place in a text: only what is new or gone is touched.
  #arrange(messages) {
    const views = new Map(messages.map((one) => [one.id, this.#views.get(one.id) ?? new MessageView(one)]));
    for (const [id, view] of this.#views) if (!views.has(id)) view.element.remove();
    let place = this.#list.firstChild;
    for (const { element } of views.values()) {
      if (element === place) place = place.nextSibling;
      else this.#list.insertBefore(element, place);
    }
    this.#views = views;
  }

  #focusedIndex() {
    return [...this.#list.children].findIndex((element) => element.contains(document.activeElement));
  }

  #focusNear(index) {
    const { children } = this.#list;
    if (children.length) children[Math.min(index, children.length - 1)].focus({ preventScroll: true });
    else this.#focusElsewhere();
  }

  #grow({ message_id: id, text }) {
    this.#views.get(id)?.grow(text);
    this.#spoken.grow(id, text);
  }

  // A reader who scrolls up leaves the end, one who comes back to it follows again. Content that grows moves nobody.
  #onScroll() {
    const { scrollTop } = this.#scroll;
    if (this.#distance() <= NEAR) this.#isFollowing = true;
    else if (scrollTop < this.#lastTop) this.#isFollowing = false;
    this.#lastTop = scrollTop;
    this.#showButton();
  }

  #keepPlace() {
    if (this.#isFollowing) this.#scroll.scrollTop = this.#scroll.scrollHeight;
    this.#lastTop = this.#scroll.scrollTop;
    this.#showButton();
  }

  #showButton() {
    this.#toEnd.hidden = this.#isFollowing || this.#distance() <= NEAR;
  }

  #distance() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    return scrollHeight - scrollTop - clientHeight;
  }
}
