// The chat's frame: agrees with the loader on a port, and fetches the chat itself once somebody comes near to it.

import { choose, dress, shellStyles } from './appearance.js';
import { speak, t } from './words.js';

const RIGHT_TO_LEFT = /^(ar|dv|fa|he|ku|ps|sd|ug|ur|yi)\b/i;

const root = document.documentElement;
const { site, origin, appearance } = root.dataset;

const start = (port, options) => {
  const own = choose(JSON.parse(appearance), options);
  const language = options.language ?? own.language;
  root.lang = speak(language, options.lang, ...navigator.languages);
  root.dir = options.direction === 'rtl' || RIGHT_TO_LEFT.test(language) ? 'rtl' : 'ltr';
  dress(own, root);
  const texts = { title: own.title || t('title'), greeting: own.greeting || t('greeting') };
  const tell = (...message) => port.postMessage(message);
  let chat = null; // a promise of it

  const load = () => {
    chat ??= import('./chat.js').then(
      ({ Chat }) => new Chat({ site, origin, tell, isInline: 'target' in options, ...texts }),
      (error) => {
        chat = null; // another time it may come
        throw error;
      },
    );
    return chat;
  };

  port.onmessage = async ({ data: [name, ...values] }) => (await load()).heard[name]?.(...values);
  const labels = { open: t('open'), close: t('close'), unread: t('unread'), title: texts.title };
  tell('look', { styles: shellStyles(own), position: own.position, ...labels });
  if ('open' in options) tell('show', true, false);
  if (options.isShown) load().then((chat) => chat.heard.opened(false));
};

const meet = ({ source, origin: from, data, ports }) => {
  if (source !== parent || from !== origin || data?.type !== 'parley:port') return;
  removeEventListener('message', meet);
  start(ports[0], data.options);
};

addEventListener('message', meet);
parent.postMessage({ type: 'parley:ready' }, origin);
