// What was written and not sent yet, by conversation; it outlives the page.

import { toldInHead } from './dom.js';

// Each account has its own: who logs in next in this browser is not to read them.
const owner = toldInHead('account');
const keyOf = (id) => `parley.draft.${owner ? `${owner}/` : ''}${id ?? 'new'}`;

/** Forget all drafts of this account. */
export const forgetDrafts = () => Object.keys(localStorage).filter((key) => key.startsWith(keyOf('')))
  .forEach((key) => localStorage.removeItem(key));

/** Return the draft for a conversation, null for a new one; empty if there is none. */
export const readDraft = (id) => localStorage.getItem(keyOf(id)) ?? '';

/** Keep a draft; an empty one is forgotten. */
export const writeDraft = (id, text) => {
  try {
    if (text) localStorage.setItem(keyOf(id), text);
    else localStorage.removeItem(keyOf(id));
  } catch (error) {
    if (error.name !== 'QuotaExceededError') throw error; // too long to be kept: it stays in the box alone
  }
};
