"""What users and programs give, as it is checked before anybody uses it."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from chat.text import clean


class Given(BaseModel):
    """No field but those that a class names, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _clean(value: object) -> object:
    return clean(value) if isinstance(value, str) else value


def _one_line(value: object) -> object:
    return " ".join(clean(value).split()) if isinstance(value, str) else value


CLEAN = BeforeValidator(_clean)
ONE_LINE = BeforeValidator(_one_line)

Text = Annotated[str, CLEAN]
Line = Annotated[str, ONE_LINE]
