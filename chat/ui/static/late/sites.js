// <parley-sites>: the websites that show the chat, and one of them at a time.

import { api } from '../api.js';
import { el, textButton } from '../dom.js';
import { resultArea } from '../result_area.js';
import { tellOfSites } from '../site_names.js';
import { t } from '../texts.js';
import { field, form, input, note, textArea } from './parts.js';
import { linesOf, withLabels } from './site_form.js';
import { SiteView, stateOf } from './site_view.js';

/** Fill the element. */
export const fill = (element) => new SitesPanel(element).showList();

class SitesPanel {
  #element;

  constructor(element) {
    this.#element = element;
  }

  /** Show all sites; the one that was shown before gets the focus. */
  async showList(before = null) {
    const { area, show } = resultArea();
    const create = textButton(t('sites.new'), () => this.#showCreation(), { class: 'parley-button parley-primary' });
    this.#element.replaceChildren(note(t('sites.about')), el('div', { class: 'parley-buttons' }, create), area);
    await show(() => api('GET', '/api/sites'), ({ sites }) => [this.#listOf(sites)]);
    this.#element.querySelector(`[data-site-id="${before}"]`)?.focus();
  }

  #listOf(sites) {
    if (!sites.length) return note(t('sites.none'));
    return el('ul', { class: 'parley-cards' }, ...sites.map((site) => el('li', {}, this.#card(site))));
  }

  #card(site) {
    const card = el('button', { type: 'button', class: 'parley-card parley-card-button',
      on: { click: () => this.#showSite(site) } },
      el('span', { class: 'parley-card-title' }, el('strong', { dir: 'auto', textContent: site.name }), stateOf(site)),
      el('span', { class: 'parley-note', textContent: site.origins.join(' ') || t('sites.nobody') }),
      el('span', { class: 'parley-note', textContent: t('users.conversations', { count: site.n_conversations }) }));
    card.dataset.siteId = site.id;
    return card;
  }

  #showSite(site) {
    const view = new SiteView(site, { back: (id) => this.showList(id) });
    this.#element.replaceChildren(view.element);
    view.begin();
  }

  #showCreation() {
    const name = input({ required: true, maxLength: 100 });
    const origins = textArea('', 2, { placeholder: 'https://shop.example' });
    const { area, show } = resultArea();
    const create = async () => {
      const call = () => api('POST', '/api/sites', { name: name.value, origins: linesOf(origins) });
      const site = await show(() => withLabels(call), () => []);
      if (!site) return;
      tellOfSites();
      this.#showSite(site);
    };
    const cancel = textButton(t('message.cancel'), () => this.showList());
    this.#element.replaceChildren(el('h3', { textContent: t('sites.new') }), form([field(t('sites.name'), name),
      field(t('sites.origins'), origins, t('sites.originsNote'))], t('sites.create'), create, area), cancel);
    name.focus();
  }
}
