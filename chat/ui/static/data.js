// <parley-export> and <parley-import>: conversations leave, and come back.

import { api, ApiError, call } from './api.js';
import { el, textButton } from './dom.js';
import { session } from './session.js';
import { formatNumber, t } from './texts.js';

let [format, redact, zip] = ['parley', false, false];

const notify = (text, kind = 'info') =>
  session.dispatchEvent(new CustomEvent('notice', { detail: { text, kind } }));

const status = el('p', { role: 'status', class: 'parley-note' });

/** Export conversations that are chosen by `ids`, `all` or a filter, as the form says. */
const exportConversations = async (chosen) => {
  status.textContent = t('data.preparing');
  try {
    const response = await call('POST', '/api/export', { format, redact, zip, ...chosen });
    const blob = await readAll(response);
    save(blob, nameOf(response));
    status.textContent = t('data.exported', { count: Number(response.headers.get('X-Parley-Conversations')) });
  } catch (error) {
    status.textContent = '';
    notify(error instanceof ApiError ? error.message : t('error.network'), 'error');
  }
};

const readAll = async (response) => {
  const parts = [];
  let n = 0;
  for await (const part of response.body) {
    parts.push(part);
    n += part.length;
    status.textContent = t('data.received', { n: formatNumber(n / 1e6) });
  }
  return new Blob(parts, { type: response.headers.get('Content-Type') });
};

const nameOf = (response) => {
  const disposition = response.headers.get('Content-Disposition') ?? '';
  const encoded = disposition.match(/filename\*=UTF-8''([^;]+)/);
  return encoded ? decodeURIComponent(encoded[1]) : disposition.match(/filename="([^"]+)"/)?.[1] ?? 'parley';
};

const save = (blob, name) => {
  const url = URL.createObjectURL(blob);
  el('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
};

// Asked for by others, also before the form has been seen.
document.addEventListener('parley:export', ({ detail }) => exportConversations(detail));

/** The buttons below the form of exports. */
class ParleyExport extends HTMLElement {
  connectedCallback() {
    window.parley = { ...window.parley, setExport: (values) => ([format, redact, zip] = values) };
    const one = textButton(t('data.exportOne'), () => exportConversations({ ids: [session.conversation.id] }));
    const all = textButton(t('data.exportAll'), () => exportConversations({ all: true }));
    const update = () => {
      one.disabled = !session.conversation || session.temporary;
    };
    session.addEventListener('conversation', update);
    update();
    this.replaceChildren(el('div', { class: 'parley-buttons' }, one, all), status);
  }
}

/** The field that a file to import is put into. */
class ParleyImport extends HTMLElement {
  connectedCallback() {
    const status = el('div', { role: 'status', class: 'parley-note' });
    const field = el('input', { type: 'file', multiple: true, class: 'parley-hidden-file', ariaLabel: t('data.chooseFile') });
    field.addEventListener('change', () => importAll([...field.files], status).finally(() => (field.value = '')));
    const zone = el('div', { class: 'parley-drop' },
      el('p', { textContent: t('data.importHint') }), textButton(t('data.chooseFile'), () => field.click()), field);
    zone.addEventListener('dragover', (event) => event.preventDefault());
    zone.addEventListener('drop', (event) => {
      event.preventDefault();
      importAll([...event.dataTransfer.files], status);
    });
    this.replaceChildren(zone, status);
  }
}

const importAll = async (files, status) => {
  status.replaceChildren();
  for (const file of files) {
    const line = el('p', { textContent: t('data.importing', { name: file.name }) });
    status.append(line);
    line.replaceWith(...(await importFile(file)));
  }
};

const importFile = async (file) => {
  try {
    return report(file.name, await api('POST', `/api/import?name=${encodeURIComponent(file.name)}`, file));
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return [el('p', { class: 'parley-problem', textContent: `${file.name}: ${error.message}` })];
  }
};

const report = (name, { conversations, messages, branches, skipped }) => [
  el('p', { textContent: t('data.imported', { name, conversations, messages, branches }) }),
  el('ul', {}, ...skipped.map((line) => el('li', { dir: 'auto', textContent: line }))),
];

customElements.define('parley-export', ParleyExport);
customElements.define('parley-import', ParleyImport);
