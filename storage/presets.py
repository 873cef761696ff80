"""The presets of owners: ways to begin a conversation. What they may say is checked where they are used."""

from sqlalchemy import select

from storage.database import Database
from storage.errors import StorageError
from storage.queries import check_owner
from storage.tables import JsonObject, StoredPreset, utc_now


class PresetNotFound(StorageError):
    """The owner has no such preset of their own."""

    def __init__(self, name: str) -> None:
        super().__init__(f"You have no preset {name!r} of your own.")


class PresetStore:
    """The presets of all owners; one object serves all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, owner_id: str) -> list[StoredPreset]:
        """Return an owner's presets, by their names."""
        query = select(StoredPreset).where(StoredPreset.owner_id == owner_id).order_by(StoredPreset.name)
        with self._database.read() as session:
            return list(session.scalars(query))

    def save(self, owner_id: str, name: str, *, system_prompt: str | None, params: JsonObject) -> None:
        """Keep a preset, in place of the owner's one of that name if there is one; raises OwnerGone."""
        with self._database.write() as session:
            check_owner(session, owner_id)
            preset = session.get(StoredPreset, (owner_id, name))
            if preset is None:
                preset = StoredPreset(owner_id=owner_id, name=name)
                session.add(preset)
            preset.system_prompt, preset.params, preset.updated_at = system_prompt, params, utc_now()

    def delete(self, owner_id: str, name: str) -> None:
        """Delete an owner's preset; raises PresetNotFound."""
        with self._database.write() as session:
            preset = session.get(StoredPreset, (owner_id, name))
            if preset is None:
                raise PresetNotFound(name)
            session.delete(preset)
