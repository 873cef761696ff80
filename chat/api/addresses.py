"""Where a request comes from, as far as limits go."""

from ipaddress import IPv6Address, IPv6Network, ip_address

from starlette.types import Scope

HOME_BITS = 64
"""Of an IPv6 address: whoever has one has all that begin so."""
NOWHERE = "nowhere"


def address_of(scope: Scope) -> str:
    """Return the address by which a request is counted: IPv6 by /64, and a text that is no address as no address.

    It is that of the connection, unless a proxy that the settings trust has named another.
    """
    host, _ = scope.get("client") or ("", 0)
    try:
        address = ip_address(host)
    except ValueError:
        return NOWHERE
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), HOME_BITS), strict=False))
