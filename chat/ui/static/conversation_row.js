// One conversation in the sidebar: a link that opens it, a box to select it, and a button for its menu.

import { el, icon, iconButton } from './dom.js';
import { askText } from './inline_question.js';
import { siteName } from './site_names.js';
import { t } from './texts.js';

const MAX_TITLE = 200; // characters that the server takes

/** Return what a conversation is called, also while it has no title. */
export const titleOf = (conversation) => conversation.title || t('chat.untitled');

// Who a visitor of a site is, as far as the site has said, or else which site it is.
const visitorOf = (conversation) =>
  conversation.visitor_name ?? siteName(conversation.site_id) ?? t('sidebar.visitor');

/** A list item that is kept as long as its conversation is listed. */
export class ConversationRow {
  #title = el('span', { class: 'parley-row-title', dir: 'auto' });
  #visitorName = el('span', { dir: 'auto' });
  #visitor = el('span', { class: 'parley-row-visitor' }, icon('site'), this.#visitorName);
  #pin = icon('pin');

  constructor(conversation) {
    const { id } = conversation;
    this.id = id;
    this.box = el('input', { type: 'checkbox', class: 'parley-row-box', tabIndex: -1 });
    this.link = el('a', { class: 'parley-row-link', href: `?c=${encodeURIComponent(id)}`, tabIndex: -1 }, this.#title);
    this.more = iconButton('more', '', () => {}, { class: 'parley-row-more', tabIndex: -1, 'aria-haspopup': 'menu' });
    this.element = el('li', { class: 'parley-row' }, this.box, this.link, this.more);
    this.element.dataset.id = id;
    this.update(conversation);
  }

  /** Show what the conversation is now; what has not changed is left alone. */
  update(conversation) {
    this.conversation = conversation;
    const title = titleOf(conversation);
    if (this.#title.textContent !== title) {
      this.#title.textContent = title;
      this.link.title = title;
      this.box.ariaLabel = t('sidebar.selectOne', { title });
      this.more.ariaLabel = this.more.title = t('sidebar.options', { title });
    }
    if (conversation.channel === 'widget') this.#visitorName.textContent = visitorOf(conversation);
    this.#mark(this.#visitor, conversation.channel === 'widget');
    this.#mark(this.#pin, conversation.pinned);
  }

  #mark(mark, isSet) {
    if (isSet === (mark.parentNode !== null)) return;
    if (isSet) this.link.append(mark);
    else mark.remove();
  }

  /** Tell whether this is the conversation that is open. */
  set isOpen(isOpen) {
    if (isOpen) this.link.setAttribute('aria-current', 'page');
    else this.link.removeAttribute('aria-current');
  }

  /** Tell whether this one is selected; a box that is set anew is drawn anew, so it is left alone if it can be. */
  set isSelected(isSelected) {
    if (this.box.checked !== isSelected) this.box.checked = isSelected;
  }

  /** Let exactly one row of the list be reached by the Tab key. */
  set isTabStop(isTabStop) {
    for (const part of [this.link, this.more]) part.tabIndex = isTabStop ? 0 : -1;
  }

  /** Let the title be edited in its place; resolves to the new one, or to null if it stays. */
  async askTitle() {
    const { title } = this.conversation;
    const answer = await askText(this.element, t('sidebar.newTitle'), title ?? '', MAX_TITLE);
    return answer && answer !== title ? answer : null;
  }
}
