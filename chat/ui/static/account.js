// Who uses the page, and what of it is for them.

import { api } from './api.js';

let asked = null;

/** Return who uses the page: `name` (null while there are no accounts), `is_admin`, `has_accounts`; raises ApiError. */
export const account = () => (asked ??= api('GET', '/api/account'));

/** Mark the page by who uses it: page.css hides what is not for them. */
export const markPage = ({ is_admin: isAdmin, has_accounts: hasAccounts }) => {
  document.documentElement.toggleAttribute('data-admin', isAdmin);
  document.documentElement.toggleAttribute('data-accounts', hasAccounts);
};
