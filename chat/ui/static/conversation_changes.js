// Changes of conversations that are chosen in a list, with a way back where there is one.

import { api } from './api.js';
import { t } from './texts.js';

const MAX_IDS = 500; // that one request may name

/** Changes conversations by their ids; `act` calls the server and tells whether it went well. */
export class ConversationChanges {
  #act;
  #notify;

  constructor(act, notify) {
    this.#act = act;
    this.#notify = notify;
  }

  /** Change fields of all of them; of up to 500, of all or of none. */
  change(ids, change) {
    return this.#act(async () => {
      for (let i = 0; i < ids.length; i += MAX_IDS) {
        await api('POST', '/api/conversations/change', { ids: ids.slice(i, i + MAX_IDS), change });
      }
    });
  }

  /** Put them into the archive, or take them out of it. */
  async archive(ids, archived) {
    if (!(await this.change(ids, { archived }))) return;
    const text = t(archived ? 'session.archived' : 'session.unarchived', { count: ids.length });
    this.#notify(text, 'info', this.#undo(ids, { archived: !archived }));
  }

  /** Put them into the trash; tells whether they are there. */
  async trash(ids) {
    const isDone = await this.change(ids, { trashed: true });
    if (isDone) this.#notify(t('session.trashed', { count: ids.length }), 'info', this.#undo(ids, { trashed: false }));
    return isDone;
  }

  /** Take them out of the trash. */
  async restore(ids) {
    if (!(await this.change(ids, { trashed: false }))) return;
    this.#notify(t('session.restored', { count: ids.length }), 'info');
  }

  /** Delete them for good; tells whether they are gone. */
  async erase(ids) {
    const isDone = await this.#act(async () => {
      for (const id of ids) await eraseOne(id);
    });
    if (isDone) this.#notify(t('session.erased', { count: ids.length }), 'info');
    return isDone;
  }

  /** Delete for good what is in the trash: all of it or, if that is not possible, nothing. */
  emptyTrash() {
    return this.#act(async () => {
      const { conversation_ids: ids } = await api('POST', '/api/trash/empty');
      this.#notify(t('session.erased', { count: ids.length }), 'info');
    });
  }

  #undo(ids, change) {
    return { label: t('notice.undo'), run: () => this.change(ids, change) };
  }
}

const eraseOne = async (id) => {
  try {
    await api('DELETE', `/api/conversations/${id}`);
  } catch (error) {
    if (error.status !== 404) throw error; // it is gone already
  }
};
