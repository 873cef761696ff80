// One site in the panel: what puts it on a page, what it looks like, and what may be wrong.

import { el, iconButton } from '../dom.js';
import { tellOfSites } from '../site_names.js';
import { t } from '../texts.js';
import { badge, section } from './parts.js';
import { checkForm } from './site_check.js';
import { siteForm } from './site_form.js';
import { keySection } from './site_keys.js';
import { SitePreview } from './site_preview.js';
import { SiteSnippet } from './site_snippet.js';

/** Return a word that says whether a site is on. */
export const stateOf = ({ enabled }) => badge(t(enabled ? 'sites.on' : 'sites.off'), enabled ? 'parley-good' : '');

/** The view of a site; `back(id)` is called when it is left. */
export class SiteView {
  #snippet = new SiteSnippet(() => this.#previewSoon());
  #preview = new SitePreview();
  #title = el('h3', { dir: 'auto', tabIndex: -1 });
  #state = el('span', {});

  constructor(site, { back }) {
    this.site = site;
    this.appearance = site.appearance; // as the form says, stored or not
    this.back = back;
    const leave = iconButton('previous', t('sites.back'), () => this.#leave());
    this.element = el('article', { class: 'parley-site' },
      el('header', { class: 'parley-site-header' }, leave, this.#title, this.#state),
      section(t('sites.embed'), [this.#snippet.element], { open: true }),
      section(t('sites.preview'), [this.#preview.element], { open: true }),
      section(t('sites.check'), [checkForm(site)]),
      section(t('sites.settings'), [this.#form()]),
      keySection(() => this.site, { changed: (changed) => this.#update(changed), deleted: () => this.#leave() }));
    this.#show();
  }

  /** Begin, once the element is on the page. */
  begin() {
    this.#title.focus();
    this.#preview.show(this.site, this.appearance, this.#snippet.options);
  }

  #form() {
    const changed = (appearance) => {
      this.appearance = appearance;
      this.#previewSoon();
    };
    return siteForm(this.site, { changed, saved: (site) => this.#update(site) });
  }

  #previewSoon() {
    this.#preview.showSoon(this.site, this.appearance, this.#snippet.options);
  }

  #update(site) {
    this.site = site;
    this.#show();
    this.#preview.show(site, this.appearance, this.#snippet.options);
    tellOfSites();
  }

  #show() {
    this.#title.textContent = this.site.name;
    this.#state.replaceChildren(stateOf(this.site));
    this.#snippet.show(this.site);
  }

  #leave() {
    this.#preview.end();
    this.back(this.site.id);
  }
}
