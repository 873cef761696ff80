// The id of the conversation is kept in the URL, so that a reload, a bookmark and the back button find it.
addEventListener('popstate', () => location.reload());

function conversationOfUrl() {
  closeSidebarOnPhones();
  return new URLSearchParams(location.search).get('c') || '';
}

function showConversation(id, focused) {
  document.querySelector(focused)?.focus();
  const url = new URL(location.href);
  if ((url.searchParams.get('c') || '') === id) return;
  closeSidebarOnPhones();
  if (id) url.searchParams.set('c', id); else url.searchParams.delete('c');
  history.pushState(null, '', url);
}

// On a phone the sidebar covers the chat.
function closeSidebarOnPhones() {
  if (innerWidth < 768) document.querySelector('.sidebar.open .toggle-button')?.click();
}
