// The buttons below a message, and what they ask in place.

import { copyText } from './clipboard.js';
import { el, iconButton, textButton } from './dom.js';
import { session } from './session.js';
import { t } from './texts.js';

const MAX_COMMENT = 10000;

/** The toolbar of one message, made anew whenever the message has changed. */
export class MessageTools {
  #message;
  #edit;

  /** `edit()` begins to edit the message. */
  constructor(edit) {
    this.#edit = edit;
    this.element = el('div', { class: 'parley-tools', role: 'toolbar', 'aria-label': t('message.tools') });
    this.asked = el('div', { class: 'parley-asked' });
  }

  /** Show the buttons that suit a message; while a reply is written, those that would disturb it wait. */
  update(message) {
    this.#message = message;
    const focused = this.element.contains(document.activeElement) ? document.activeElement.dataset.tool : null;
    const isStreaming = message.status === 'streaming';
    this.element.replaceChildren(...(isStreaming ? [] : this.#buttons()));
    this.wait(session.running !== null);
    if (focused) this.element.querySelector(`[data-tool="${focused}"]`)?.focus();
  }

  /** Disable what would disturb a reply that is being written, or enable it again. */
  wait(isRunning) {
    for (const button of this.element.querySelectorAll('[data-waits]')) {
      button.disabled = isRunning || button.dataset.waits === 'always';
    }
  }

  #buttons() {
    const { id, role, pinned } = this.#message;
    const isReply = role === 'assistant';
    const copy = this.#button('copy', 'message.copy', () => copyText(this.#message.content, copy));
    return [
      ...this.#arrows(),
      copy,
      ...(isReply ? this.#thumbs() : []),
      ...(isReply ? [this.#button('regenerate', 'message.regenerate', () => session.regenerate(id), true)] : []),
      this.#button('edit', 'message.edit', this.#edit, true),
      this.#button('fork', 'message.fork', () => session.fork(id), true),
      this.#button('pin', pinned ? 'message.unpin' : 'message.pin', () => session.pin(id, !pinned)),
      ...(isReply ? [this.#button('tokens', 'message.tokens', () => this.#showTokens())] : []),
      this.#button('delete', 'message.delete', () => this.#askDelete(), true),
    ];
  }

  #button(name, key, onClick, waits = false) {
    const button = iconButton(name, t(key), onClick);
    button.dataset.tool = name;
    if (waits) button.dataset.waits = 'running';
    return button;
  }

  #arrows() {
    const { id, siblings } = this.#message;
    if (siblings.length < 2) return [];
    const index = siblings.indexOf(id);
    const arrow = (name, target) => {
      const button = this.#button(name, `message.${name}`, () => session.switchTo(target), true);
      if (!target) button.dataset.waits = 'always';
      return button;
    };
    const version = t('message.version', { index: index + 1, total: siblings.length });
    const place = el('span', { class: 'parley-version', textContent: version });
    return [arrow('previous', siblings[index - 1]), place, arrow('next', siblings[index + 1])];
  }

  #thumbs() {
    const rating = this.#message.feedback?.rating ?? null;
    return [['good', 1], ['bad', -1]].map(([name, value]) => {
      const button = this.#button(name, `message.${name}`, () => this.#rate(rating === value ? null : value));
      button.ariaPressed = rating === value;
      return button;
    });
  }

  #showTokens() {
    const detail = { message_id: this.#message.id };
    this.element.dispatchEvent(new CustomEvent('parley:show-tokens', { bubbles: true, detail }));
  }

  // What is asked in place.

  async #rate(rating) {
    const { id, feedback } = this.#message;
    this.#close();
    const isDone = await session.rate(id, { rating, comment: rating === null ? null : (feedback?.comment ?? null) });
    if (isDone && rating !== null) this.#askComment(rating, feedback?.comment ?? '');
  }

  #askComment(rating, comment) {
    const label = t('message.comment');
    const field = el('input', { class: 'parley-field', placeholder: label, ariaLabel: label, value: comment });
    field.maxLength = MAX_COMMENT;
    const save = () => {
      this.#close();
      session.rate(this.#message.id, { rating, comment: field.value.trim() || null });
    };
    field.addEventListener('keydown', ({ key, isComposing }) => key === 'Enter' && !isComposing && save());
    this.#ask(field, textButton(t('message.save'), save));
  }

  #askDelete() {
    const remove = (branch) => () => {
      this.#close();
      session.deleteMessage(this.#message.id, { branch });
    };
    this.#ask(
      el('span', { textContent: t('message.deleteAsk') }),
      textButton(t('message.deleteOne'), remove(false), { class: 'parley-button parley-dangerous' }),
      textButton(t('message.deleteBranch'), remove(true), { class: 'parley-button parley-dangerous' }),
    );
  }

  #ask(...parts) {
    const asking = this.element.contains(document.activeElement) ? document.activeElement.dataset.tool : null;
    const cancel = () => {
      this.#close();
      this.element.querySelector(`[data-tool="${asking}"]`)?.focus();
    };
    this.asked.replaceChildren(...parts, textButton(t('message.cancel'), cancel));
    this.asked.onkeydown = (event) => {
      if (event.key !== 'Escape') return;
      event.preventDefault(); // else it would stop a reply
      cancel();
    };
    this.asked.querySelector('input, button').focus();
  }

  // The focus goes to the message, unless somebody takes it on: it must not fall out of the transcript.
  #close() {
    if (this.asked.contains(document.activeElement)) this.element.closest('.parley-message').focus();
    this.asked.replaceChildren();
  }
}
