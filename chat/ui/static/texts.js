// The texts of the interface, in the language of its reader.

import { german } from './texts_de.js';
import { english } from './texts_en.js';

const LANGUAGES = { en: english, de: german };

const wanted = localStorage.getItem('parley.language') ?? navigator.language;

/** The code of the language of the interface. */
export const language = wanted.slice(0, 2) in LANGUAGES ? wanted.slice(0, 2) : 'en';

const texts = LANGUAGES[language];
const plural = new Intl.PluralRules(language);
const numbers = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });

/** Return a number as it is written in the interface language. */
export const formatNumber = (number) => numbers.format(number);

/** Return the text of a key, its {names} replaced by values; one with plural forms is chosen by `count`. */
export const t = (key, values = {}) => {
  const text = texts[key];
  if (text === undefined) throw new Error(`texts: no text ${key} in ${language}`);
  const form = typeof text === 'string' ? text : text[plural.select(values.count)] ?? text.other;
  return form.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === 'number' ? formatNumber(value) : String(value);
  });
};

/** Tell whether there is a text of a key. */
export const hasText = (key) => key in texts;
