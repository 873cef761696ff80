// The widget itself in the panel, as a site's visitors see it.

import { el } from '../dom.js';
import { t } from '../texts.js';
import { note } from './parts.js';

const ID = 'parley-preview';

/** Runs the real loader on this page: its own origin may always show the chat. */
export class SitePreview {
  #place = el('div', { id: ID, class: 'parley-preview' });
  #state = el('p', { class: 'parley-note', role: 'status' });

  constructor() {
    this.element = el('div', {}, this.#state, this.#place, note(t('sites.previewNote')));
  }

  /** Show a site as it is stored now. */
  show({ key, enabled }) {
    this.end();
    this.#place.hidden = !enabled;
    this.#state.textContent = enabled ? '' : t('sites.previewOff');
    if (!enabled) return;
    const loader = el('script', { src: '/widget.js' });
    Object.assign(loader.dataset, { site: key, target: `#${ID}` });
    this.#place.append(loader);
  }

  /** Take the widget away. */
  end() {
    window.Parley?.destroy();
    this.#place.replaceChildren();
  }
}
