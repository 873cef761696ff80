"""What can be configured, and where a value comes from."""

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.checkpoint.catalog import DEFAULT_MODEL
from model.checkpoint.checkpoint import DType
from model.engine.runner import KVDType

HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


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
    host: str = Field("127.0.0.1", description="The address to listen on; beyond loopback there must be an account.")
    port: int = Field(7860, ge=0, le=65535, description="The port to listen on; 0 takes a free one.")
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Names that it answers to beside localhost, with commas between; addresses always work."
    )
    proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Addresses of proxies, with commas between; only what these say of their clients is believed."
    )
    requests_per_minute: int | None = Field(
        None, ge=1, le=10_000, description="Requests for replies that each owner may send in a minute."
    )
    tokens_per_day: int | None = Field(
        None, ge=1, description="Tokens, of prompts and replies, that each owner may use on a day (UTC)."
    )
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=1024,
        description="How many threads compute.",
    )

    @field_validator("hosts", "proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(HOST_NAME.fullmatch, hosts)):
            raise ValueError("must be names such as chat.example.org, without ports")
        return tuple(map(str.lower, hosts))

    @field_validator("proxies")
    @classmethod
    def _check_proxies(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(ip_network(proxy)) for proxy in proxies)
        except ValueError:
            raise ValueError("must be addresses or networks such as 10.0.0.0/8") from None

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
        raise SettingsError(f"{where}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}") from None
