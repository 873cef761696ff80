// Where the visitor writes.

import { el, fitHeight } from '/page/element.js';
import { iconButton } from './icon_button.js';
import { t } from './words.js';

const MOST = 8000; // characters of a message, as on the server
const NEAR = 500; // so few are left that it is told

/** A field that grows, with a button that sends, and stops a reply while there is one. */
export class Composer {
  #chat;
  #left = el('span', { class: 'left', role: 'status' });
  #field = el('textarea', { rows: 1, maxLength: MOST, dir: 'auto', placeholder: t('write'), 'aria-label': t('write') });
  #send = iconButton('send', t('send'), () => this.send(), 'send');
  #stop = iconButton('stop', t('stop'), () => this.#chat.stop(), 'send');

  constructor(chat) {
    this.#chat = chat;
    this.#field.addEventListener('input', () => this.#fit());
    this.#field.addEventListener('keydown', (event) => this.#onKey(event));
    this.element = el('form', {}, this.#left, this.#field, this.#send, this.#stop);
    this.update();
  }

  /** Show whether a message can be sent now. */
  update() {
    const { isBusy } = this.#chat;
    const hadFocus = document.activeElement === this.#stop;
    this.#send.hidden = isBusy;
    this.#stop.hidden = !isBusy;
    this.#send.ariaDisabled = !this.#field.value.trim();
    if (hadFocus) this.focus();
  }

  /** Send what is written, as soon as there is what it follows. */
  async send() {
    await this.#chat.shown;
    const { value } = this.#field;
    if (!value.trim() || this.#chat.isBusy) return;
    this.#write('');
    this.#chat.send(value);
  }

  /** Put a text back, before what has been written since. */
  putBack(text) {
    const { value } = this.#field;
    this.#write(value ? `${text}\n${value}` : text);
  }

  focus() {
    this.#field.focus();
  }

  #write(text) {
    this.#field.value = text;
    this.#fit();
  }

  #fit() {
    const count = MOST - this.#field.value.length;
    this.#left.textContent = count < NEAR ? t('left', { count }) : '';
    fitHeight(this.#field);
    this.update();
  }

  #onKey(event) {
    const isComposed = event.isComposing || event.keyCode === 229; // the latter in Safari
    if (event.key !== 'Enter' || event.shiftKey || isComposed) return;
    event.preventDefault();
    this.send();
  }
}
