// One message of the transcript, kept as long as it is shown.

import { el, fitHeight, icon, textButton } from './dom.js';
import { dressCode } from './highlight.js';
import { MarkdownStream } from './markdown.js';
import { endingLine, figuresOf, progressText } from './message_stats.js';
import { MessageTools } from './message_tools.js';
import { session } from './session.js';
import { t } from './texts.js';

/** Shows a message and its changes; `element` is what stands in the transcript. */
export class MessageView {
  #message = null;
  #shown = ''; // the message as it was shown last: each reading of a path makes its objects anew
  #markdown = null;
  #body = el('div', { class: 'parley-body', dir: 'auto' });
  #progress = el('div', { class: 'parley-progress' });
  #marks = el('div', { class: 'parley-marks' });
  #ending = el('div');
  #figures = el('span', { class: 'parley-figures' });
  #editor = null;
  #tools = new MessageTools(() => this.edit());

  constructor({ id, role }) {
    this.element = el('article', { class: `parley-message parley-${role}`, tabIndex: -1,
      'aria-label': t(role === 'user' ? 'message.youSaid' : 'message.reply') });
    this.element.dataset.id = id;
    if (role === 'assistant') this.#markdown = new MarkdownStream(this.#body);
    const foot = el('div', { class: 'parley-foot' }, this.#tools.element, this.#figures);
    this.element.append(this.#marks, this.#body, this.#progress, this.#ending, foot, this.#tools.asked);
  }

  /** Show a message as it is now. */
  update(message) {
    const shown = JSON.stringify(message);
    if (shown === this.#shown) return this.#tools.wait(session.running !== null);
    this.#shown = shown;
    const isGrowing = message.status === 'streaming';
    this.#message = message;
    this.element.classList.toggle('parley-growing', isGrowing);
    this.#showText(message.content, isGrowing);
    this.#showProgress(message, isGrowing);
    this.#showMarks(message);
    this.#ending.replaceChildren(...endingLine(message, {
      onRetry: () => session.regenerate(message.id),
      onContinue: () => session.continueReply(message.id),
    }));
    this.#figures.textContent = figuresOf(message);
    this.#tools.update(message);
  }

  /** Show the text that a reply has grown to. */
  grow(text) {
    this.#shown = '';
    this.#showText(text, true);
    this.#progress.replaceChildren();
  }

  /** Say what goes on before the first words. */
  showProgress(progress) {
    if (this.#message.status === 'streaming' && !this.#message.content) this.#wait(progress);
  }

  /** Let the text be edited in its place. */
  edit() {
    if (this.#editor) return this.#editor.querySelector('textarea').focus();
    const { id, role, content } = this.#message;
    const area = el('textarea', { class: 'parley-field', rows: 1, dir: 'auto', value: content,
      ariaLabel: t('message.edit') });
    const save = async () => {
      if (area.value === content && role === 'assistant') return this.#endEditing();
      if (await session.edit(id, area.value)) this.#endEditing();
    };
    const cancel = () => {
      this.#endEditing();
      this.element.focus();
    };
    area.addEventListener('input', () => fitHeight(area));
    area.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') cancel();
      else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) save();
    });
    const saveButton = textButton(t(role === 'user' ? 'message.saveSend' : 'message.save'), save);
    saveButton.classList.add('parley-primary');
    const buttons = el('div', { class: 'parley-editor-buttons' }, textButton(t('message.cancel'), cancel), saveButton);
    this.#editor = el('div', { class: 'parley-editor' }, area, buttons);
    this.#body.before(this.#editor);
    this.element.classList.add('parley-editing');
    fitHeight(area);
    area.focus();
  }

  #endEditing() {
    this.#editor?.remove();
    this.#editor = null;
    this.element.classList.remove('parley-editing');
  }

  #showText(text, isGrowing) {
    if (!this.#markdown) {
      this.#body.textContent = text;
      return;
    }
    this.#markdown.update(text);
    dressCode(this.#body, { isGrowing });
    for (const box of this.#body.querySelectorAll('li > input')) {
      box.ariaLabel = t(box.checked ? 'message.done' : 'message.toDo');
    }
  }

  #showProgress({ content }, isGrowing) {
    if (isGrowing && !content) this.#wait(session.progress);
    else this.#progress.replaceChildren();
  }

  #wait(progress) {
    const dots = el('span', { class: 'parley-dots', 'aria-hidden': 'true' }, el('i'), el('i'), el('i'));
    this.#progress.replaceChildren(dots, el('span', { textContent: progress ? progressText(progress) : '' }));
  }

  #showMarks({ pinned, origin }) {
    const marks = [];
    if (pinned) marks.push(el('span', {}, icon('pin'), t('message.pinned')));
    if (origin === 'edited') marks.push(el('span', {}, icon('edit'), t('message.edited')));
    this.#marks.replaceChildren(...marks);
  }
}
