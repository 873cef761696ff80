// <parley-backup> and <parley-expiry>: copies of the database, and conversations that are kept no longer.

import { api } from './api.js';
import { el, textButton } from './dom.js';
import { resultArea } from './result_area.js';
import { formatNumber, t } from './texts.js';

const MAX_SHOWN = 20; // conversations that a dry run names

const line = (text) => el('p', { textContent: text });
const list = (texts) => el('ul', {}, ...texts.map((text) => el('li', { dir: 'auto', textContent: text })));

/** The button that copies the database, and where the copy is. */
class ParleyBackup extends HTMLElement {
  connectedCallback() {
    const { area, show } = resultArea();
    const button = textButton(t('care.backUp'), async () => {
      button.disabled = true;
      await show(() => api('POST', '/api/backups'),
        ({ name, bytes }) => [line(t('care.backedUp', { name, size: formatNumber(bytes / 1e6) }))]);
      button.disabled = false;
    });
    this.replaceChildren(el('div', { class: 'parley-buttons' }, button), area);
  }
}

/** The buttons below the rule of what is kept no longer: what is erased is what has just been shown. */
class ParleyExpiry extends HTMLElement {
  #rule = { older_than_days: 365, channel: null, archived: null };
  #erase = textButton(t('care.erase'), () => this.#eraseShown(),
    { class: 'parley-button parley-dangerous', disabled: true });
  #result = resultArea();

  connectedCallback() {
    window.parley = { ...window.parley, setExpiry: (values) => this.#setRule(values) };
    const dryRun = textButton(t('care.dryRun'), () => this.#showExpired());
    this.replaceChildren(el('div', { class: 'parley-buttons' }, dryRun, this.#erase), this.#result.area);
  }

  #setRule([days, channel, archived]) {
    this.#rule = { older_than_days: days, channel: channel === 'any' ? null : channel, archived: archived || null };
    this.#erase.disabled = true;
    this.#result.area.replaceChildren();
  }

  #call(dryRun) {
    return api('POST', '/api/expiry', { ...this.#rule, dry_run: dryRun });
  }

  async #showExpired() {
    const rule = this.#rule;
    const answer = await this.#result.show(() => this.#call(true), ({ conversations }) => {
      const titles = conversations.slice(0, MAX_SHOWN).map(({ title }) => title ?? t('chat.untitled'));
      const n = conversations.length - titles.length;
      const text = `${t('care.expired', { count: conversations.length })} ${t('care.pinned')}`;
      return [line(text), list(n ? [...titles, t('care.more', { n })] : titles)];
    });
    this.#erase.disabled = rule !== this.#rule || !answer?.conversations.length;
  }

  async #eraseShown() {
    this.#erase.disabled = true;
    await this.#result.show(() => this.#call(false), ({ receipt }) => [
      line(t('care.erased', { count: receipt.conversation_ids.length })),
      list([t('care.messages', { count: receipt.n_messages }),
        ...receipt.copies.map(({ name }) => t('care.copy', { name }))]),
    ]);
  }
}

customElements.define('parley-backup', ParleyBackup);
customElements.define('parley-expiry', ParleyExpiry);
