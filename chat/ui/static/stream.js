// The stream of events of this page, held as long as the page is seen.

import { api } from './api.js';

const FIRST_WAIT = 500; // milliseconds
const LONGEST_WAIT = 5000;

/** Listens to a stream of events, and goes back to it whenever it is lost. */
export class Stream {
  #source = null;
  #timer = 0;
  #wait = FIRST_WAIT;
  #options;

  /**
   * `url()` says where the stream is, each time anew; `listeners` take the data and the id of what comes, by its name;
   * `onOpen(isBack)` hears that the stream is there, maybe after a time without it, `onLost()` that it is not.
   */
  constructor(options) {
    this.#options = options;
    document.addEventListener('visibilitychange', () => (document.hidden ? this.close() : this.#connect(true)));
    addEventListener('online', () => this.#connect(true));
    addEventListener('pagehide', () => this.close());
    addEventListener('pageshow', (event) => event.persisted && this.#connect(true));
  }

  /** Listen from where `url` says, and no more to what was listened to before; resolves once it is there or is not. */
  open() {
    return new Promise((settle) => this.#connect(false, settle));
  }

  /** Listen no more. */
  close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #connect(isBack, settle = () => {}) {
    this.close();
    if (document.hidden) return settle();
    const { url, listeners, onOpen } = this.#options;
    this.#source = new EventSource(url());
    this.#source.onopen = () => {
      this.#wait = FIRST_WAIT;
      onOpen(isBack);
      settle();
    };
    this.#source.onerror = () => {
      this.#retry();
      settle();
    };
    for (const [name, listener] of Object.entries(listeners)) {
      this.#source.addEventListener(name, ({ data, lastEventId }) => listener(JSON.parse(data), lastEventId));
    }
  }

  // The browser's own retry would ask for the same place again, and never after an answer that is an error.
  #retry() {
    this.close();
    this.#options.onLost();
    api('GET', '/api/account').catch(() => {}); // a stream does not say that the login has ended; this goes to a new one
    this.#timer = setTimeout(() => this.#connect(true), this.#wait);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
  }
}
