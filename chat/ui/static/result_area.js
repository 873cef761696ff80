// Where a form shows what a call of the server comes to, or why it failed.

import { ApiError } from './api.js';
import { el } from './dom.js';
import { t } from './texts.js';

/**
 * Return an area for results, and what shows there what a call comes to, or why it failed: `show(call, describe)` shows
 * the elements that `describe` makes of the answer, and resolves to it, or to null; `run(call)` shows only a failure,
 * and tells whether it went well.
 */
export const resultArea = () => {
  const area = el('div', { role: 'status', class: 'parley-note' });
  const show = async (call, describe) => {
    area.replaceChildren(el('progress', { ariaLabel: t('care.working') }));
    try {
      const answer = await call();
      area.replaceChildren(...describe(answer));
      return answer;
    } catch (error) {
      area.replaceChildren();
      if (!(error instanceof ApiError)) throw error;
      area.replaceChildren(el('p', { role: 'alert', class: 'parley-problem', textContent: error.message }));
      return null;
    }
  };
  const run = async (call) => (await show(() => call().then(() => true), () => [])) !== null;
  return { area, show, run };
};
