// Whether a page shows a site's chat, and if not, why.

import { api } from '../api.js';
import { el, icon } from '../dom.js';
import { resultArea } from '../result_area.js';
import { t } from '../texts.js';
import { field, form, input } from './parts.js';

const ICONS = { ok: 'check', warning: 'warning', error: 'close' };

/** Return the form that has the server look at a page. */
export const checkForm = ({ id, origins }) => {
  const example = origins.find((origin) => !origin.includes('*')) ?? '';
  const url = input({ type: 'url', required: true, value: example, placeholder: 'https://shop.example/contact' });
  const { area, show } = resultArea();
  const check = () => show(() => api('POST', `/api/sites/${id}/check`, { url: url.value }),
    ({ findings }) => [el('ul', { class: 'parley-findings' }, ...findings.map(findingElement))]);
  return form([field(t('sites.checkUrl'), url, t('sites.checkNote'))], t('sites.checkNow'), check, area);
};

const findingElement = ({ level, text, fix }) => el('li', { class: `parley-finding parley-finding-${level}` },
  icon(ICONS[level]),
  el('div', {}, el('strong', { textContent: t(`sites.level.${level}`) }), el('p', { dir: 'auto', textContent: text }),
    fix && el('p', { class: 'parley-note', dir: 'auto', textContent: fix })));
