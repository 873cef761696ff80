// <parley-model>: the model in use, what computes it, and the one that is being loaded.

import { api } from './api.js';
import { el } from './dom.js';
import { session } from './session.js';
import { formatNumber, t } from './texts.js';

const MEGABYTE = 1e6;

/** What the settings tell of the model. */
class ParleyModel extends HTMLElement {
  #listening = null;

  connectedCallback() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    for (const name of ['model', 'ended']) session.addEventListener(name, () => this.#update(), { signal });
    window.parley = { ...window.parley, loadModel: load };
    this.#update();
  }

  disconnectedCallback() {
    this.#listening.abort();
  }

  #update() {
    const { model } = session;
    if (!model) return this.replaceChildren();
    const facts = model.state === 'ready' ? factsOf(model) : [];
    const list = el('dl', { class: 'parley-facts' }, ...facts.flatMap(([name, value]) =>
      [el('dt', { textContent: name }), el('dd', { textContent: value })]));
    this.replaceChildren(list, ...progressOf(model), ...errorOf(model));
  }
}

const factsOf = (model) => [
  [t('model.name'), model.name],
  [t('model.runner'), model.runner],
  [t('model.context'), t('model.tokens', { count: model.n_ctx, n: model.n_ctx })],
  [t('model.memory'), t('model.megabytes', { n: formatNumber(Math.round(model.memory_bytes / MEGABYTE)) })],
  ...speedOf(session.messages),
];

const speedOf = (messages) => {
  const reply = messages.findLast(({ completion_tokens: n, duration_ms, ttft_ms }) => n > 1 && duration_ms > ttft_ms);
  if (!reply) return [];
  const perSecond = (reply.completion_tokens - 1) / ((reply.duration_ms - reply.ttft_ms) / 1000);
  return [[t('model.speed'), t('model.perSecond', { n: Math.round(perSecond) })]];
};

const progressOf = ({ next, label, done, total }) => {
  if (!next) return [];
  const bar = el('progress', { max: total || 1, value: total ? done : 0, 'aria-label': label || next });
  return [el('p', { role: 'status', textContent: `${label || t('model.loading', { name: next })}` }), bar];
};

const errorOf = ({ error }) => (error ? [el('p', { role: 'alert', class: 'parley-problem', textContent: error })] : []);

const load = async (name) => {
  try {
    await api('POST', '/api/model', { name });
  } catch (error) {
    session.dispatchEvent(new CustomEvent('notice', { detail: { text: error.message, kind: 'error' } }));
  }
};

customElements.define('parley-model', ParleyModel);
