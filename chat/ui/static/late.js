// Elements that are seldom seen: what fills them comes once one of them is, so that the page starts without it.

import { notifyFailure } from './notices.js';

const MODULES = {
  'parley-sites': () => import('./late/sites.js'),
  'parley-account': () => import('./late/account_form.js'),
  'parley-keys': () => import('./late/api_keys.js'),
  'parley-users': () => import('./late/users.js'),
};

for (const [name, load] of Object.entries(MODULES)) {
  customElements.define(name, class extends HTMLElement {
    async connectedCallback() {
      const { fill } = await load();
      await fill(this).catch(notifyFailure);
    }
  });
}
