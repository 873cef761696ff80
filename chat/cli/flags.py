"""The flags that several commands share, and what those about sampling mean."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from chat.formats.table import FORMATS
from chat.moments import parse_moment
from chat.params import from_json
from chat.presets import PRESETS
from chat.settings import SettingsError, load_settings
from model.sampling_params import SamplingParams
from storage.tables import Channel, Role

SETTINGS_FLAGS: dict[str, Any] = {
    "data": Annotated[Path | None, typer.Option(help="The folder of everything that is kept.")],
    "model": Annotated[
        str | None, typer.Option(help="A name of `parley models`, a GGUF file, or a Hugging Face folder.")
    ],
    "dtype": Annotated[
        str | None, typer.Option(help="The type of numbers to compute with: float32, bfloat16 or float16.")
    ],
    "device": Annotated[str | None, typer.Option(help="Where PyTorch computes: cpu, cuda, mps …")],
    "native": Annotated[str | None, typer.Option(help="The native kernels for CPUs: auto or off.")],
    "kv_memory": Annotated[int | None, typer.Option(help="MiB for the keys and values of all chats.")],
    "kv_dtype": Annotated[
        str | None, typer.Option(help="The type of keys and values in the native kernels: int16 or float32.")
    ],
    "draft": Annotated[int | None, typer.Option(help="How many tokens are guessed ahead and checked in one step.")],
    "thinking": Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="Let models that can think do so first.")
    ],
    "host": Annotated[str | None, typer.Option(help="The address to listen on.")],
    "port": Annotated[int | None, typer.Option(help="The port to listen on; 0 takes a free one.")],
    "hosts": Annotated[str | None, typer.Option(help="Names that it answers to, with commas between.")],
    "proxies": Annotated[str | None, typer.Option(help="Addresses of proxies to believe, with commas between.")],
    "requests_per_minute": Annotated[int | None, typer.Option(help="Requests for replies of each owner in a minute.")],
    "tokens_per_day": Annotated[int | None, typer.Option(help="Tokens that each owner may use on a day.")],
    "threads": Annotated[int | None, typer.Option(help="How many threads compute.")],
}
ENGINE_SETTINGS = ("data", "model", "dtype", "device", "native", "kv_memory", "kv_dtype", "threads")
SERVER_SETTINGS = ("host", "port", "hosts", "proxies", "requests_per_minute", "tokens_per_day")

SystemFlag = Annotated[str | None, typer.Option("--system", help="The system prompt.")]
PresetFlag = Annotated[
    str | None,
    typer.Option(
        "--preset", help=f"A system prompt with its sampling: {', '.join(p.name for p in PRESETS)}, or one of your own."
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]

TemperatureFlag = Annotated[
    float | None, typer.Option("--temperature", help="0 is greedy; the default is the model's own.")
]
MaxTokensFlag = Annotated[int | None, typer.Option("--max-tokens", help="The longest reply.")]
SeedFlag = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same reply.")]
ParamFlag = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="NAME=JSON", help="Any other sampling parameter, such as top_k=40; repeatable."),
]

FormatFlag = Annotated[
    str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.", metavar="NAME", show_default=True)
]
OutputFlag = Annotated[Path | None, typer.Option("--output", "-o", help="A new file; without it, stdout.")]
ChannelFlag = Annotated[str | None, typer.Option("--channel", help="Only those of ui, widget, api, import, terminal.")]
SinceFlag = Annotated[str | None, typer.Option("--since", metavar="DATE", help="Only those from then on.")]
UntilFlag = Annotated[str | None, typer.Option("--until", metavar="DATE", help="Only those before.")]
RatingFlag = Annotated[int | None, typer.Option("--rating", help="Only what is rated 1 or -1.")]

Overrides = dict[str, Any]  # fields of SamplingParams
OWN_FLAGS = {"temperature": "--temperature", "max_tokens": "--max-tokens", "seed": "--seed"}


def takes_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of these settings; it gets them as one argument, `settings`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**values: Any) -> None:
            settings = load_settings(**{name: values.pop(name, None) for name in names})
            command(settings=settings, **values)

        flags = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=SETTINGS_FLAGS[name]) for name in names
        ]
        own = [parameter for parameter in signature(command).parameters.values() if parameter.name != "settings"]
        parameters = [*(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own), *flags]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # this and the next are what Typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def sampling_overrides(
    temperature: float | None, max_tokens: int | None, seed: int | None, params: list[str] | None
) -> Overrides:
    """Return the sampling parameters that flags set, checked; raises SettingsError."""
    own = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    overrides = {name: value for name, value in own.items() if value is not None}
    for text in params or ():
        overrides |= _parse(text)
    override(SamplingParams(), overrides)
    return overrides


def parse_date(flag: str, text: str | None) -> datetime | None:
    """Return the moment of a date or time as ISO 8601 writes it, in UTC if it names no zone; raises SettingsError."""
    if text is None:
        return None
    try:
        return parse_moment(text)
    except ValueError as error:
        raise SettingsError(f"{flag}: {error}, got {text!r}") from None


def check_rating(rating: int | None) -> int | None:
    """Return the rating that a flag names, if it names one; raises SettingsError."""
    if rating not in (None, 1, -1):
        raise SettingsError(f"--rating: expected 1 or -1, got {rating}")
    return rating


def check_role(role: str | None) -> Role | None:
    """Return the role that a flag names, if it names one; raises SettingsError."""
    if role is not None and role not in get_args(Role):
        raise SettingsError(f"--role: expected one of {', '.join(get_args(Role))}, got {role!r}")
    return cast(Role | None, role)


def check_channel(channel: str | None) -> Channel | None:
    """Return the channel that a flag names, if it names one; raises SettingsError."""
    if channel is not None and channel not in get_args(Channel):
        raise SettingsError(f"--channel: expected one of {', '.join(get_args(Channel))}, got {channel!r}")
    return cast(Channel | None, channel)


def override(params: SamplingParams, overrides: Overrides) -> SamplingParams:
    """Return the parameters with some of them replaced; raises SettingsError."""
    try:
        return replace(params, **overrides)
    except ValueError as error:  # its text begins with the name of the parameter
        name, _, text = str(error).partition(" ")
        raise SettingsError(f"{OWN_FLAGS.get(name, f'--param {name}')} {text}") from None


def _parse(text: str) -> Overrides:
    name, _, value = text.partition("=")
    names = [field.name for field in fields(SamplingParams)]
    if name not in names:
        raise SettingsError(f"--param: expected NAME=JSON with one of {', '.join(names)}, got {text!r}")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        raise SettingsError(f"--param {name}: expected JSON after the sign =, got {value!r}") from None
    try:
        return {name: from_json(name, parsed)}
    except ValueError as error:
        raise SettingsError(f"--param {error}") from None
