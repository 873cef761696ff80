// What is said below a reply: what it waits for, why it ended, and what it cost.

import { el, textButton } from './dom.js';
import { t } from './texts.js';

/** Return what goes on before the first words of a reply. */
export const progressText = (progress) => {
  const { queue_position: place, wait_seconds: seconds, prefilled_tokens: n, prompt_tokens: total } = progress;
  if (place) return seconds ? t('progress.queuedFor', { place, seconds }) : t('progress.queued', { place });
  return n ? t('progress.prefill', { n, total }) : t('progress.waiting');
};

// Null if a reply ended by itself or is still being written.
const endingOf = ({ role, status, finish_reason: reason, error }) => {
  if (role !== 'assistant' || status === 'streaming') return null;
  if (status === 'error') return error ? `${t('ended.error')} ${error}` : t('ended.error');
  if (status === 'complete') return reason === 'length' ? t('ended.length') : null;
  return t(`ended.${status}`);
};

// It can be continued then.
const isCut = ({ role, status, finish_reason: reason, content }) =>
  role === 'assistant' && status !== 'streaming' && content !== '' && ['length', 'cancelled', 'error'].includes(reason);

/** Return the line that says why a reply ended, with a way to go on: nothing for one that ended by itself. */
export const endingLine = (message, { onRetry, onContinue }) => {
  const ending = endingOf(message);
  if (!ending) return [];
  const isError = message.status === 'error';
  const line = el('div', { class: 'parley-ending' }, el('span', { textContent: ending }));
  line.classList.toggle('parley-ending-error', isError);
  if (isError) line.append(textButton(t('notice.retry'), onRetry));
  if (isCut(message)) line.append(textButton(t('message.continue'), onContinue));
  return [line];
};

/** Return the figures of a reply in one line, empty if there are none. */
export const figuresOf = (message) => {
  const { completion_tokens: n, ttft_ms: first, duration_ms: duration } = message;
  if (!n) return '';
  const figures = [t('stats.tokens', { count: n })];
  if (n > 1 && duration > (first ?? 0)) {
    figures.push(t('stats.speed', { speed: (n - 1) / ((duration - (first ?? 0)) / 1000) }));
  }
  if (first !== null) figures.push(t('stats.first', { seconds: Math.max(first / 1000, 0.1) }));
  return [...figures, ...promptFigures(message)].join(' · ');
};

const promptFigures = ({ prompt_tokens: n, cached_tokens: cached }) => {
  if (!n) return [];
  if (!cached) return [t('stats.prompt', { tokens: n })];
  return [t('stats.cached', { tokens: n, percent: Math.round((100 * cached) / n) })];
};
