// The line above the transcript: the title, and how full the model's context is.

import { el, iconButton } from './dom.js';
import { session } from './session.js';
import { formatNumber, t } from './texts.js';

const MAX_TITLE = 200; // characters

/** Shows the title of the conversation, lets it be renamed, and has the button that opens the panel. */
export class ChatHeader {
  #title = el('button', { type: 'button', class: 'parley-title', dir: 'auto' });
  #bar = el('span', { class: 'parley-meter-bar', 'aria-hidden': 'true' }, el('i'));
  #use = el('span', { class: 'parley-meter-use' });
  #meter = el('button', { type: 'button', class: 'parley-meter', on: { click: () => this.#tell('parley:toggle-panel') } },
    this.#bar, el('span', { class: 'parley-meter-label', textContent: t('chat.context') }), this.#use);

  constructor() {
    const list = iconButton('list', t('chat.list'), () => this.#tell('parley:toggle-list'));
    this.element = el('header', { class: 'parley-header' }, list, this.#title, this.#meter);
    this.#title.addEventListener('dblclick', () => this.#rename());
    // Enter and Space are clicks without a count: a single click of a mouse renames nothing.
    this.#title.addEventListener('click', ({ detail }) => detail === 0 && this.#rename());
  }

  /** Follow the session until the signal is aborted. */
  listen(signal) {
    for (const name of ['conversation', 'messages', 'model']) {
      session.addEventListener(name, () => this.#update(), { signal });
    }
    this.#update();
  }

  #update() {
    const { conversation, temporary } = session;
    const other = temporary ? 'chat.temporary' : conversation ? 'chat.untitled' : 'chat.new';
    const title = (!temporary && conversation?.title) || null;
    document.title = title ? `${title} · Parley` : 'Parley';
    this.#title.textContent = title ?? t(other);
    this.#title.disabled = !conversation || temporary;
    this.#title.title = this.#title.disabled ? '' : t('chat.rename');
    this.#updateMeter();
  }

  #updateMeter() {
    const total = session.model?.n_ctx ?? null;
    const reply = session.messages.findLast(({ prompt_tokens: n }) => n !== null);
    const used = reply ? reply.prompt_tokens + (reply.completion_tokens ?? 0) : 0;
    const share = total ? Math.min(1, used / total) : 0;
    this.#bar.firstChild.style.inlineSize = `${100 * share}%`;
    this.#bar.classList.toggle('parley-meter-full', share > 0.9);
    this.#use.textContent = total ? `${formatNumber(used)} / ${formatNumber(total)}` : '';
    this.#meter.ariaLabel = total ? t('chat.contextUse', { used, total }) : t('chat.contextNone');
    this.#meter.title = this.#meter.ariaLabel;
  }

  #tell(name) {
    this.element.dispatchEvent(new CustomEvent(name, { bubbles: true }));
  }

  #rename() {
    const { id, title } = session.conversation;
    const field = el('input', { class: 'parley-field parley-title-field', dir: 'auto', value: title ?? '',
      ariaLabel: t('chat.title'), maxLength: MAX_TITLE });
    let hasEnded = false; // a field that is taken away loses the focus, which would end it once more
    const end = (isDone) => {
      if (hasEnded) return;
      hasEnded = true;
      const hadFocus = field === document.activeElement;
      field.replaceWith(this.#title);
      if (hadFocus) this.#title.focus();
      const text = field.value.trim();
      if (isDone && text && text !== title) session.changeAll([id], { title: text });
    };
    field.addEventListener('keydown', (event) => {
      if (event.isComposing || !['Enter', 'Escape'].includes(event.key)) return;
      event.preventDefault(); // Enter would press the button that gets the focus now
      end(event.key === 'Enter');
    });
    field.addEventListener('blur', () => end(true));
    this.#title.replaceWith(field);
    field.select();
  }
}
