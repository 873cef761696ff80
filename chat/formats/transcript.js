'use strict';
// What the page does once it is open: one conversation at a time, the branches, the search. Nothing is made from markup.

const conversations = [...document.querySelectorAll('.conversation')];
const list = document.querySelector('nav');
const folded = list.querySelector('details');
const box = document.getElementById('query');
const entries = new Map(conversations.map((conversation) => [conversation, addEntry(conversation)]));
const narrow = matchMedia('(max-width: 60rem)');

let shown; // the conversation
let pattern = null; // of what is searched
let hits = []; // where it is: the conversation, the text in it, and the how manieth match of that text
let current = 0;

// Conversations

function addEntry(conversation) {
  const link = document.createElement('a');
  const title = document.createElement('bdi');
  const count = document.createElement('span');
  link.href = `#${conversation.id}`;
  title.textContent = conversation.querySelector('h2').textContent;
  link.append(title, count);
  const item = document.createElement('li');
  item.append(link);
  folded.querySelector('ol').append(item);
  return { item, link, count };
}

function showConversation(conversation) {
  if (conversation === shown) return;
  shown = conversation;
  unmark();
  for (const other of conversations) other.hidden = other !== shown;
  for (const [other, { link }] of entries) link.ariaCurrent = other === shown ? 'page' : null;
  document.title = shown.querySelector('h2').textContent;
  if (pattern) mark();
  scrollTo(0, 0);
}

function showAddressed() {
  const addressed = conversations.find((conversation) => `#${conversation.id}` === location.hash);
  if (conversations.length) showConversation(addressed ?? conversations[0]);
}

function foldOnPhones() {
  folded.open = !narrow.matches;
}

// Branches

function messagesBeside(message) {
  return [...message.closest('.conversation').querySelectorAll('.message')];
}

// Shows a message with all before it, and after it the newest branch.
function showBranch(message) {
  const messages = messagesBeside(message);
  const parentOf = (other) => messages[other.dataset.parent];
  const below = new Set([message]);
  for (const other of messages) if (below.has(parentOf(other))) below.add(other); // children come after their parents
  const branch = new Set();
  for (let step = [...below].pop(); step; step = parentOf(step)) branch.add(step);
  for (const other of messages) other.hidden = !branch.has(other);
}

function showVersion(button) {
  const message = button.closest('.message');
  const versions = messagesBeside(message).filter((other) => other.dataset.parent === message.dataset.parent);
  const place = versions.indexOf(message) + Number(button.dataset.step) + versions.length;
  const chosen = versions[place % versions.length];
  showBranch(chosen);
  chosen.querySelector(`[data-step="${button.dataset.step}"]`).focus();
}

// Search

function* textNodes(text) {
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) yield walker.currentNode;
}

function unmark() {
  for (const found of document.querySelectorAll('mark')) found.replaceWith(...found.childNodes);
  document.querySelector('main').normalize();
}

// Only in the conversation that is shown: others get their marks when they are.
function mark() {
  for (const text of shown.querySelectorAll('.text')) {
    for (const node of [...textNodes(text)]) {
      for (const match of [...node.data.matchAll(pattern)].reverse()) { // from the end, so that places stay
        const found = node.splitText(match.index);
        found.splitText(match[0].length);
        const element = document.createElement('mark');
        found.replaceWith(element);
        element.append(found);
      }
    }
  }
}

function findIn(conversation) {
  const found = [];
  for (const text of conversation.querySelectorAll('.text')) {
    let place = 0;
    for (const node of textNodes(text)) {
      for (const _ of node.data.matchAll(pattern)) found.push({ conversation, text, place: place++ });
    }
  }
  return found;
}

function search() {
  const query = box.value.trim();
  pattern = query ? new RegExp(query.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), 'giu') : null;
  unmark();
  hits = [];
  for (const [conversation, { item, count }] of entries) {
    const found = pattern ? findIn(conversation) : [];
    for (const hit of found) hits.push(hit);
    item.hidden = pattern && !found.length;
    count.textContent = found.length || '';
  }
  if (pattern && shown) mark();
  current = Math.max(0, hits.findIndex((hit) => hit.conversation === shown));
  goTo(current);
}

function goTo(place) {
  current = hits.length ? (place + hits.length) % hits.length : 0;
  for (const button of document.querySelectorAll('#previous, #next')) button.disabled = !hits.length;
  const found = hits.length ? `${current + 1} of ${hits.length}` : 'Nothing found';
  document.getElementById('found').value = pattern ? found : '';
  document.querySelector('mark.current')?.classList.remove('current');
  if (hits.length) showHit(hits[current]);
}

function showHit({ conversation, text, place }) {
  if (conversation !== shown) location.hash = conversation.id;
  showConversation(conversation);
  const message = text.closest('.message');
  if (message?.hidden) showBranch(message);
  const found = text.querySelectorAll('mark')[place];
  found.classList.add('current');
  found.scrollIntoView({ block: 'center' });
}

// The page

let timer;
box.addEventListener('input', () => {
  clearTimeout(timer);
  timer = setTimeout(search, 150); // milliseconds between two keys
});
box.addEventListener('keydown', (event) => {
  if (event.key === 'Enter') goTo(current + (event.shiftKey ? -1 : 1));
});
document.querySelector('form').addEventListener('submit', (event) => event.preventDefault());
document.getElementById('previous').addEventListener('click', () => goTo(current - 1));
document.getElementById('next').addEventListener('click', () => goTo(current + 1));
document.querySelector('main').addEventListener('click', (event) => {
  const button = event.target.closest('[data-step]');
  if (button) showVersion(button);
});
list.addEventListener('click', (event) => {
  if (event.target.closest('a')) foldOnPhones();
});
narrow.addEventListener('change', foldOnPhones);
addEventListener('hashchange', showAddressed);

document.documentElement.classList.add('live');
list.querySelector('summary').textContent = `${conversations.length} conversations`;
list.hidden = conversations.length < 2;
foldOnPhones();
showAddressed();
