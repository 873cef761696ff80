"""Who acts: the local owner, an account, or a program with a key of one of them."""

from dataclasses import dataclass

from storage.tables import Scope


@dataclass(frozen=True, slots=True)
class Identity:
    """On whose behalf a request acts, and what it may do."""

    owner_id: str
    name: str | None  # of the account; None for the local owner
    is_admin: bool
    scopes: frozenset[Scope] | None = None  # of an API key; None for a person, who may do all that the page does
