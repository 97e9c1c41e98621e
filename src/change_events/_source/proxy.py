"""An HTTP proxy between us and the source."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from change_events._source.http import TimedReader, begin_again, is_interim
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    import socket


@dataclass(frozen=True, slots=True)
class HTTPProxy:
    """
    A proxy.

    Attributes:
        host: Its host.
        port: Its port.
        headers: What it wants to know of us: the lines of `Proxy-Authorization`, or none.
    """

    host: str
    port: int
    headers: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, url: str) -> HTTPProxy:
        """
        Return the proxy of a URL, which can have a user's name and a password.

        Raises:
            ConfigurationError: It is not the URL of an HTTP proxy. The error does not quote it: it
                can have a password.
        """
        try:
            parsed = parse_url(url) if isinstance(url, str) else None
        except LocationParseError:
            parsed = None
        if (
            parsed is None
            or parsed.scheme != "http"
            or not parsed.host
            or parsed.path not in {None, "", "/"}
            or parsed.query is not None
        ):
            raise ConfigurationError(
                "proxy= must be the URL of an HTTP proxy, like http://proxy.example.com:3128, or "
                "http://user:password@proxy.example.com:3128"
            )
        headers = {}
        if parsed.auth:
            user, _, password = parsed.auth.partition(":")
            pair = f"{unquote(user)}:{unquote(password)}"  # with a colon in any case (RFC 7617, 2)
            basic = base64.b64encode(pair.encode()).decode()
            headers["Proxy-Authorization"] = f"Basic {basic}"
        return cls(parsed.host.strip("[]"), parsed.port or 80, headers)


def open_tunnel(sock: socket.socket, proxy: HTTPProxy, authority: str, deadline: float) -> None:
    """
    Let the proxy connect us to a host and port (RFC 9110, 9.3.6).

    Raises:
        OSError: It refuses, does not answer by the (monotonic) deadline, or breaks off.
        HTTPException: It answers with something else than HTTP.
    """
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    reader: Any = TimedReader(sock, deadline)
    response = HTTPResponse(reader, method="CONNECT")
    response.begin()
    while is_interim(response.status):
        begin_again(response)
    if not 200 <= response.status < 300:
        raise ConnectionError(f"it answered {response.status} to CONNECT")
