// The address of the page: it names the conversation that is shown, so that a reload and a bookmark find it.

/** Return the id of the conversation that the address names, null for none. */
export const idInAddress = () => new URLSearchParams(location.search).get('c');

/** Name a conversation, or none, in the address; `how` is `pushState` or `replaceState`. */
export const writeAddress = (id, how) => {
  const url = new URL(location.href);
  if (id) url.searchParams.set('c', id);
  else url.searchParams.delete('c');
  if (url.href !== location.href) history[how](null, '', url);
};
