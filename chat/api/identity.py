"""Who asks: the owner on whose behalf a route acts."""

from typing import Annotated

from fastapi import Depends

from chat.data_folder import LOCAL_OWNER


def current_owner() -> str:
    """Return the owner that a request acts for; on loopback, without accounts, whoever sits at this machine."""
    return LOCAL_OWNER


Owner = Annotated[str, Depends(current_owner)]
