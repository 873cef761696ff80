"""Who can reach the server: only this machine, or others too, which takes accounts."""

from ipaddress import ip_address

from chat.accounts import Accounts
from chat.data_folder import open_database
from chat.settings import Settings, SettingsError
from storage.accounts import AccountStore


def check_reach(settings: Settings) -> None:
    """Raise SettingsError if others than this machine's users could come in without a login."""
    if is_loopback(settings.host) and not settings.hosts and not settings.proxies:
        return
    if (settings.data / "parley.db").exists():  # else none is made
        with open_database(settings.data) as database:
            if Accounts(AccountStore(database)).exist:
                return
    setting = "hosts" if settings.hosts else "proxies" if settings.proxies else "host"
    value = settings.host if setting == "host" else ", ".join(getattr(settings, setting))
    raise SettingsError(
        f"{setting}: others can reach {value!r}, and there are no accounts, so that anybody could read everything: "
        "add one first, with `parley user add NAME`."
    )


def is_loopback(host: str) -> bool:
    """Tell whether only programs on this machine reach a host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
