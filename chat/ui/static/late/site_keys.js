// What is done with a site as a whole: its conversations, its key, its secret, its end.

import { api } from '../api.js';
import { el, textButton } from '../dom.js';
import { askFirst } from '../inline_question.js';
import { resultArea } from '../result_area.js';
import { showSite, tellOfSites } from '../site_names.js';
import { t } from '../texts.js';
import { copyable, dangerousButton, note, section } from './parts.js';

/** Return the section; `site()` is the site as it is now, `changed(site)` and `deleted()` hear what became of it. */
export const keySection = (site, { changed, deleted }) => {
  const { area, show, run } = resultArea();
  const urlOf = (what = '') => `/api/sites/${site().id}${what}`;
  const buttons = el('div', { class: 'parley-buttons' });
  const ask = (name, call) => async () => {
    if (await askFirst(buttons, t(`sites.${name}Ask`), t(`sites.${name}`))) await call();
  };
  const secret = () => show(() => api('GET', urlOf('/identity-secret')), secretElements);
  const rotate = ask('rotate', async () => {
    const rotated = await show(() => api('POST', urlOf('/rotate')), () => [note(t('sites.rotated'))]);
    if (rotated) changed(rotated);
  });
  const remove = ask('delete', async () => {
    if (!(await run(() => api('DELETE', urlOf())))) return;
    tellOfSites();
    deleted();
  });
  const exportAll = () => document.dispatchEvent(new CustomEvent('parley:export', { detail: { site_id: site().id } }));
  buttons.append(textButton(t('sites.conversations'), () => showSite(site().id)), textButton(t('sites.export'), exportAll),
    textButton(t('sites.secret'), secret), dangerousButton(t('sites.rotate'), rotate), dangerousButton(t('sites.delete'), remove));
  return section(t('sites.manage'), [buttons, area]);
};

const secretElements = ({ secret }) => [
  note(t('sites.secretNote')),
  copyable(secret, t('sites.copySecret')).element,
  copyable(`hmac.new(SECRET.encode(), user_id.encode(), "sha256").hexdigest()`, t('sites.copyHash')).element,
  copyable('Parley.setUser(user_id, { hash })', t('sites.copyCall')).element,
];
