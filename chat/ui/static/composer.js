// The box in which messages are written.

import { el, fitHeight, iconButton } from './dom.js';
import { readDraft, writeDraft } from './drafts.js';
import { notify } from './notices.js';
import { session } from './session.js';
import { t } from './texts.js';

/** Writes and sends messages; `editLast()` is called for the arrow up in an empty box. */
export class Composer {
  #shown; // the id of the conversation that the text is for, null for a new one; undefined before the first
  #isTemporary = false;
  #editLast;
  #area = el('textarea', { class: 'parley-composer-text', rows: 1, dir: 'auto', enterKeyHint: 'send',
    placeholder: t('composer.placeholder'), ariaLabel: t('composer.label') });
  #button = iconButton('send', t('composer.send'), () => this.#press(), { class: 'parley-send' });
  #stopButton = iconButton('stop', t('composer.stop'), () => session.stop(),
    { class: 'parley-send parley-stop' });
  #status = el('div', { class: 'parley-composer-status', role: 'status' });

  constructor(editLast) {
    this.#editLast = editLast;
    const box = el('div', { class: 'parley-composer-box' }, this.#area, this.#button, this.#stopButton);
    box.addEventListener('click', ({ target }) => target === box && this.focus());
    this.element = el('div', { class: 'parley-composer' }, box, this.#status);
    this.#area.addEventListener('input', () => this.#onInput());
    this.#area.addEventListener('keydown', (event) => this.#onKey(event));
  }

  /** Follow the session until the signal is aborted. */
  listen(signal) {
    session.addEventListener('conversation', ({ detail }) => this.#onConversation(detail), { signal });
    session.addEventListener('sent', ({ detail }) => this.#onSent(detail), { signal });
    for (const name of ['messages', 'model', 'connection', 'ended']) {
      session.addEventListener(name, () => this.#showState(), { signal });
    }
    this.#showState();
  }

  /** Put the cursor into the box. */
  focus() {
    this.#area.focus();
  }

  /** Put a text into the box, and send it if it can be sent now. */
  submit(text) {
    this.#setText(text);
    this.#keep();
    this.#press();
    this.focus();
  }

  #onInput() {
    fitHeight(this.#area);
    this.#keep();
  }

  #onKey(event) {
    if (event.isComposing || event.keyCode === 229) return; // an input method is still choosing a word
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      if (!event.repeat) this.#press();
    } else if (event.key === 'ArrowUp' && !this.#area.value) {
      if (this.#editLast()) event.preventDefault();
    }
  }

  async #press() {
    const reason = this.#reason();
    if (reason) return notify({ text: reason, kind: 'info' });
    this.#area.readOnly = true;
    await session.send(this.#area.value);
    this.#area.readOnly = false;
  }

  // Why nothing can be sent at the moment; empty if something can.
  #reason() {
    if (!session.connected) return t('composer.gone');
    const { model } = session;
    if (model?.state === 'failed') return t('composer.failed', { error: model.error });
    if (model?.state === 'loading') return loadingText(model);
    return session.running ? t('composer.running') : '';
  }

  #showState() {
    const isRunning = session.running !== null;
    const reason = this.#reason();
    if (isRunning && document.activeElement === this.#button) this.#area.focus();
    this.#button.hidden = isRunning;
    this.#stopButton.hidden = !isRunning;
    this.#button.ariaDisabled = reason !== '';
    this.#button.title = reason || t('composer.send');
    this.#status.textContent = isRunning && session.connected ? '' : reason;
    this.#status.dataset.hint = t(session.conversation?.channel === 'widget' ? 'composer.widget' : 'composer.hint');
  }

  #onConversation({ replaced = false }) {
    this.#showState();
    const id = session.conversation?.id ?? null;
    if (id === this.#shown && session.temporary === this.#isTemporary) return;
    const written = this.#area.value;
    this.#shown = id;
    this.#isTemporary = session.temporary;
    const draft = session.temporary ? '' : readDraft(id);
    this.#setText(replaced ? draft || written : draft); // what was written outlives a conversation that is gone
    if (replaced) this.#keep();
  }

  #onSent({ conversation_id: id }) {
    if (!session.temporary) writeDraft(id, '');
    if (id === this.#shown) this.#setText('');
  }

  #keep() {
    if (!this.#isTemporary) writeDraft(this.#shown ?? null, this.#area.value);
  }

  #setText(text) {
    this.#area.value = text;
    fitHeight(this.#area);
  }
}

const loadingText = ({ label, done, total }) => {
  if (!total) return t('composer.loading', { label });
  return t('composer.loadingShare', { label, percent: Math.floor((100 * done) / total) });
};
