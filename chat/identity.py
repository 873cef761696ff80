"""Who acts: the local owner, an account, or a program with a key of one of them."""

from dataclasses import dataclass

from storage.tables import Scope

VISITING = " visitor:"  # no owner's id has a blank


@dataclass(frozen=True, slots=True)
class Identity:
    """On whose behalf a request acts, and what it may do."""

    owner_id: str
    name: str | None  # of the account; None for the local owner
    is_admin: bool
    scopes: frozenset[Scope] | None = None  # of an API key; None for a person, who may do all that the page does


def engine_owner(owner_id: str, visitor_id: str | None) -> str:
    """Return who shares what has been computed of a conversation, and its turn in the line: each visitor alone."""
    return f"{owner_id}{VISITING}{visitor_id}" if visitor_id else owner_id


def owner_of(engine_owner: str) -> str:
    """Return on whose behalf it is: a visitor's site's owner."""
    return engine_owner.partition(VISITING)[0]
