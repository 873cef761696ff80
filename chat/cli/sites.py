"""`parley site`: the websites whose visitors may chat, added, changed and removed; Parley may be running."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from chat.cli.asking import confirm
from chat.cli.flags import JsonFlag, takes_settings
from chat.cli.site_check import check
from chat.data_folder import LOCAL_OWNER, open_database
from chat.secret import load_secret
from chat.settings import Settings, SettingsError
from chat.sites import Appearance, NewSite, SiteChange, Sites, parse_origin, snippet_of
from chat.visitors import identity_secret as secret_of
from storage.presets import PresetStore
from storage.sites import SiteStore
from storage.tables import Site

Values = dict[str, Any]  # fields of SiteChange
Change = TypeVar("Change", bound=SiteChange)

SITE_FLAGS: dict[str, Any] = {
    "origins": Annotated[
        list[str] | None,
        typer.Option("--origin", help="Whose pages may show it, as https://shop.example; repeatable; none if empty."),
    ],
    "enabled": Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether the chat is shown.")],
    "title": Annotated[str | None, typer.Option("--title", help="What stands above the chat.")],
    "greeting": Annotated[str | None, typer.Option("--greeting", help="What stands before the first message.")],
    "language": Annotated[str | None, typer.Option("--language", help="auto, en or de.")],
    "theme": Annotated[str | None, typer.Option("--theme", help="auto, light or dark.")],
    "accent": Annotated[str | None, typer.Option("--accent", help="A colour, as #2563eb.")],
    "position": Annotated[str | None, typer.Option("--position", help="right or left.")],
    "preset": Annotated[str | None, typer.Option("--preset", help="One of `parley presets`; none if empty.")],
    "system_prompt": Annotated[str | None, typer.Option("--system", help="The system prompt; the preset's if empty.")],
    "messages_per_visitor": Annotated[int | None, typer.Option("--messages-per-visitor", help="In ten minutes.")],
    "messages_per_address": Annotated[int | None, typer.Option("--messages-per-address", help="In ten minutes.")],
    "tokens_per_day": Annotated[
        int | None, typer.Option("--tokens-per-day", help="Of all visitors together; 0 for as many as they like.")
    ],
    "retention_days": Annotated[
        int | None, typer.Option("--retention-days", help="Days until an unchanged chat is erased; 0 for never.")
    ],
}
OWN_FLAGS = {"name": "--name", "origins": "--origin", "system_prompt": "--system"}
NONE_IF_EMPTY = ("preset", "system_prompt", "tokens_per_day", "retention_days")

SiteId = Annotated[str, typer.Argument(metavar="ID", help="As `parley site list` shows it.")]

sites_cli = typer.Typer(help="The websites whose visitors may chat.")
sites_cli.command()(check)


def takes_site_values(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of a site; it gets those that are set as one argument, `values`."""

    @wraps(command)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in SITE_FLAGS}
        command(values={name: value for name, value in given.items() if value is not None}, **values)

    own = [parameter for parameter in signature(command).parameters.values() if parameter.name != "values"]
    flags = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=SITE_FLAGS[name]) for name in SITE_FLAGS]
    parameters = [*(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own), *flags]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # what takes_settings reads
    return run


@sites_cli.command()
@takes_settings("data")
@takes_site_values
def add(settings: Settings, values: Values, name: Annotated[str, typer.Argument(help="What to call it.")]) -> None:
    """Add a site, and show it."""
    new = read_values(NewSite, {**values, "name": name})
    with open_sites(settings) as (_, sites):
        print_site(sites.create(LOCAL_OWNER, new))


@sites_cli.command(name="list")
@takes_settings("data")
def list_sites(settings: Settings, as_json: JsonFlag = False) -> None:
    """List the sites, each in a line."""
    with open_sites(settings) as (store, _):
        found = store.of(LOCAL_OWNER)
    if as_json:
        typer.echo(json.dumps([site_row(site) for site in found], ensure_ascii=False))
        return
    for site in found:
        state = "enabled" if site.enabled else "disabled"
        typer.echo("  ".join([site.id, site.key, state, site.name, *site.origins]))


