// The widget itself in the panel, as a site's visitors see it.

import { el } from '../dom.js';
import { t } from '../texts.js';
import { note } from './parts.js';

const PAUSE = 300; // milliseconds without a change
const STYLES = 'html, body, #place { height: 100%; margin: 0; }';

/** Runs the real loader in a page of its own, which has the origin of this one: that may always show the chat. */
export class SitePreview {
  #page = el('iframe');
  #state = el('p', { class: 'parley-note', role: 'status' });
  #timer = null;
  #isOpen = false; // as whoever looks at it has left it
  #isOpenAtOnce = false;

  constructor() {
    this.element = el('div', {}, this.#state, this.#page, note(t('sites.previewNote')));
  }

  /** Show a site that looks so, stored or not, and stands on its page as the options of a snippet say. */
  show({ key, enabled }, appearance, { isOpen, isInline }) {
    clearTimeout(this.#timer);
    this.#state.textContent = enabled ? '' : t('sites.previewOff');
    if (isOpen !== this.#isOpenAtOnce) this.#isOpen = this.#isOpenAtOnce = isOpen;
    const loader = el('script', { src: `${location.origin}/widget.js` });
    Object.assign(loader.dataset, appearance, { site: key });
    if (isInline) loader.dataset.target = '#place';
    else if (this.#isOpen) loader.dataset.open = '';
    this.#replace(enabled ? loader : null);
  }

  /** The same, once nothing has changed for a moment. */
  showSoon(...values) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.show(...values), PAUSE);
  }

  /** Take the widget away. */
  end() {
    clearTimeout(this.#timer);
    this.#page.remove();
  }

  // A new frame each time: one that is told to show something else would be a step of the browser's history.
  #replace(loader) {
    const page = el('iframe', { class: 'parley-preview', width: '100%', title: t('sites.preview'), hidden: !loader,
      srcdoc: loader ? documentWith(loader) : '', on: { load: () => this.#watch(page.contentWindow.Parley) } });
    this.#page.replaceWith(page);
    this.#page = page;
  }

  #watch(widget) {
    widget?.on('opened', () => { this.#isOpen = true; });
    widget?.on('closed', () => { this.#isOpen = false; });
  }
}

const documentWith = (loader) => {
  const { lang, dir } = document.documentElement;
  const root = el('html', { lang, dir }, el('head', {}, el('style', { textContent: STYLES })),
    el('body', {}, el('div', { id: 'place' }), loader));
  return `<!doctype html>${root.outerHTML}`;
};
