// Markdown as DOM nodes: CommonMark's blocks, GFM's tables and task lists. Nothing of a text becomes markup.

import { append, appendInline, unescape } from "./markdown_inline.js";

const MAX_OPEN = 60; // quotes, lists and items inside each other: 30 lists; what is deeper is text
const MAX_FILLED_CELLS = 10000; // a wide table of short rows would grow without bound
const LINE = /([^\r\n]*)(\r\n?|\n|$)/g;
const HEADING = /^(#{1,6})(?:[ \t]+|$)/;
const UNDERLINE = /^(=+|-+)[ \t]*$/;
const RULE = /^([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const FENCE = /^(?:(`{3,})([^`]*)|(~{3,})(.*))$/;
const ITEM = /^(?:[*+-]|(\d{1,9})[.)])(?=[ \t]|$)/;
const DELIMITERS = /^(?!-[ \t])[|:-][|: \t-]*$/;
const TASK = /^\[([ xX])\][ \t]+(?=\S)/;
const LANGUAGE = /^[A-Za-z0-9+#._-]{1,30}$/;

const cellsOf = (row) => {
  const cells = row.trim().split(/(?<!\\)\|/);
  if (cells[0] === "") cells.shift();
  if (cells[cells.length - 1] === "") cells.pop();
  return cells.map((cell) => cell.replace(/\\\|/g, "|").trim());
};

/** A reader of lines that keeps the stack of open blocks, as CommonMark's appendix describes it. */
class BlockReader {
  constructor() {
    this.blocks = [];
    this.open = [{ kind: "root", blocks: this.blocks, last: 0 }];
    this.row = 0;
    this.offset = 0;
  }

  get tip() {
    return this.open[this.open.length - 1];
  }

  get body() {
    return this.rest.replace(/^[ \t]+/, "");
  }

  /** Columns of white space before the rest of the line. */
  get indent() {
    let column = this.column;
    for (const char of this.rest) {
      if (char === " ") column++;
      else if (char === "\t") column += 4 - (column % 4);
      else break;
    }
    return column - this.column;
  }

  skip(columns) {
    for (; columns > 0; columns--) {
      if (this.rest[0] === "\t") this.rest = " ".repeat(4 - (this.column % 4)) + this.rest.slice(1);
      this.rest = this.rest.slice(1);
      this.column++;
    }
    return true;
  }

  read(text) {
    for (const [all, line] of text.replace(/\0/g, "\ufffd").matchAll(LINE)) {
      if (!all) continue;
      this.readLine(line);
      this.lastOffset = this.offset;
      this.offset += all.length;
    }
    return this;
  }

  finish() {
    while (this.open.length > 1) this.close();
    return this.blocks;
  }

  readLine(line) {
    this.rest = line;
    this.column = 0;
    this.row++;
    this.depth = 1;
    while (this.depth < this.open.length && this.continues(this.open[this.depth])) this.depth++;
    if (this.depth === this.open.length && this.tip.kind === "code") this.addCode();
    else {
      while (this.body && OPENERS.some((opener) => opener(this, this.body, this.indent)));
      this.addText();
    }
  }

  continues(block) {
    if (block.kind === "list") return true;
    const { body, indent } = this;
    if (block.kind === "quote") return this.skipQuoteMark(body, indent) && (block.last = this.row);
    if (block.kind === "item") {
      return (body ? indent >= block.width : block.blocks.length) && this.skip(Math.min(block.width, indent));
    }
    if (block.kind !== "code") return body !== "";
    return block.fence || ((indent > 3 || !body) && this.skip(Math.min(4, indent)));
  }

  skipQuoteMark(body, indent) {
    if (body[0] !== ">" || indent > 3) return false;
    this.skip(indent + 1);
    return this.skip(Math.min(1, this.indent));
  }

  addCode() {
    const { tip, body, indent } = this;
    const mark = tip.fence?.[0];
    if (mark && indent < 4 && body.startsWith(tip.fence) && !body.trimEnd().split(mark).join("")) {
      tip.last = this.row;
      this.close();
      return;
    }
    if (mark || body) tip.last = this.row;
    if (mark) this.skip(Math.min(tip.indent, indent));
    tip.lines.push(this.rest);
  }

  addText() {
    const { body, tip } = this;
    if (body && tip.kind === "paragraph") this.addLine(body); // even of a quote or item that the line does not continue
    else {
      while (this.open.length > this.depth) this.close();
      if (body && this.tip.kind === "table") this.addLine(body);
      else if (body) this.push({ kind: "paragraph", lines: [body] });
    }
  }

  addLine(line) {
    this.tip.lines.push(line);
    this.tip.last = this.row;
  }

  /** Open a block in the innermost block that the line continues and that may hold it; leaves use up the line. */
  push(block) {
    const holds = ({ kind, blocks }) => blocks && (kind === "list") === (block.kind === "item");
    while (this.open.length > this.depth || !holds(this.tip)) this.close();
    this.tip.blocks.push(block);
    this.open.push(Object.assign(block, { first: this.row, last: this.row, start: this.offset }));
    this.depth = this.open.length;
    if (!block.blocks) this.rest = "";
    return true;
  }

  close() {
    const { last } = this.open.pop();
    this.tip.last = Math.max(this.tip.last, last);
    return true;
  }
}

const openCode = (reader, body, indent) => {
  if (indent < 4 || reader.tip.kind === "paragraph") return false;
  reader.skip(4);
  return reader.push({ kind: "code", lines: [reader.rest] });
};

const openQuote = (reader, body, indent) =>
  reader.depth < MAX_OPEN && reader.skipQuoteMark(body, indent) && reader.push({ kind: "quote", blocks: [] });

const openHeading = (reader, body, indent) => {
  const [all, marks] = HEADING.exec(body) ?? [];
  if (!all || indent > 3) return false;
  const text = body.slice(all.length).trimEnd();
  let end = text.length;
  while (text[end - 1] === "#") end--;
  const closed = end === 0 || /[ \t]/.test(text[end - 1]);
  reader.push({ kind: "heading", level: marks.length, lines: [closed ? text.slice(0, end) : text] });
  return reader.close();
};

const openFence = (reader, body, indent) => {
  const found = indent < 4 && FENCE.exec(body);
  if (!found) return false;
  const [language] = unescape((found[2] ?? found[4]).trim()).split(/\s/);
  return reader.push({ kind: "code", fence: found[1] ?? found[3], indent, language, lines: [] });
};

/** Make a table of a paragraph's last line, or a heading of all its lines, where the line after it says so. */
const openUnderlined = (reader, body, indent) => {
  const paragraph = reader.open[reader.depth - 1];
  if (paragraph.kind !== "paragraph" || indent > 3) return false;
  const header = paragraph.lines[paragraph.lines.length - 1];
  if (DELIMITERS.test(body) && header.includes("|")) {
    const marks = cellsOf(body);
    if (marks.every((mark) => /^:?-+:?$/.test(mark)) && cellsOf(header).length === marks.length) {
      return openTable(reader, paragraph, marks);
    }
  }
  if (!UNDERLINE.test(body)) return false;
  Object.assign(paragraph, { kind: "heading", level: body[0] === "=" ? 1 : 2, last: reader.row });
  reader.rest = "";
  return reader.close();
};

const alignOf = (mark) => (mark.endsWith(":") ? (mark[0] === ":" ? "center" : "right") : mark[0] === ":" ? "left" : "");

const openTable = (reader, paragraph, marks) => {
  const lines = [paragraph.lines.pop()];
  paragraph.last--;
  reader.depth--;
  if (!paragraph.lines.length) reader.open[reader.depth - 1].blocks.pop();
  reader.push({ kind: "table", aligns: marks.map(alignOf), lines });
  return Object.assign(reader.tip, { first: reader.row - 1, start: reader.lastOffset });
};

const openRule = (reader, body, indent) =>
  indent < 4 && RULE.test(body) && reader.push({ kind: "rule" }) && reader.close();

const openItem = (reader, body, indent) => {
  const [mark, number] = (reader.depth < MAX_OPEN && indent < 4 && ITEM.exec(body)) || [];
  if (!mark) return false;
  const parent = reader.open[reader.depth - 1];
  const text = body.slice(mark.length).trim();
  if (parent.kind === "paragraph" && (!text || (number && Number(number) !== 1))) return false;
  const type = mark.slice(-1);
  if (parent.kind !== "list" || parent.type !== type) reader.push({ kind: "list", type, number, blocks: [] });
  reader.skip(indent + mark.length);
  const space = text && reader.indent < 5 ? reader.indent : 1;
  reader.skip(Math.min(space, reader.indent));
  return reader.push({ kind: "item", width: indent + mark.length + space, blocks: [] });
};

const OPENERS = [openCode, openQuote, openHeading, openFence, openUnderlined, openRule, openItem];

const appendText = (parent, { lines }) => {
  appendInline(parent, lines.join("\n").trimEnd());
  parent.dir = "auto"; // last: with each node that such an element gets, the browser looks through all
};

const appendCells = (parent, tag, cells, aligns) => {
  const row = append(parent, "tr");
  cells.forEach((cell, i) => {
    const node = append(row, tag);
    if (aligns[i]) node.align = aligns[i];
    appendText(node, { lines: [cell] });
  });
};

const appendTable = (parent, { lines, aligns }) => {
  const table = append(parent, "table");
  const [header, ...rows] = lines.map(cellsOf);
  appendCells(append(table, "thead"), "th", header, aligns);
  const body = rows.length && append(table, "tbody");
  let spare = MAX_FILLED_CELLS;
  for (const row of rows) {
    const missing = Math.min(spare, Math.max(0, aligns.length - row.length));
    spare -= missing;
    appendCells(body, "td", [...row.slice(0, aligns.length), ...Array(missing).fill("")], aligns);
  }
};

const appendCode = (parent, { lines, fence, language }) => {
  const code = append(append(parent, "pre"), "code");
  if (language && LANGUAGE.test(language)) code.className = `language-${language}`;
  while (!fence && !lines[lines.length - 1].trim()) lines.pop();
  code.textContent = lines.map((line) => `${line}\n`).join("");
};

const hasGap = (blocks) => blocks.some((block, i) => i && block.first > blocks[i - 1].last + 1);

const appendList = (parent, { blocks, number }) => {
  const list = append(parent, number ? "ol" : "ul");
  if (number && Number(number) !== 1) list.start = Number(number);
  const loose = hasGap(blocks) || blocks.some((item) => hasGap(item.blocks));
  for (const item of blocks) appendItem(append(list, "li"), item, loose);
};

const appendItem = (node, { blocks }, loose) => {
  blocks.forEach((block, i) => {
    const paragraph = block.kind === "paragraph";
    const parent = paragraph && loose ? append(node, "p") : node;
    if (paragraph && !i) appendCheckbox(parent, block);
    if (!paragraph) appendBlock(parent, block);
    else if (loose) appendText(parent, block);
    else appendInline(parent, block.lines.join("\n").trimEnd());
  });
  node.dir = "auto";
};

const appendCheckbox = (parent, { lines }) => {
  const [all, mark] = TASK.exec(lines[0]) ?? [];
  if (!all) return;
  lines[0] = lines[0].slice(all.length);
  const box = append(parent, "input");
  Object.assign(box, { type: "checkbox", disabled: true, defaultChecked: mark !== " " });
  parent.append(" ");
};

const appendBlock = (parent, block) => {
  if (block.kind === "paragraph") appendText(append(parent, "p"), block);
  else if (block.kind === "heading") appendText(append(parent, `h${block.level}`), block);
  else if (block.kind === "code") appendCode(parent, block);
  else if (block.kind === "list") appendList(parent, block);
  else if (block.kind === "table") appendTable(parent, block);
  else if (block.kind === "rule") append(parent, "hr");
  else {
    const quote = append(parent, "blockquote");
    for (const inner of block.blocks) appendBlock(quote, inner);
  }
};

/** Render Markdown as nodes of a document. */
export const renderMarkdown = (text, document) => {
  const fragment = document.createDocumentFragment();
  for (const block of new BlockReader().read(text).finish()) appendBlock(fragment, block);
  return fragment;
};

/** Make a node's children from a position on equal to new ones; those that are equal already stay as they are. */
const replaceFrom = (parent, position, nodes) => {
  nodes.forEach((node, i) => {
    const old = parent.childNodes[position + i];
    if (!old) parent.append(node);
    else if (!old.isEqualNode(node)) old.replaceWith(node);
  });
  while (parent.childNodes.length > position + nodes.length) parent.lastChild.remove();
};

/** A growing text in an element: blocks that more text cannot change are read once and keep their nodes. */
export class MarkdownStream {
  constructor(element) {
    this.element = element;
    this.settled = "";
    this.count = 0;
    element.replaceChildren();
  }

  /** Show the whole text so far. */
  update(text) {
    if (!text.startsWith(this.settled)) {
      this.settled = "";
      this.count = 0;
    }
    const { settled, count } = this;
    const tail = text.slice(settled.length);
    const end = tail.lastIndexOf("\n") + 1; // a line that still grows may yet join the block before it
    const reader = new BlockReader().read(tail.slice(0, end));
    const { blocks, open } = reader;
    if (open.length > 1 || end) {
      const last = open[1];
      this.settled = text.slice(0, settled.length + (last ? last.start : end));
      this.count += last ? blocks.indexOf(last) : blocks.length;
    }
    reader.read(tail.slice(end)).finish();
    const fragment = this.element.ownerDocument.createDocumentFragment();
    for (const block of blocks) appendBlock(fragment, block);
    replaceFrom(this.element, count, [...fragment.childNodes]);
  }
}
