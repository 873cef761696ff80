// Which conversations the sidebar has: all, those that were begun on this page, or those of visitors of a site.

import { el } from './dom.js';
import { notifyFailure } from './notices.js';
import { loadSites } from './site_names.js';
import { t } from './texts.js';

const CHOICES = { '': {}, ui: { channel: 'ui' }, widget: { channel: 'widget' } };

/** The choice; `changed()` is called when another one is made, `named()` when the sites have been read. */
export class SiteFilter {
  #select = el('select', { ariaLabel: t('sidebar.site') });

  constructor({ changed, named }) {
    this.changed = changed;
    this.named = named;
    this.element = el('div', { class: 'parley-site-filter', hidden: true }, this.#select);
    this.#select.addEventListener('change', changed);
  }

  /** What a query for conversations is to say. */
  get query() {
    const { value } = this.#select;
    return CHOICES[value] ?? { channel: 'widget', site_id: value };
  }

  /** Follow the sites, and whoever wants one of them shown, until the signal is aborted. */
  listen(signal) {
    const read = () => this.#read().catch(notifyFailure);
    document.addEventListener('parley:sites', read, { signal });
    document.addEventListener('parley:show-site', ({ detail }) => this.#choose(detail.id), { signal });
    read();
  }

  async #read() {
    const names = await loadSites();
    const chosen = this.#select.value;
    const options = [['', t('sidebar.all')], ['ui', t('sidebar.here')], ['widget', t('sidebar.widget')], ...names];
    this.#select.replaceChildren(...options.map(([value, text]) => el('option', { value, textContent: text })));
    this.#select.value = chosen;
    if (this.#select.value !== chosen) this.#choose('');
    if (names.size || !this.element.hidden) this.named();
    this.element.hidden = names.size === 0;
  }

  #choose(value) {
    this.#select.value = value;
    this.changed();
  }
}
