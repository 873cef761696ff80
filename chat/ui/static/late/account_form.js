// <parley-account>: who is logged in, their password, and the way out; without accounts, how to make the first one.

import { account } from '../account.js';
import { api } from '../api.js';
import { el, textButton } from '../dom.js';
import { forgetDrafts } from '../drafts.js';
import { resultArea } from '../result_area.js';
import { t } from '../texts.js';
import { badge, field, form, input, note, section } from './parts.js';

const LENGTHS = { minLength: 10, maxLength: 200 };

/** Fill the element. */
export const fill = async (element) => {
  const user = await account();
  element.replaceChildren(...(user.has_accounts ? ofUser(user) : ofMachine()));
};

/** Return a field for a password; `autocomplete` is `current-password` or `new-password`. */
export const passwordInput = (autocomplete) =>
  input({ type: 'password', required: true, autocomplete, ...(autocomplete === 'new-password' ? LENGTHS : {}) });

/** Return a field for the name of an account. */
export const nameInput = () => input({ required: true, maxLength: 60, autocomplete: 'username', spellcheck: false });

// Without accounts.

const ofMachine = () => {
  const [name, password] = [nameInput(), passwordInput('new-password')];
  const { area, run } = resultArea();
  const create = async () => {
    const first = { name: name.value, password: password.value, is_admin: true };
    if (await run(() => api('POST', '/api/users', first))) location.assign('/login?next=/');
  };
  return [
    note(t('account.none')),
    section(t('account.first'), [
      note(t('account.firstNote')),
      form([field(t('account.name'), name, t('account.nameRule')),
        field(t('account.password'), password, t('account.passwordRule'))], t('account.create'), create, area),
    ]),
  ];
};

// With accounts.

const ofUser = ({ name, is_admin: isAdmin }) => {
  const who = el('p', { class: 'parley-who' }, el('strong', { dir: 'auto', textContent: name }),
    isAdmin ? badge(t('account.admin')) : null);
  const { area, run } = resultArea();
  const everywhere = textButton(t('account.logOutEverywhere'), async () => {
    if (await run(() => api('POST', '/api/account/logout-everywhere'))) leave();
  });
  return [who, el('div', { class: 'parley-buttons' }, logOutForm(), everywhere), area, passwordForm()];
};

// The answer to a form's own request is the login page.
const logOutForm = () => {
  const button = el('button', { type: 'submit', class: 'parley-button', textContent: t('account.logOut') });
  return el('form', { method: 'post', action: '/logout', on: { submit: forgetDrafts } }, button);
};

const leave = () => {
  forgetDrafts();
  location.assign('/login');
};

const passwordForm = () => {
  const [old, fresh] = [passwordInput('current-password'), passwordInput('new-password')];
  const { area, show } = resultArea();
  const change = () => show(() => api('POST', '/api/account/password', { old: old.value, new: fresh.value }),
    () => [el('p', { textContent: t('account.passwordChanged') })]);
  const fields = [field(t('account.oldPassword'), old), field(t('account.newPassword'), fresh, t('account.passwordRule'))];
  return section(t('account.changePassword'), [form(fields, t('account.changePassword'), change, area)]);
};
