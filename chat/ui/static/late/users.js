// <parley-users>: who may use this server, for administrators.

import { account } from '../account.js';
import { api } from '../api.js';
import { formatDay } from '../day_groups.js';
import { el, textButton } from '../dom.js';
import { askFirst } from '../inline_question.js';
import { resultArea } from '../result_area.js';
import { t } from '../texts.js';
import { nameInput, passwordInput } from './account_form.js';
import { badge, checkbox, checkField, dangerousButton, field, form, note, section } from './parts.js';

/** Fill the element; what others than administrators would see of it page.css hides. */
export const fill = async (element) => {
  const me = await account();
  if (!me.is_admin || !me.has_accounts) return;
  const list = resultArea();
  const load = () => list.show(() => api('GET', '/api/users'), ({ users }) => [
    el('ul', { class: 'parley-cards' }, ...users.map((user) => new UserCard(user, user.name === me.name, load).element)),
  ]);
  element.replaceChildren(note(t('users.about')), list.area, addition(load));
  await load();
};

class UserCard {
  #result = resultArea();
  #buttons = el('div', { class: 'parley-buttons' });

  constructor(user, isMe, reload) {
    this.user = user;
    this.reload = reload;
    const title = el('p', { class: 'parley-card-title' }, el('strong', { dir: 'auto', textContent: user.name }),
      isMe ? badge(t('users.you')) : null, user.is_admin ? badge(t('account.admin')) : null);
    this.#buttons.append(...this.#actions(isMe));
    this.element = el('li', { class: 'parley-card' }, title, note(countsOf(user)), this.#buttons,
      isMe ? null : this.#newPassword(), this.#result.area);
  }

  #actions(isMe) {
    const { is_admin: isAdmin } = this.user;
    const turn = textButton(t(isAdmin ? 'users.makeUser' : 'users.makeAdmin'), async () => {
      if ((await this.#change({ is_admin: !isAdmin })) && isMe) location.reload();
    });
    return isMe ? [turn] : [turn, dangerousButton(t('users.remove'), () => this.#remove())];
  }

  #newPassword() {
    const password = passwordInput('new-password');
    const fields = [field(t('account.newPassword'), password, t('account.passwordRule'))];
    return section(t('users.newPassword'),
      [form(fields, t('users.setPassword'), () => this.#change({ password: password.value }))]);
  }

  #change(change) {
    return this.#after(() => api('PATCH', `/api/users/${this.user.id}`, change));
  }

  async #remove() {
    const { id, name } = this.user;
    if (!(await askFirst(this.#buttons, t('users.removeAsk', { name }), t('users.remove')))) return;
    await this.#after(() => api('DELETE', `/api/users/${id}`));
  }

  async #after(call) {
    const isDone = await this.#result.run(call);
    if (isDone) await this.reload();
    return isDone;
  }
}

const countsOf = (user) => [
  t('users.conversations', { count: user.n_conversations }),
  t('users.messages', { count: user.n_messages }),
  t('stats.tokens', { count: user.n_tokens }),
  user.last_active_at ? t('users.active', { day: formatDay(new Date(user.last_active_at)) }) : t('users.neverActive'),
].join(' · ');

const addition = (reload) => {
  const [name, password, isAdmin] = [nameInput(), passwordInput('new-password'), checkbox(false)];
  const { area, run } = resultArea();
  const add = async () => {
    const user = { name: name.value, password: password.value, is_admin: isAdmin.checked };
    if (!(await run(() => api('POST', '/api/users', user)))) return;
    name.value = password.value = '';
    await reload();
  };
  const fields = [
    field(t('account.name'), name, t('account.nameRule')),
    field(t('account.password'), password, t('account.passwordRule')),
    checkField(t('account.admin'), isAdmin, t('users.adminNote')),
  ];
  return section(t('users.add'), [form(fields, t('users.add'), add, area)]);
};
