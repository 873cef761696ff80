// Inline Markdown: a line of text becomes a flat list of tokens, then DOM nodes. Every step is linear in the text.

const MAX_DEPTH = 30; // emphasis nested deeper stays as its marks
const MAX_PARENTHESES = 32; // in a link's address: what bounds a search for its end
const SPECIAL = /[\\`*_~[\]<&$\n]|!\[|(?<![a-z0-9])https?:\/\//gi;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const ESCAPES = /\\([!-/:-@[-`{-~])|&(#x[\da-f]{1,6}|#\d{1,7}|[a-z]+);/gi;
const ENTITY = /&(?:#x[\da-f]{1,6}|#\d{1,7}|[a-z]+);/iy;
const NAMED = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  nbsp: "\u00a0",
  copy: "©",
  hellip: "…",
  mdash: "—",
  ndash: "–",
};
const MARK = /^[\p{P}\p{S}]/u;
const SAFE = /^(?:https?:\/\/|mailto:)[^\x00-\x1f\x7f]+$/i;
const ANGLE = /<((?:\\.|[^<>\\\n])*)>/y;
const SPACES = /[ \t\n]*/y;
const TARGET_END = /(?:[ \t\n]+(?:"(?:\\[^]|[^"\\])*"|'(?:\\[^]|[^'\\])*'|\((?:\\[^]|[^()\\])*\)))?[ \t\n]*\)/y;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]+|[\w.!#$%&'*+/=?^`{|}~-]+@[a-z\d-]+(?:\.[a-z\d-]+)*)>/iy;
const BARE = /[^\s\x00-\x1f<>[\]"`\\]+/y;
const MATH = /\$\$[^$`]+\$\$|\$(?!\s)[^$`]*[^\s$`]\$(?!\d)/y;

const matchAt = (regex, text, at) => {
  regex.lastIndex = at;
  return regex.exec(text);
};

const character = (name) => {
  if (name[0] !== "#") return Object.hasOwn(NAMED, name) ? NAMED[name] : `&${name};`;
  const code = /x/i.test(name) ? parseInt(name.slice(2), 16) : Number(name.slice(1));
  return code && code < 0x110000 && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : "\ufffd";
};

/** Replace backslash escapes and entities by what they stand for. */
export const unescape = (text) => text.replace(ESCAPES, (_, mark, name) => mark ?? character(name));

/** Append an element to a node and return it. */
export const append = (parent, tag) => parent.appendChild(parent.ownerDocument.createElement(tag));

// A reader takes the state at a special character, adds tokens, and returns where to go on: 0 if it is plain text.
// A token is a string, {tag, text}, {href, text} (a whole link), {href} or {end} (around a link's text), or a run.

const readEscape = (state) => {
  const { source, at, tokens } = state;
  const next = source[at + 1];
  if (next === "\n") tokens.push({ tag: "br", text: "" });
  else if (next === "(" && state.mathEnd !== -1 && (state.mathEnd = source.indexOf("\\)", at)) > 0) {
    tokens.push(source.slice(at, state.mathEnd + 2)); // TeX keeps its backslashes
    return state.mathEnd + 2;
  } else if (next && PUNCTUATION.test(next)) tokens.push(next);
  else return 0;
  return at + 2;
};

const readCode = (state) => {
  const { source, at, tokens } = state;
  const { length } = matchAt(/`+/y, source, at)[0];
  state.lastTicks ??= new Map(Array.from(source.matchAll(/`+/g), (run) => [run[0].length, run.index]));
  if (!(state.lastTicks.get(length) > at)) {
    tokens.push("`".repeat(length));
    return at + length;
  }
  const ticks = /`+/g;
  ticks.lastIndex = at + length;
  let end = ticks.exec(source);
  while (end[0].length !== length) end = ticks.exec(source);
  const text = source.slice(at + length, end.index).replace(/\n/g, " ");
  const padded = text[0] === " " && text.endsWith(" ") && text.trim();
  tokens.push({ tag: "code", text: padded ? text.slice(1, -1) : text });
  return ticks.lastIndex;
};

const readRun = ({ source, at, tokens, runs }) => {
  const char = source[at];
  let end = at;
  while (source[end] === char) end++;
  const before = [...source.slice(Math.max(0, at - 2), at)].pop() ?? " ";
  const after = source.slice(end, end + 2) || " ";
  const [spaceBefore, spaceAfter] = [/^\s/.test(before), /^\s/.test(after)];
  const [markBefore, markAfter] = [MARK.test(before), MARK.test(after)];
  const left = !spaceAfter && (!markAfter || spaceBefore || markBefore);
  const right = !spaceBefore && (!markBefore || spaceAfter || markAfter);
  const run = { char, length: end - at, count: end - at, order: tokens.length, opened: [], closed: [] };
  run.opens = left && (char !== "_" || !right || markBefore);
  run.closes = right && (char !== "_" || !left || markAfter);
  tokens.push(run);
  if (char !== "~" || run.length === 2) runs.push(run);
  return end;
};

const fits = (opener, closer) =>
  opener.char === closer.char &&
  (closer.char === "~" ||
    !(opener.closes || closer.opens) ||
    closer.length % 3 === 0 ||
    (opener.length + closer.length) % 3 !== 0);

/** Pair the runs of marks by CommonMark's rules; a floor remembers below which opener a search found nothing. */
const pairRuns = (runs) => {
  const openers = [];
  const floors = {};
  for (const run of runs) {
    const key = run.char + run.opens + (run.length % 3);
    while (run.closes && run.count) {
      const floor = floors[key] ?? 0;
      let i = openers.length - 1;
      while (i >= 0 && openers[i].order >= floor && !fits(openers[i], run)) i--;
      if (i < 0 || openers[i].order < floor) {
        floors[key] = run.order;
        break;
      }
      const opener = openers[i];
      const width = opener.count > 1 && run.count > 1 ? 2 : 1;
      opener.opened.push(width);
      run.closed.push(width);
      opener.count -= width;
      run.count -= width;
      openers.length = opener.count ? i + 1 : i;
    }
    if (run.opens && run.count) openers.push(run);
  }
};

const readOpener = ({ source, at, tokens, runs, brackets }) => {
  const mark = source[at] === "!" ? "![" : "[";
  brackets.push({ image: mark.length > 1, order: tokens.length, firstRun: runs.length });
  tokens.push(mark);
  return at + mark.length;
};

const bareTargetEnd = (source, at) => {
  let depth = 0;
  for (; at < source.length && source[at] > " "; at++) {
    if (source[at] === "\\" && PUNCTUATION.test(source[at + 1] ?? "")) at++;
    else if (source[at] === "(" && ++depth > MAX_PARENTHESES) return -1;
    else if (source[at] === ")" && --depth < 0) return at;
  }
  return depth ? -1 : at;
};

/** Read `(address "title")`; nothing if it is malformed or its scheme is not one to follow. */
const readTarget = (source, at) => {
  if (source[at] !== "(") return null;
  const start = at + 1 + matchAt(SPACES, source, at + 1)[0].length;
  const angle = matchAt(ANGLE, source, start);
  const end = angle ? start + angle[0].length : source[start] === "<" ? -1 : bareTargetEnd(source, start);
  const rest = end >= 0 && matchAt(TARGET_END, source, end);
  const href = rest && unescape(angle ? angle[1] : source.slice(start, end));
  return rest && SAFE.test(href) ? { href, end: end + rest[0].length } : null;
};

const plainText = (token) =>
  token.text ?? (token.char ? token.char.repeat(token.count) : token.href || token.end ? "" : token);

const readCloser = (state) => {
  const { source, at, tokens, runs, brackets } = state;
  const bracket = brackets.pop();
  const target = bracket && (bracket.image || bracket.order >= state.noLinkBefore) && readTarget(source, at + 1);
  if (!target) return 0;
  pairRuns(runs.splice(bracket.firstRun));
  const { href, end } = target;
  if (bracket.image) {
    const text = tokens.splice(bracket.order).slice(1).map(plainText).join("");
    tokens.push({ href, text });
  } else {
    tokens[bracket.order] = { href };
    tokens.push({ end: true });
    state.noLinkBefore = bracket.order; // links do not hold links
  }
  return end;
};

const readAutolink = ({ source, at, tokens }) => {
  const [all, text] = matchAt(AUTOLINK, source, at) ?? [];
  const href = SAFE.test(text) ? text : `mailto:${text}`;
  if (!all || !SAFE.test(href)) return 0;
  tokens.push({ href, text });
  return at + all.length;
};

/** Read a bare address, without the punctuation after it and a parenthesis that it did not open. */
const readBare = ({ source, at, tokens }) => {
  let [href] = matchAt(BARE, source, at);
  let extra = href.split(")").length - href.split("(").length;
  while (/[?!.,:;*_~'|]$/.test(href.slice(-1)) || (href.endsWith(")") && extra-- > 0)) href = href.slice(0, -1);
  if (!/:\/\/[a-z\d]/i.test(href.slice(0, 9))) return 0;
  tokens.push({ href, text: href });
  return at + href.length;
};

const readEntity = ({ source, at, tokens }) => {
  const [entity] = matchAt(ENTITY, source, at) ?? [""];
  tokens.push(unescape(entity) || "&");
  return at + (entity.length || 1);
};

const readMath = ({ source, at, tokens }) => {
  const [math] = matchAt(MATH, source, at) ?? ["$"];
  tokens.push(math);
  return at + math.length;
};

const READERS = {
  "\\": readEscape,
  "`": readCode,
  "*": readRun,
  _: readRun,
  "~": readRun,
  "[": readOpener,
  "![": readOpener,
  "]": readCloser,
  "<": readAutolink,
  "&": readEntity,
  $: readMath,
};

const readTokens = (source) => {
  const state = { source, at: 0, tokens: [], runs: [], brackets: [], noLinkBefore: 0 };
  const { tokens } = state;
  for (let found; (found = matchAt(SPECIAL, source, state.at)); ) {
    let end = found.index;
    const lineEnds = found[0] === "\n";
    while (lineEnds && end > state.at && source[end - 1] === " ") end--;
    tokens.push(source.slice(state.at, end));
    state.at = found.index;
    if (lineEnds) tokens.push(state.at++ - end > 1 ? { tag: "br", text: "" } : "\n");
    else {
      const next = (READERS[found[0]] ?? readBare)(state);
      if (!next) tokens.push(source[state.at]);
      state.at = next || state.at + 1;
    }
  }
  tokens.push(source.slice(state.at));
  pairRuns(state.runs);
  return tokens;
};

class Writer {
  constructor(parent) {
    this.node = parent;
    this.text = "";
    this.depth = 0;
    this.inLink = false;
  }

  flush() {
    if (this.text) this.node.append(this.text);
    this.text = "";
    return this.node;
  }

  enter(tag, mark) {
    if (this.depth++ < MAX_DEPTH) this.node = append(this.flush(), tag);
    else this.text += mark;
  }

  leave(mark) {
    if (--this.depth < MAX_DEPTH) this.node = this.flush().parentNode;
    else this.text += mark;
  }

  openLink(href) {
    this.node = append(this.flush(), "a");
    Object.assign(this.node, { href, target: "_blank", rel: "noopener noreferrer nofollow ugc" });
  }

  writeRun({ char, count, opened, closed }) {
    for (const width of closed) this.leave(char.repeat(width));
    this.text += char.repeat(count);
    const tags = ["", "em", char === "~" ? "del" : "strong"];
    for (const width of opened.reverse()) this.enter(tags[width], char.repeat(width));
  }

  write(token) {
    if (token.char) this.writeRun(token);
    else if (token.tag) append(this.flush(), token.tag).append(token.text);
    else if (token.href && token.text === undefined) {
      this.openLink(token.href);
      this.inLink = true;
    } else if (token.end) {
      this.node = this.flush().parentNode;
      this.inLink = false;
    } else if (token.href && !this.inLink) {
      this.openLink(token.href);
      this.node.append(token.text);
      this.node = this.node.parentNode;
    } else this.text += token.text ?? token;
  }
}

/** Append inline Markdown to a node as text, emphasis, code and links. */
export const appendInline = (parent, source) => {
  const writer = new Writer(parent);
  for (const token of readTokens(source)) writer.write(token);
  writer.flush();
};
