// The lines of HTML that put a site's chat on a page.

import { el } from '../dom.js';
import { t } from '../texts.js';
import { checkbox, checkField, copyable, field, input, note } from './parts.js';

const ESCAPES = { '&': '&amp;', '"': '&quot;' };

const escaped = (text) => text.replace(/[&"]/g, (character) => ESCAPES[character]);

/** Return the snippet of a site: with a `target`, the selector of an element, the chat is in that element. */
export const snippetOf = ({ key }, { isOpen = false, target = '' } = {}) => {
  const options = `${isOpen ? ' data-open' : ''}${target ? ` data-target="${escaped(target)}"` : ''}`;
  return `<script src="${location.origin}/widget.js" data-site="${key}"${options} defer></script>`;
};

/** The options of a snippet, and the snippet as it is copied. */
export class SiteSnippet {
  #site = null;
  #open = checkbox(false);
  #inline = checkbox(false);
  #target = input({ value: '#chat', spellcheck: false });
  #lines = copyable('', t('sites.copySnippet'));

  /** `changed()` is called when other options than the element are chosen. */
  constructor(changed) {
    const place = field(t('sites.target'), this.#target, t('sites.targetNote'));
    this.element = el('div', { class: 'parley-form' }, note(t('sites.embedNote')), this.#lines.element,
      checkField(t('sites.open'), this.#open), checkField(t('sites.inline'), this.#inline), place);
    const update = ({ target }) => {
      place.hidden = !this.#inline.checked;
      this.#open.disabled = this.#inline.checked; // what is in the page is always open
      this.#update();
      if (target !== this.#target) changed();
    };
    this.element.addEventListener('input', update);
    place.hidden = true;
  }

  /** Where the chat is to stand, and whether it is open from the beginning. */
  get options() {
    const isInline = this.#inline.checked;
    return { isInline, isOpen: this.#open.checked && !isInline, target: isInline ? this.#target.value.trim() : '' };
  }

  /** Show the snippet of a site. */
  show(site) {
    this.#site = site;
    this.#update();
  }

  #update() {
    if (!this.#site) return;
    this.#lines.code.textContent = snippetOf(this.#site, this.options);
  }
}
