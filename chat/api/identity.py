"""Who asks: the identity that the gate has found for a request, as routes see it."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from chat.identity import Identity

_KEY = HTTPBearer(auto_error=False, scheme_name="key", description="An API key.")
_SESSION = APIKeyCookie(
    name="parley_session",
    auto_error=False,
    scheme_name="session",
    description="What a login sets; over https its name "
    "begins with `__Host-`. While there are no accounts, nothing need be shown.",
)


def current_identity(
    request: Request,
    _key: Annotated[HTTPAuthorizationCredentials | None, Security(_KEY)],  # for the description: the gate reads both
    _session: Annotated[str | None, Security(_SESSION)],
) -> Identity:
    """Return who a request acts for. The gate lets none without an identity through to a route that asks this."""
    identity: Identity = request.scope["identity"]
    return identity


def current_owner(identity: Annotated[Identity, Depends(current_identity)]) -> str:
    """Return the owner that a request acts for."""
    return identity.owner_id


def current_person(identity: Annotated[Identity, Depends(current_identity)]) -> Identity:
    """Return who asks, unless it is a program with a key: keys manage neither accounts nor keys."""
    if identity.scopes is not None:
        raise HTTPException(403, "This needs a login: an API key is not enough.")
    return identity


def current_admin(identity: Annotated[Identity, Depends(current_person)]) -> Identity:
    """Return who asks, if that is an administrator."""
    if not identity.is_admin:
        raise HTTPException(403, "Only an administrator may do this.")
    return identity


Owner = Annotated[str, Depends(current_owner)]
Person = Annotated[Identity, Depends(current_person)]
Admin = Annotated[Identity, Depends(current_admin)]
