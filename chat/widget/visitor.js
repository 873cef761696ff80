// Talks to the server as one visitor, whose token it keeps and renews.

const DAY = 86_400_000; // milliseconds; a token older than this is renewed
const SILENCE = 45_000; // milliseconds without a word, three pings of the server: the connection is dead

/** The server's refusal, or status 0 if there is no answer. */
export class Refusal extends Error {
  constructor(status = 0, code = 'offline', seconds = null) {
    super(code);
    Object.assign(this, { status, code, seconds });
  }
}

/** What is kept from one page to the next; where a browser forbids that, no longer than this page. */
class Memory {
  #key;
  #kept = {};

  constructor(key) {
    this.#key = key;
    try {
      this.#kept = JSON.parse(localStorage.getItem(key)) ?? {};
    } catch {
      // forbidden, or not ours: there is nothing to remember
    }
  }

  get(name) {
    return this.#kept[name] ?? null;
  }

  set(values) {
    Object.assign(this.#kept, values);
    try {
      localStorage.setItem(this.#key, JSON.stringify(this.#kept));
    } catch {
      // forbidden: it is known as long as this page lasts
    }
  }
}

const ask = async (path, token, { headers, ...options } = {}) => {
  const authorization = token ? { Authorization: `Bearer ${token}` } : {};
  const request = { credentials: 'omit', ...options, headers: { ...authorization, ...headers } };
  let response;
  try {
    response = await fetch(`/widget/api/${path}`, request);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refusal();
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new Refusal(response.status, error?.code, Number(response.headers.get('Retry-After')) || null);
};

const json = (method, body) =>
  ({ method, body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } });

/** One visitor of a site, on pages of one origin. */
export class Visitor {
  #site;
  #origin;
  #user = null;
  #token = null; // a promise of it
  #memory;

  constructor(site, origin) {
    this.#site = site;
    this.#origin = origin;
    this.#memory = this.#recall();
    if (this.#memory.get('renewed') > Date.now() - DAY) this.#token = Promise.resolve(this.#memory.get('token'));
  }

  /** The conversation that was shown last; null if a new one was. */
  get conversation() {
    return this.#memory.get('conversation');
  }

  set conversation(id) {
    this.#memory.set({ conversation: id });
  }

  /** Become a user whom the page vouches for, or somebody unknown again; raises Refusal. */
  async identify(user) {
    this.#user = user;
    this.#memory = this.#recall();
    this.#token = null;
    await this.#enter();
  }

  /** Call a route and return its response; raises Refusal. */
  async call(path, options) {
    const token = this.#enter();
    try {
      return await ask(path, await token, options);
    } catch (error) {
      if (error.status !== 401) throw error;
      if (this.#token === token) this.#token = null; // it has run out
      return ask(path, await this.#enter(), options);
    }
  }

  /** Call a route with a body. */
  send(method, path, body) {
    return this.call(path, json(method, body));
  }

  /** Yield the events of a conversation from what is known on, each with its name, id and data; raises Refusal. */
  async *events(conversation, known, signal) {
    const headers = { 'Last-Event-ID': known };
    const { body } = await this.call(`conversations/${conversation}/events`, { headers, signal });
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    try {
      for (let part = await readSoon(reader); !part.done; part = await readSoon(reader)) {
        const blocks = (text + part.value).split('\n\n');
        text = blocks.pop();
        yield* blocks.map(parse).filter(({ data }) => data);
      }
    } finally {
      reader.cancel().catch(() => {}); // the server counts a stream until its reader goes; it may be broken already
    }
  }

  #recall() {
    return new Memory(`parley:${this.#site}:${this.#origin}${this.#user ? `:${this.#user.id}` : ''}`);
  }

  #enter() {
    this.#token ??= this.#begin().catch((error) => {
      if (error.code !== 'wrong_hash') this.#token = null; // another time it may go well
      throw error;
    });
    return this.#token;
  }

  // The token of a user is not kept: the page has to vouch for them each time, or the next one at it would be them.
  async #begin() {
    const user = this.#user;
    const who = user ? { user } : { token: this.#memory.get('token') };
    const response = await ask('session', null, json('POST', { site: this.#site, origin: this.#origin, ...who }));
    const { token } = await response.json();
    if (!user) this.#memory.set({ token, renewed: Date.now() });
    return token;
  }
}

const readSoon = async (reader) => {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Refusal()), SILENCE);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    throw error.name === 'AbortError' ? error : new Refusal();
  } finally {
    clearTimeout(timer);
  }
};

const parse = (block) => {
  const { event, id, data } = Object.fromEntries(block.split('\n').map((line) => line.split(/: (.*)/)));
  return { name: event, id, data: data && JSON.parse(data) };
};
