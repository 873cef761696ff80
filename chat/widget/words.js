// What the widget says, in the language of its reader.

const english = {
  title: 'Chat',
  greeting: 'Hello! How can I help you?',
  open: 'Open the chat',
  close: 'Close the chat',
  unread: 'Open the chat: there is a new reply',
  messages: 'Messages',
  history: 'Earlier chats',
  none: 'There are no earlier chats.',
  untitled: 'Chat',
  new: 'New chat',
  save: 'Save this chat',
  markdown: 'As Markdown',
  text: 'As plain text',
  json: 'As JSON',
  write: 'Write a message',
  send: 'Send',
  stop: 'Stop',
  again: 'Try again',
  user: 'You said:',
  assistant: 'Reply:',
  good: 'Good reply',
  bad: 'Bad reply',
  writing: 'A reply is being written',
  waiting: { one: '1 is before you', other: '{count} are before you' },
  finished: 'The reply is finished.',
  stopped: 'Stopped',
  broken: 'The reply broke off. Please ask again.',
  lost: 'Connection lost, trying again …',
  left: { one: '1 character left', other: '{count} characters left' },
  offline: 'There is no connection.',
  later: 'That was a lot. Please try again {when}.',
  busy: 'Too much is asked right now. Please try again {when}.',
  another: 'Another reply is still being written.',
  off: 'This chat is not available any more.',
  gone: 'This chat has been deleted.',
  long: 'This message is too long.',
  unverified: 'It could not be confirmed who you are.',
  failed: 'Something went wrong. Please try again.',
};

const german = {
  title: 'Chat',
  greeting: 'Hallo! Was kann ich für Sie tun?',
  open: 'Chat öffnen',
  close: 'Chat schließen',
  unread: 'Chat öffnen: es gibt eine neue Antwort',
  messages: 'Nachrichten',
  history: 'Frühere Chats',
  none: 'Es gibt keine früheren Chats.',
  untitled: 'Chat',
  new: 'Neuer Chat',
  save: 'Diesen Chat speichern',
  markdown: 'Als Markdown',
  text: 'Als reinen Text',
  json: 'Als JSON',
  write: 'Nachricht schreiben',
  send: 'Senden',
  stop: 'Anhalten',
  again: 'Noch einmal',
  user: 'Sie:',
  assistant: 'Antwort:',
  good: 'Gute Antwort',
  bad: 'Schlechte Antwort',
  writing: 'Eine Antwort wird geschrieben',
  waiting: { one: '1 ist vor Ihnen dran', other: '{count} sind vor Ihnen dran' },
  finished: 'Die Antwort ist fertig.',
  stopped: 'Angehalten',
  broken: 'Die Antwort ist abgebrochen. Bitte fragen Sie noch einmal.',
  lost: 'Verbindung verloren, neuer Versuch …',
  left: { one: 'noch 1 Zeichen', other: 'noch {count} Zeichen' },
  offline: 'Es gibt keine Verbindung.',
  later: 'Das war viel auf einmal. Bitte versuchen Sie es {when} wieder.',
  busy: 'Gerade wird zu viel gefragt. Bitte versuchen Sie es {when} wieder.',
  another: 'Es wird noch eine andere Antwort geschrieben.',
  off: 'Dieser Chat ist nicht mehr verfügbar.',
  gone: 'Dieser Chat wurde gelöscht.',
  long: 'Diese Nachricht ist zu lang.',
  unverified: 'Es ließ sich nicht bestätigen, wer Sie sind.',
  failed: 'Etwas ist schiefgegangen. Bitte versuchen Sie es noch einmal.',
};

const LANGUAGES = { en: english, de: german };
const UNITS = [[86400, 'day'], [3600, 'hour'], [60, 'minute'], [1, 'second']];

let language = 'en';

/** Speak the first of some languages, given by their tags, that there are words for; returns its tag. */
export const speak = (...tags) => {
  const known = tags.map((tag) => tag?.slice(0, 2).toLowerCase()).filter((tag) => Object.hasOwn(LANGUAGES, tag));
  language = known[0] ?? 'en';
  return language;
};

/** Return the text of a key, its {names} replaced by values; one with plural forms is chosen by `count`. */
export const t = (key, values = {}) => {
  const text = LANGUAGES[language][key];
  const form = text.other ? (text[new Intl.PluralRules(language).select(values.count)] ?? text.other) : text;
  return form.replace(/\{(\w+)\}/g, (_, name) => values[name]);
};

/** Return when something is that is so many seconds ahead, or behind if there are fewer than none. */
export const when = (seconds) => {
  const [size, unit] = UNITS.find(([size]) => Math.abs(seconds) >= size) ?? UNITS.at(-1);
  return new Intl.RelativeTimeFormat(language, { numeric: 'auto' }).format(Math.round(seconds / size), unit);
};
