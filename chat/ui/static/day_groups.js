// The headings under which conversations are listed, by the calendar of the place where the page is read.

import { language, t } from './texts.js';

const DAY = 24 * 60 * 60 * 1000;

const midnight = (date) => new Date(date.getFullYear(), date.getMonth(), date.getDate());

// Made once: making a format takes far longer than formatting.
const format = (options) => new Intl.DateTimeFormat(language, options);
const MONTH = { thisYear: format({ month: 'long' }), other: format({ month: 'long', year: 'numeric' }) };
const DATE = {
  thisYear: format({ day: 'numeric', month: 'short' }),
  other: format({ day: 'numeric', month: 'short', year: 'numeric' }),
};

const formatBy = ({ thisYear, other }, date, now) =>
  (date.getFullYear() === now.getFullYear() ? thisYear : other).format(date);

const dayName = (date, now) => {
  const days = Math.round((midnight(now) - midnight(date)) / DAY); // rounded, since a day can have 23 or 25 hours
  if (days <= 0) return t('sidebar.today');
  if (days === 1) return t('sidebar.yesterday');
  if (days <= 7) return t('sidebar.week');
  if (days <= 30) return t('sidebar.month');
  return formatBy(MONTH, date, now);
};

/** Return the heading of a conversation: in the trash by when it was put there, elsewhere by when it was last used. */
export const groupName = (conversation, now) => {
  if (conversation.trashed_at) return dayName(new Date(conversation.trashed_at), now);
  return conversation.pinned ? t('sidebar.pinned') : dayName(new Date(conversation.updated_at), now);
};

/** Return a Map from headings to their conversations, both in the order given. */
export const groupByDay = (conversations, now = new Date()) => {
  const groups = new Map();
  for (const conversation of conversations) {
    const name = groupName(conversation, now);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(conversation);
  }
  return groups;
};

/** Return the day of a date in few words. */
export const formatDay = (date, now = new Date()) => formatBy(DATE, date, now);

/** Return the moment when a day written as YYYY-MM-DD begins here, or one that is `later` days after it. */
export const startOfDay = (text, later = 0) => {
  const [year, month, day] = text.split('-').map(Number);
  return new Date(year, month - 1, day + later);
};
