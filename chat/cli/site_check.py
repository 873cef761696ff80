"""`parley site check`: why a page does not show a site's chat."""

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from chat.cli.flags import JsonFlag, takes_settings
from chat.data_folder import LOCAL_OWNER, open_database
from chat.settings import Settings
from storage.sites import SiteStore

if TYPE_CHECKING:
    from chat.embed.case import Finding


@takes_settings("data", "port")
def check(
    settings: Settings,
    page: Annotated[str, typer.Argument(metavar="URL", help="The page, as visitors see it.")],
    url: Annotated[
        str | None,
        typer.Option("--url", help="Where visitors reach Parley, for pages that do not say: else, this machine."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell why a page does not show the chat, and what to do; exit code 1 if it would not."""
    findings = examine_page(settings, page, url or f"http://127.0.0.1:{settings.port}")
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}, ensure_ascii=False))
    else:
        for finding in findings:
            typer.echo(f"{finding.level}: {finding.text}")
            if finding.fix:
                typer.echo(f"  {finding.fix}")
    if findings[-1].level == "error":
        raise typer.Exit(1)


def examine_page(settings: Settings, page: str, url: str) -> list["Finding"]:
    """Return what there is to say of a page; any is read, wherever it is: who asks could look there themselves."""
    import httpx  # a tenth of a second, which other commands need not wait

    from chat.embed.case import Parley
    from chat.embed.doctor import examine
    from chat.embed.safe_fetch import Fetched, fetch, parse_url

    def ask(url: httpx.URL) -> Fetched:
        return asyncio.run(fetch(url, anywhere=True))

    address, parley = parse_url(page), Parley(parse_url(url), hosts=None)
    with open_database(settings.data) as database:
        sites = SiteStore(database).of(LOCAL_OWNER)
    return examine(address, ask, sites, parley)
