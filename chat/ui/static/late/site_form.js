// The form of what a site is: who may show it, how it looks, what the model is told, and how much of it there may be.

import { api, ApiError } from '../api.js';
import { el } from '../dom.js';
import { notifyFailure } from '../notices.js';
import { resultArea } from '../result_area.js';
import { t } from '../texts.js';
import { checkbox, checkField, choice, field, form, input, textArea } from './parts.js';

/** Return the lines of a text area that are not blank. */
export const linesOf = (area) => area.value.split('\n').map((line) => line.trim()).filter(Boolean);

const LOOKS = ['title', 'greeting', 'language', 'theme', 'accent', 'position'];
const NUMBERS = ['messages_per_visitor', 'messages_per_address', 'tokens_per_day', 'retention_days'];
const FIELDS = ['enabled', 'name', 'origins', 'preset', 'system_prompt', ...LOOKS, ...NUMBERS];

/** Resolve to what a call comes to; an error names the field of a site by its label. */
export const withLabels = async (call) => {
  try {
    return await call();
  } catch (error) {
    const name = error instanceof ApiError && error.param?.split('.').find((part) => FIELDS.includes(part));
    if (name) error.message = error.message.replace(error.param, t(`sites.field.${name}`));
    throw error;
  }
};

const numberInput = (value, properties = {}) => input({ type: 'number', min: 1, step: 1, value: value ?? '', ...properties });
const numberOf = ({ value }) => (value === '' ? null : Number(value));
const optionsOf = (name, values) => values.map((value) => [value, t(`sites.${name}.${value}`)]);

/**
 * Return the form of a site; `changed(appearance)` is called with each look that is chosen, and `saved(site)` with what
 * the server has kept.
 */
export const siteForm = (site, { changed, saved }) => {
  const controls = controlsOf(site);
  const { area, show } = resultArea();
  fillPresets(controls.preset, site.preset).catch(notifyFailure);
  const save = async () => {
    const kept = await show(() => withLabels(() => api('PATCH', `/api/sites/${site.id}`, changeOf(controls))),
      () => [el('p', { textContent: t('sites.saved') })]);
    if (!kept) return;
    controls.origins.value = kept.origins.join('\n');
    saved(kept);
  };
  const made = form(fieldsOf(controls), t('message.save'), save, area);
  made.addEventListener('input', ({ target }) => {
    if (LOOKS.some((name) => controls[name] === target)) changed(looksOf(controls));
  });
  return made;
};

const controlsOf = ({ appearance, ...site }) => ({
  enabled: checkbox(site.enabled),
  name: input({ required: true, maxLength: 100, value: site.name }),
  origins: textArea(site.origins.join('\n'), 3, { spellcheck: false }),
  preset: choice([['', t('sites.noPreset')]], ''),
  system_prompt: textArea(site.system_prompt ?? '', 4),
  title: input({ maxLength: 60, value: appearance.title }),
  greeting: textArea(appearance.greeting, 2, { maxLength: 500 }),
  language: choice(optionsOf('language', ['auto', 'en', 'de']), appearance.language),
  theme: choice(optionsOf('theme', ['auto', 'light', 'dark']), appearance.theme),
  accent: input({ type: 'color', value: appearance.accent }),
  position: choice(optionsOf('position', ['right', 'left']), appearance.position),
  messages_per_visitor: numberInput(site.messages_per_visitor, { required: true }),
  messages_per_address: numberInput(site.messages_per_address, { required: true }),
  tokens_per_day: numberInput(site.tokens_per_day),
  retention_days: numberInput(site.retention_days),
});

const fieldsOf = (controls) => {
  const labelled = (name, note = null) => field(t(`sites.field.${name}`), controls[name], note);
  return [
    checkField(t('sites.field.enabled'), controls.enabled, t('sites.enabledNote')),
    labelled('name'),
    labelled('origins', t('sites.originsNote')),
    labelled('preset'),
    labelled('system_prompt', t('sites.systemPromptNote')),
    labelled('title'),
    labelled('greeting'),
    el('div', { class: 'parley-pairs' }, ...['language', 'theme', 'position', 'accent'].map((name) => labelled(name))),
    labelled('messages_per_visitor'),
    labelled('messages_per_address'),
    labelled('tokens_per_day', t('sites.tokensNote')),
    labelled('retention_days', t('sites.retentionNote')),
  ];
};

const looksOf = (controls) => Object.fromEntries(LOOKS.map((name) => [name, controls[name].value]));

const changeOf = (controls) => {
  const valueOf = (name) => controls[name].value;
  return {
    enabled: controls.enabled.checked,
    name: valueOf('name'),
    origins: linesOf(controls.origins),
    preset: valueOf('preset') || null,
    system_prompt: valueOf('system_prompt') || null,
    appearance: looksOf(controls),
    ...Object.fromEntries(NUMBERS.map((name) => [name, numberOf(controls[name])])),
  };
};

const fillPresets = async (select, chosen) => {
  const { presets } = await api('GET', '/api/presets');
  select.append(...presets.map(({ name }) => el('option', { value: name, textContent: name })));
  select.value = chosen ?? '';
};
