"""What can be configured, and where a value comes from."""

import os
from pathlib import Path
from typing import Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.checkpoint.catalog import DEFAULT_MODEL
from model.checkpoint.checkpoint import DType
from model.engine.runner import KVDType


class SettingsError(Exception):
    """A setting that cannot be used; one line, fit for a user."""


class Settings(BaseSettings):
    """What can be configured: by PARLEY_* variables, by .env, or by flags of the same name."""

    model_config = SettingsConfigDict(env_prefix="PARLEY_", env_file=".env", extra="ignore")

    data: Path = Field(
        default_factory=lambda: user_data_path("parley"),
        description="The folder of everything that is kept: database and weights.",
    )
    model: str = Field(
        DEFAULT_MODEL,
        description="A name that `parley models` lists, or the path of a GGUF file or of a Hugging Face folder.",
    )
    dtype: DType = Field("float32", description="The type of numbers to compute with.")
    device: str = Field("cpu", description="Where PyTorch computes: cpu, cuda, mps …")
    native: Literal["auto", "off"] = Field(
        "auto", description="Whether the native kernels compute where they can be compiled, or PyTorch always does."
    )
    kv_memory: int | None = Field(
        None, ge=1, le=2**20, description="MiB for the keys and values of all conversations; bounds the context too."
    )
    kv_dtype: KVDType = Field("int16", description="The type of keys and values in the native kernels.")
    draft: int | None = Field(
        None,
        ge=0,
        le=16,
        description="How many tokens are guessed ahead and checked in one step; replies stay the same.",
    )
    thinking: bool = Field(False, description="Let models that can think do so before they answer.")
    host: str = Field("127.0.0.1", description="The address to listen on; loopback only.")
    port: int = Field(7860, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=1024,
        description="How many threads compute.",
    )

    @field_validator("data")
    @classmethod
    def _expand(cls, data: Path) -> Path:
        if data == Path():
            raise ValueError("must name a folder")
        return data.expanduser()


def load_settings(**flags: Path | str | int | None) -> Settings:
    """Return the settings, flags before variables before .env; raises SettingsError."""
    try:
        return Settings.model_validate({name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        flag = name.replace("_", "-")
        where = f"--{flag} or PARLEY_{name.upper()}" if name else ".env"  # a file that is not UTF-8 has no name
        raise SettingsError(f"{where}: {first['msg']}, got {first['input']!r}") from None
