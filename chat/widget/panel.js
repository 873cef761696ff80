// What is seen of the chat: its header, its messages or the list of earlier chats, and the composer.

import { el } from '/page/element.js';
import { SpokenReply } from '/page/spoken_reply.js';
import { Bubble } from './bubble.js';
import { Composer } from './composer.js';
import { iconButton } from './icon_button.js';
import { t, when } from './words.js';

const NEAR = 60; // pixels from the end that still count as the end
const FORMATS = ['markdown', 'text', 'json'];

/** The whole of the frame. It shows, and passes on what the visitor does. */
export class Panel {
  #chat;
  #greeting;
  #bubbles = new Map(); // by the id of the message
  #pending = []; // bubbles of what has been sent and not been answered
  #list = el('ol', { class: 'messages', tabIndex: -1 });
  #log = el('section', { class: 'log', tabIndex: 0, 'aria-label': t('messages') }, this.#list);
  #history = el('nav', { class: 'history', hidden: true, tabIndex: -1, 'aria-label': t('history') });
  #report = el('div', { class: 'report', role: 'alert' });
  #lost = el('div', { class: 'lost', role: 'status' });
  #spoken = new SpokenReply(t('finished'));
  #menu;
  #save;
  #earlier;
  #composer;

  /** `title` and `greeting` are the site's. */
  constructor(chat, { title, greeting, isInline }) {
    this.#chat = chat;
    this.#greeting = greeting;
    this.#composer = new Composer(chat);
    document.title = title;
    document.body.append(
      this.#header(title, isInline),
      el('main', {}, this.#log, this.#history, this.#lost, this.#report, this.#composer.element, this.#spoken.element),
      this.#menu,
    );
    document.addEventListener('keydown', (event) => this.#onKey(event, isInline));
    this.show([]);
  }

  /** Put the focus where one goes on: a phone's keyboard would cover the chat. */
  focus() {
    this.#setHistory(false);
    if (matchMedia('(hover: hover)').matches) this.#composer.focus();
    else this.#list.focus(); // scrolls as the log does, and has no frame
  }

  /** Show messages instead of those before. */
  show(messages) {
    this.#setHistory(false);
    this.#pending = [];
    this.#bubbles.clear();
    this.#list.replaceChildren(new Bubble('assistant').say(this.#greeting).element);
    for (const message of messages) this.#add(message);
    this.#save.disabled = !messages.length;
    this.#composer.update();
    this.#toEnd();
  }

  /** Show a message that is being sent. */
  expect(text) {
    this.#setHistory(false);
    this.#pending = [new Bubble('user').say(text), new Bubble('assistant').wait()];
    this.#list.append(...this.#pending.map(({ element }) => element));
    this.#composer.update();
    this.#toEnd();
  }

  /** Put the message that could not be sent back to where it was written. */
  takeBack(text) {
    this.#drop();
    this.putBack(text);
  }

  /** Put a text back to where it was written. */
  putBack(text) {
    this.#composer.putBack(text);
  }

  /** Send what is written once more. */
  resend() {
    this.#composer.send();
  }

  /** Show the message that has been sent, and the reply to it. */
  began(messages) {
    this.#drop();
    for (const message of messages) this.#add(message);
    this.#save.disabled = false;
    this.#composer.update();
    this.#toEnd();
  }

  /** Show what there is of a reply that is being written. */
  grow(id, text) {
    this.#keepEnd(() => this.#bubbles.get(id).say(text));
    this.#spoken.grow(id, text);
    this.#composer.update();
  }

  /** Show what goes on before the first words of a reply. */
  wait(progress) {
    [...this.#bubbles.values()].at(-1).wait(progress?.queue_position);
  }

  /** Show a whole reply. */
  finish(reply) {
    this.#keepEnd(() => this.#bubbles.get(reply.id).finish(reply));
    this.#spoken.end({ ...reply, error: null });
    this.#composer.update();
  }

  /** Show that no more comes of a reply. */
  settle() {
    for (const dots of this.#list.querySelectorAll('.dots')) dots.remove();
    this.#composer.update();
  }

  /** Show whether the connection is lost. */
  lose(isLost) {
    this.#lost.textContent = isLost ? t('lost') : '';
  }

  /** Say what went wrong, with a button that helps if there is one; nothing if the text is empty. */
  report(text, label = '', act = null) {
    const button = act && el('button', { type: 'button', textContent: label, on: { click: act } });
    this.#report.replaceChildren(...(text ? [el('span', { textContent: text })] : []), ...(button ? [button] : []));
  }

  #drop() {
    for (const { element } of this.#pending.splice(0)) element.remove();
  }

  #add(message) {
    const bubble = new Bubble(message.role, (id, rating) => this.#chat.rate(id, rating));
    this.#bubbles.set(message.id, bubble);
    this.#list.append(bubble.finish(message).element);
    if (message.status === 'streaming') bubble.wait();
  }

  #header(title, isInline) {
    const items = FORMATS.map((format) => el('button', { type: 'button', textContent: t(format),
      on: { click: () => this.#pick(format) } }));
    this.#menu = el('div', { popover: 'auto', class: 'menu' }, ...items);
    this.#save = iconButton('export', t('save'), () => {});
    this.#save.popoverTargetElement = this.#menu;
    this.#earlier = iconButton('list', t('history'), () => this.#toggleHistory());
    return el('header', {},
      el('h1', { textContent: title, dir: 'auto' }),
      this.#earlier,
      iconButton('compose', t('new'), () => this.#chat.startNew()),
      this.#save,
      isInline ? null : iconButton('close', t('close'), () => this.#chat.close()));
  }

  #pick(format) {
    this.#menu.hidePopover();
    this.#chat.save(format);
  }

  async #toggleHistory() {
    const isShown = this.#history.hidden;
    this.#setHistory(isShown);
    if (!isShown) return;
    const found = await this.#chat.list();
    const rows = found.map((conversation) => el('li', {}, this.#row(conversation)));
    this.#history.replaceChildren(rows.length ? el('ol', {}, ...rows) : el('p', { textContent: t('none') }));
    this.#history.querySelector('button')?.focus();
  }

  #row({ id, title, updated_at: updatedAt }) {
    const time = when((new Date(updatedAt) - Date.now()) / 1000);
    return el('button', { type: 'button', on: { click: () => this.#read(id) } },
      el('span', { textContent: title ?? t('untitled'), dir: 'auto' }),
      el('time', { dateTime: updatedAt, textContent: time }));
  }

  async #read(id) {
    await this.#chat.read(id);
    this.focus();
  }

  #setHistory(isShown) {
    this.#history.hidden = !isShown;
    this.#log.hidden = isShown;
    this.#earlier.ariaExpanded = isShown;
  }

  #onKey(event, isInline) {
    if (event.key !== 'Escape' || event.isComposing || this.#menu.matches(':popover-open')) return;
    if (!this.#history.hidden) this.focus();
    else if (!isInline) this.#chat.close();
  }

  #toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  #keepEnd(change) {
    const { scrollHeight, scrollTop, clientHeight } = this.#log;
    change();
    if (scrollHeight - scrollTop - clientHeight < NEAR) this.#toEnd();
  }
}
