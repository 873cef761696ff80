// <parley-ledger>: what the model sees of the conversation, message by message.

import { api } from './api.js';
import { el } from './dom.js';
import { session } from './session.js';
import { t } from './texts.js';

const EXCERPT = 120; // characters of a message

/** The account of the newest reply's prompt. */
class ParleyLedger extends HTMLElement {
  #listening = null;
  #asked = 0;

  connectedCallback() {
    this.#listening = new AbortController();
    const { signal } = this.#listening;
    session.addEventListener('messages', () => this.#read(), { signal });
    session.addEventListener('ended', () => this.#read(), { signal });
    this.#read();
  }

  disconnectedCallback() {
    this.#listening.abort();
  }

  async #read() {
    const asked = ++this.#asked;
    const reply = session.messages.findLast(({ prompt_tokens: n }) => n !== null);
    if (!reply) return this.replaceChildren(el('p', { class: 'parley-note', textContent: t('ledger.none') }));
    try {
      const ledger = await api('GET', `${session.root}/messages/${reply.id}/ledger`);
      if (asked === this.#asked) this.#show(reply, ledger);
    } catch (error) {
      if (asked === this.#asked) this.replaceChildren(el('p', { class: 'parley-problem', textContent: error.message }));
    }
  }

  #show(reply, ledger) {
    if (!ledger) return this.replaceChildren(el('p', { class: 'parley-note', textContent: t('ledger.lost') }));
    this.replaceChildren(
      summary(reply, ledger),
      meter(reply, ledger),
      el('ol', { class: 'parley-ledger' }, ...ledger.messages.map(entry)),
      ...recap(ledger),
    );
  }
}

const summary = (reply, { budget, cached_tokens: cached = 0 }) =>
  el('p', { textContent: t('ledger.summary', { used: reply.prompt_tokens, budget, cached }) });

const meter = (reply, { budget, cached_tokens: cached = 0 }) => {
  const part = (name, n) => {
    const bar = el('i', { class: `parley-part-${name}` });
    bar.style.inlineSize = `${(100 * n) / Math.max(budget, reply.prompt_tokens)}%`;
    return bar;
  };
  const computed = reply.prompt_tokens - cached;
  return el('div', { class: 'parley-ledger-meter', role: 'img', 'aria-label': t('ledger.meter', { cached, computed }) },
    part('cached', cached), part('computed', computed));
};

const entry = ({ message_id: id, tokens, included, reason, cached }) => {
  const message = session.messages.find((one) => one.id === id);
  const text = (message?.content ?? '').replace(/\s+/g, ' ').trim();
  const shown = text.length > EXCERPT ? `${text.slice(0, EXCERPT)}…` : text;
  const state = cached ? `${t(`ledger.${reason}`)}, ${t('ledger.cached', { n: cached })}` : t(`ledger.${reason}`);
  return el('li', { class: included ? 'parley-in' : 'parley-out' },
    el('b', { textContent: message ? t(`ledger.role.${message.role}`) : t('ledger.gone') }),
    el('span', { class: 'parley-ledger-text', dir: 'auto', textContent: shown }),
    el('small', { textContent: `${t('stats.tokens', { count: tokens })} · ${state}` }));
};

const recap = ({ recap_tokens: n }) => (n ? [el('p', { class: 'parley-note', textContent: t('ledger.recap', { n }) })] : []);

customElements.define('parley-ledger', ParleyLedger);
