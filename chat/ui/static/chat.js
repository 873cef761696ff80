// <parley-chat>: the conversation that is shown, and the box to go on with it.

import { ChatHeader } from './chat_header.js';
import { Composer } from './composer.js';
import { el, icon } from './dom.js';
import { session } from './session.js';
import { hasText, t } from './texts.js';
import { Transcript } from './transcript.js';

const SUGGESTIONS = [1, 2, 3, 4];

/** The chat pane. */
class ParleyChat extends HTMLElement {
  #listening = null;

  connectedCallback() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    const composer = new Composer(() => transcript.editLast());
    const transcript = new Transcript(() => composer.focus());
    const header = new ChatHeader();
    const lost = el('div', { class: 'parley-lost', role: 'status' });
    this.replaceChildren(header.element, lost, transcript.element, composer.element);
    const greet = () => transcript.greet(...greeting(composer));
    session.addEventListener('conversation', greet, { signal });
    session.addEventListener('connection', () => {
      lost.textContent = session.connected ? '' : t('chat.lost');
    }, { signal });
    for (const part of [header, transcript, composer]) part.listen(signal);
    greet();
    session.begin();
    composer.focus();
  }

  disconnectedCallback() {
    this.#listening.abort();
  }
}

const greeting = (composer) => [
  el('h1', { textContent: t('chat.greeting') }),
  session.temporary
    ? el('p', { class: 'parley-note' }, icon('temporary'), t('chat.temporaryNote'))
    : el('p', { textContent: t('chat.local') }),
  el('ul', { class: 'parley-suggestions', 'aria-label': t('chat.suggestions') }, ...suggestions(composer)),
];

const suggestions = (composer) => {
  const preset = (session.conversation ?? session.newChat).preset;
  const name = hasText(`suggest.${preset}.1`) ? preset : 'assistant';
  return SUGGESTIONS.map((number) => {
    const text = t(`suggest.${name}.${number}`);
    return el('li', {}, el('button', { type: 'button', textContent: text, dir: 'auto',
      on: { click: () => composer.submit(text) } }));
  });
};

customElements.define('parley-chat', ParleyChat);
