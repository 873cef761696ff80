// <parley-keys>: the keys with which programs act for whoever uses the page.

import { api } from '../api.js';
import { formatDay } from '../day_groups.js';
import { el } from '../dom.js';
import { askFirst } from '../inline_question.js';
import { resultArea } from '../result_area.js';
import { session } from '../session.js';
import { t } from '../texts.js';
import { badge, checkbox, checkField, copyable, dangerousButton, field, form, input, note, section } from './parts.js';

const SCOPES = ['completions', 'read', 'write', 'metrics'];

/** Fill the element. */
export const fill = (element) => {
  const list = resultArea();
  const load = () => list.show(() => api('GET', '/api/keys'), ({ keys }) => [listOf(keys, load)]);
  element.replaceChildren(note(t('apikeys.about')), list.area, ...creation(load));
  return load();
};

const listOf = (keys, reload) => (keys.length
  ? el('ul', { class: 'parley-cards' }, ...keys.map((key) => card(key, reload)))
  : note(t('apikeys.none')));

const card = (key, reload) => {
  const used = key.last_used_at
    ? t('apikeys.used', { day: formatDay(new Date(key.last_used_at)) })
    : t('apikeys.unused');
  const buttons = el('div', { class: 'parley-buttons' }, dangerousButton(t('apikeys.revoke'), () => revoke()));
  const { area, run } = resultArea();
  const revoke = async () => {
    if (!(await askFirst(buttons, t('apikeys.revokeAsk', { name: key.name }), t('apikeys.revoke')))) return;
    if (await run(() => api('DELETE', `/api/keys/${key.id}`))) await reload();
  };
  return el('li', { class: 'parley-card' },
    el('p', { class: 'parley-card-title' }, el('strong', { dir: 'auto', textContent: key.name }),
      el('code', { textContent: `${key.prefix}…` })),
    el('p', {}, ...key.scopes.map((scope) => badge(t(`apikeys.scope.${scope}`)))),
    note(used), buttons, area);
};

const creation = (reload) => {
  const name = input({ required: true, maxLength: 60 });
  const boxes = SCOPES.map((scope) => checkbox(scope === 'completions', { value: scope }));
  const { area, show } = resultArea();
  const create = async () => {
    const scopes = boxes.filter(({ checked }) => checked).map(({ value }) => value);
    const made = await show(() => api('POST', '/api/keys', { name: name.value, scopes }), shownOnce);
    if (!made) return;
    name.value = '';
    part.open = false;
    await reload();
  };
  const choices = el('fieldset', { class: 'parley-choices' }, el('legend', { textContent: t('apikeys.scopes') }),
    ...boxes.map((box) => checkField(t(`apikeys.scope.${box.value}`), box, t(`apikeys.scopeNote.${box.value}`))));
  const fields = [field(t('apikeys.name'), name, t('apikeys.nameNote')), choices];
  const part = section(t('apikeys.new'), [form(fields, t('apikeys.create'), create)]);
  return [area, part];
};

// The key is nowhere to be read again.
const shownOnce = ({ key, scopes }) => [
  el('p', { class: 'parley-once', textContent: t('apikeys.once') }),
  copyable(key, t('apikeys.copy')).element,
  ...(scopes.includes('completions') ? examples(key) : []),
];

const examples = (key) => {
  const model = session.model?.name ?? 'MODEL'; // none while the first one is being loaded
  return [
    note(t('apikeys.examples')),
    copyable(curlExample(key, model), t('apikeys.copyCurl')).element,
    copyable(pythonExample(key, model), t('apikeys.copyPython')).element,
  ];
};

const curlExample = (key, model) => `curl ${location.origin}/v1/chat/completions \\
  -H "Authorization: Bearer ${key}" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello!"}]}'`;

const pythonExample = (key, model) => `from openai import OpenAI

client = OpenAI(
    base_url="${location.origin}/v1",
    api_key="${key}",
)
reply = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "Hello!"}],
)
print(reply.choices[0].message.content)`;
