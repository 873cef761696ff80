// What was written and not sent yet, by conversation; it outlives the page.

const keyOf = (id) => `parley.draft.${id ?? 'new'}`;

/** Forget all drafts: whoever logs in next is not to read them. */
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
