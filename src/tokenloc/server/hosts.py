"""Host names under which requests may reach the server."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import ip_address

_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:\d*)?")


@dataclass(frozen=True)
class Hosts:
    """Valid values of the header ``Host``, against DNS rebinding.

    A page of another site can reach a private server under a domain name of that site that resolves to the server. It
    cannot do this with an IP address, so a server for several machines accepts any address.

    Args:
        names: valid names, lower case; ``*.example.com`` is any name below example.com, and ``*`` is any name.
        addresses: accept any IP address.
    """

    names: Collection[str]
    addresses: bool = False

    def accept(self, header: str) -> bool:
        """Return whether a ``Host`` header, with or without a port, is valid."""
        found = _HOST.fullmatch(header.lower())
        name = found[1].strip("[]") if found else header
        return any(fnmatchcase(name, one) for one in self.names) or (self.addresses and _is_address(name))


ANY_HOST = Hosts(["*"])


def valid_hosts(host: str, allowed: Collection[str] = ()) -> Hosts:
    """Return the valid hosts of a server that listens at ``host``: its own names, and the ``allowed`` ones."""
    own = {"localhost", "127.0.0.1", "::1"} if is_loopback(host) else {"localhost", socket.gethostname().lower()}
    return Hosts(own | {host.lower()} | {name.lower() for name in allowed}, addresses=not is_loopback(host))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ip_address(name))
    return False
