// The sites of whoever uses the page, as far as the list of conversations has to know them.

import { api } from './api.js';

const names = new Map(); // by id

/** Read the sites; resolves to a Map from their ids to their names, in their order. */
export const loadSites = async () => {
  const { sites } = await api('GET', '/api/sites');
  names.clear();
  for (const { id, name } of sites) names.set(id, name);
  return names;
};

/** Return the name of a site that has been read; undefined for others. */
export const siteName = (id) => names.get(id);

/** Tell the list that there are other sites now, or that they have other names. */
export const tellOfSites = () => document.dispatchEvent(new CustomEvent('parley:sites'));

/** Have the list show the conversations of a site. */
export const showSite = (id) => document.dispatchEvent(new CustomEvent('parley:show-site', { detail: { id } }));