@sites_cli.command()
@takes_settings("data")
def show(settings: Settings, site_id: SiteId, as_json: JsonFlag = False) -> None:
    """Show all that is set of a site."""
    with open_sites(settings) as (store, _):
        site = store.get(LOCAL_OWNER, site_id)
    if as_json:
        typer.echo(json.dumps(site_row(site), ensure_ascii=False))
    else:
        print_site(site)


@sites_cli.command(name="set")
@takes_settings("data")
@takes_site_values
def change(
    settings: Settings,
    values: Values,
    site_id: SiteId,
    name: Annotated[str | None, typer.Option("--name", help="What to call it.")] = None,
) -> None:
    """Change what is named of a site, at once."""
    change = read_values(SiteChange, values if name is None else {**values, "name": name})
    with open_sites(settings) as (_, sites):
        print_site(sites.change(LOCAL_OWNER, site_id, change))


@sites_cli.command()
@takes_settings("data")
def rotate(settings: Settings, site_id: SiteId) -> None:
    """Give a site a new key; the old snippet stops."""
    with open_sites(settings) as (_, sites):
        print_site(sites.rotate(LOCAL_OWNER, site_id))


@sites_cli.command()
@takes_settings("data")
def remove(
    settings: Settings, site_id: SiteId, yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False
) -> None:
    """Remove a site; its conversations stay in the list."""
    with open_sites(settings) as (store, _):
        site = store.get(LOCAL_OWNER, site_id)
        if not yes:
            confirm(f"Remove the site {site.name!r}? Its key never comes back.")
        store.delete(LOCAL_OWNER, site_id)


@sites_cli.command()
@takes_settings("data")
def snippet(
    settings: Settings,
    site_id: SiteId,
    url: Annotated[str, typer.Option("--url", help="Where visitors reach Parley, as https://chat.shop.example.")],
) -> None:
    """Print the line of HTML that shows the chat on a page."""
    try:
        base = parse_origin(url)
    except ValueError as error:
        raise SettingsError(f"--url: {error}, got {url!r}") from None
    with open_sites(settings) as (store, _):
        typer.echo(snippet_of(store.get(LOCAL_OWNER, site_id), base))


@sites_cli.command()
@takes_settings("data")
def identity_secret(settings: Settings, site_id: SiteId) -> None:
    """Print the key with which a site's own server vouches for its users."""
    with open_sites(settings) as (store, _):
        typer.echo(secret_of(load_secret(settings.data), store.get(LOCAL_OWNER, site_id)))


@contextmanager
def open_sites(settings: Settings) -> Iterator[tuple[SiteStore, Sites]]:
    """Open the sites of a data folder."""
    with open_database(settings.data) as database:
        store = SiteStore(database)
        yield store, Sites(store, PresetStore(database))


def read_values(kind: type[Change], values: Values) -> Change:
    """Return what flags say of a site; raises SettingsError."""
    values = {name: None if name in NONE_IF_EMPTY and not value else value for name, value in values.items()}
    if values.get("origins") == [""]:
        values["origins"] = []
    appearance = {name: values.pop(name) for name in Appearance.model_fields if name in values}
    try:
        return kind.model_validate({**values, "appearance": appearance} if appearance else values)
    except ValidationError as error:
        first = error.errors()[0]
        names = [str(part) for part in first["loc"] if part in OWN_FLAGS or part in SITE_FLAGS]
        flag = OWN_FLAGS.get(names[0], f"--{names[0].replace('_', '-')}")
        flag = "NAME" if kind is NewSite and names[0] == "name" else flag  # an argument there
        rule = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{flag}: {rule[:1].lower()}{rule[1:]}, got {first['input']!r}") from None


def site_row(site: Site) -> Mapping[str, Any]:
    """Return a site for a program."""
    names = ("id", "name", "key", "enabled", "appearance", *(name for name in SITE_FLAGS if hasattr(site, name)))
    times = {"created_at": site.created_at.isoformat(), "updated_at": site.updated_at.isoformat()}
    return {**{name: getattr(site, name) for name in names}, **times}


def print_site(site: Site) -> None:
    """Print a line for all that is set of a site."""
    row = site_row(site)
    for name, value in {**row, **row["appearance"]}.items():
        if name == "appearance" or value is None:
            continue
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        typer.echo(f"{name}: {' '.join(value if isinstance(value, list) else text.split())}".rstrip())
