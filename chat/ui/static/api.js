// Calls of the REST API of this server.

import { t } from './texts.js';

/** Why a call failed; status 0 if no answer came. The message is one line, fit for a user. */
export class ApiError extends Error {
  constructor(message, { status, param = null, code = null, retryAfter = null }) {
    super(message);
    this.status = status;
    this.param = param;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** Return where the routes for conversations are: those of temporary ones have their own. */
export const rootFor = (temporary) => (temporary ? '/api/temporary' : '/api');

/** Call a route and return the JSON it answers with, null for none; raises ApiError. */
export const api = async (method, path, body) => {
  const response = await call(method, path, body);
  return response.status === 204 ? null : read(response);
};

/** Call a route and return its response; raises ApiError. A body is sent as JSON, unless it is a Blob. */
export const call = async (method, path, body) => {
  const response = await request(method, path, body);
  if (response.ok) return response;
  if (response.status === 401) goToLogin();
  throw await errorOf(response);
};

// What was written is kept as a draft, and the page comes back to where it was.
const goToLogin = () => location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);

const request = async (method, path, body) => {
  try {
    return await fetch(path, { method, ...(body === undefined ? {} : contentOf(body)) });
  } catch {
    throw new ApiError(t('error.network'), { status: 0 });
  }
};

const contentOf = (body) => (body instanceof Blob
  ? { headers: { 'Content-Type': 'application/octet-stream' }, body }
  : { headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });

const read = async (response) => {
  try {
    return await response.json();
  } catch (error) {
    // A body that is cut is a lost connection; one that is no JSON comes from something else than Parley.
    if (error instanceof SyntaxError) throw new ApiError(t('error.unexpected'), { status: response.status });
    throw new ApiError(t('error.network'), { status: 0 });
  }
};

const errorOf = async (response) => {
  const retryAfter = Number(response.headers.get('Retry-After')) || null;
  const { error } = await response.json().catch(() => ({}));
  const { message = t('error.unexpected'), param, code } = error ?? {};
  return new ApiError(message, { status: response.status, param, code, retryAfter });
};
