// One message as it is shown.

import { el } from '/page/element.js';
import { MarkdownStream } from '/page/markdown.js';
import { iconButton } from './icon_button.js';
import { t } from './words.js';

const ENDS = { stopped: 'stopped', interrupted: 'broken', error: 'broken' };

/** A message of the visitor, or a reply, which may grow. */
export class Bubble {
  #body = el('div', { class: 'body', dir: 'auto' });
  #foot = el('div', { class: 'foot' });
  #markdown = null;

  /** `rate(id, rating)` keeps what the visitor thinks, and tells whether that went well. */
  constructor(role, rate = null) {
    this.rate = rate;
    const speaker = el('span', { class: 'unseen', textContent: t(role) });
    this.element = el('li', { class: role }, speaker, this.#body, this.#foot);
    if (role === 'assistant') this.#markdown = new MarkdownStream(this.#body);
  }

  /** Show a text, of which a reply may get more. */
  say(text) {
    if (this.#markdown) this.#markdown.update(text);
    else this.#body.textContent = text;
    return this;
  }

  /** Show that a reply is on its way, and how many are before it. */
  wait(count = 0) {
    const label = count ? t('waiting', { count }) : '';
    const dots = el('span', { class: 'dots', role: 'img', 'aria-label': t('writing') }, el('i'), el('i'), el('i'));
    this.#foot.replaceChildren(dots, label);
    return this;
  }

  /** Show a whole message. */
  finish({ id, role, content, status, rating }) {
    this.say(content);
    for (const wide of this.#body.querySelectorAll('pre, table')) wide.tabIndex = 0; // is scrolled by the keyboard
    const isReply = role === 'assistant' && status !== 'streaming';
    const note = ENDS[status] ? el('span', { textContent: t(ENDS[status]) }) : '';
    this.#foot.replaceChildren(...(isReply ? [...(content ? this.#thumbs(id, rating) : []), note] : []));
    return this;
  }

  #thumbs(id, rating) {
    const thumbs = [['good', 1], ['bad', -1]].map(([name, value]) => {
      const button = iconButton(name, t(name), () => press(button, value));
      button.ariaPressed = rating === value;
      return button;
    });
    const press = async (button, value) => {
      const isOn = button.ariaPressed === 'true';
      if (!(await this.rate(id, isOn ? null : value))) return;
      for (const thumb of thumbs) thumb.ariaPressed = thumb === button && !isOn;
    };
    return thumbs;
  }
}
