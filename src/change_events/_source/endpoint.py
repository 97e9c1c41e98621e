"""The URLs that are asked, and which URLs can be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urlsplit

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from change_events._ids import checked_id
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from change_events._source.http import Transport
    from change_events._source.route import Route

MAX_URL = 8000
"""The most characters in a URL of several ids. RFC 9110, 4.1, recommends to support so many."""

ID = "%7Bid%7D"
"""`{id}` in a normalized URL."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL: its origin (scheme, host, port), its target (path and query), and its connections."""

    origin: str
    target: str
    transport: Transport

    @classmethod
    def of(cls, url: str, route: Route) -> Endpoint:
        """
        Normalize the URL.

        Raises:
            ConfigurationError: It is not a URL, or not one for this route.
        """
        try:
            parsed = parse_url(url)
        except LocationParseError as error:
            raise ConfigurationError(f"{url!r} is not a URL: {error}") from error
        origin = f"{parsed.scheme}://{parsed.netloc}"
        return cls(origin, parsed.request_uri, route.transport(parsed))

    def target_of(self, url: str) -> str:
        """
        Return the path and query of another URL.

        Raises:
            ValueError: It is not a URL of this origin. The error shows no path and no query: they
                can have a secret.
        """
        try:
            parsed, own = parse_url(url), parse_url(self.origin)
        except LocationParseError:
            raise ValueError("it is not a URL") from None
        if _origin(parsed) != _origin(own):
            raise ValueError(f"{_shown(parsed)} is not {self.origin}")
        return parsed.request_uri

    def beside(self, url: str) -> Endpoint:
        """Return another URL of this origin, with the same connections. Errors: `target_of`'s."""
        return replace(self, target=self.target_of(url))

    def target_with(self, parameter: str, value: str) -> str:
        """
        Return the target with a parameter added to its query.

        Raises:
            ValueError: The parameter or its value has no UTF-8.
        """
        mark = "&" if "?" in self.target else "?"
        return f"{self.target}{mark}{quote(parameter, safe='')}={quote(value, safe='')}"

    def targets(self, ids: Sequence[str]) -> Iterator[tuple[str, set[str]]]:
        """Yield as few targets as the ids fit into, each with its ids. Leave out invalid ids."""
        asked: set[str] = set()
        target = self.target
        for id in ids:
            try:
                parameter = f"id={quote(checked_id(id), safe='')}"
            except ValueError:
                continue  # the GET of this id alone says what is wrong with it
            if asked and len(self.origin) + len(target) + len("&") + len(parameter) > MAX_URL:
                yield target, asked
                target, asked = self.target, set()
            target += ("&" if "?" in target else "?") + parameter
            asked.add(id)
        if asked:
            yield target, asked


def _origin(url: Url) -> tuple[str | None, str | None, int | None]:
    """Return what makes an origin (RFC 6454, 4)."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme or "")


def _shown(url: Url) -> str:
    """Return a URL without what can have a secret."""
    return Url(url.scheme, host=url.host, port=url.port).url


def require_template(url: str) -> str:
    """
    Return an entity's URL.

    Raises:
        ConfigurationError: No entity can be asked for by it.
    """
    parts = _split(url)
    _require_no_password(parts.netloc, "HTTPFetcher(url)")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(
            f"{url!r} is not an http(s) URL; "
            "write it like https://products.example.com/products/{id}"
        )
    if "{id}" not in parts.path + parts.query or "{id}" in parts.netloc:
        raise ConfigurationError(
            f"{url!r} has no {{id}} in its path or query, so it can't name an entity"
        )
    return url


def require_bulk_url(url: str) -> str:
    """
    Return the URL of many entities.

    Raises:
        ConfigurationError: No ids can be added to it.
    """
    return _require_many(
        url, "HTTPFetcher(bulk_url=)", "that ?id=a&id=b can be added to; write bulk_url"
    )


def require_list_url(url: str) -> str:
    """
    Return a listing's URL.

    Raises:
        ConfigurationError: No pages can be asked for by it.
    """
    return _require_many(url, "HTTPListing(url)", "of a list; write it")


def require_token_url(url: str) -> Url:
    """
    Return the URL of a token endpoint.

    Raises:
        ConfigurationError: A secret can't be sent there: RFC 6749, 3.2, wants TLS. The error shows
            no path and no query: they can have a secret.
    """
    try:
        parsed = parse_url(url if isinstance(url, str) else "")
    except LocationParseError:
        parsed = Url()
    if parsed.auth is not None:
        raise ConfigurationError("token_url= must not have a password; give client_secret=")
    local = parsed.scheme == "http" and _is_loopback(parsed.host or "")
    if not parsed.host or not (parsed.scheme == "https" or local):
        raise ConfigurationError(
            "token_url= must be an https URL like https://login.example.com/token, because the "
            f"secret is sent there, not {_shown(parsed)!r}; http is for localhost"
        )
    return parsed


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _require_many(url: str, setting: str, what: str) -> str:
    parts = _split(url)
    _require_no_password(parts.netloc, setting)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "#" in url or "{id}" in url:
        raise ConfigurationError(
            f"{url!r} is not an http(s) URL {what} like https://products.example.com/products"
        )
    return url


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is not a URL: {error}") from None


def _require_no_password(netloc: str, setting: str) -> None:
    if "@" in netloc:
        raise ConfigurationError(
            f"{setting} must not have a password in the URL; "
            "give an Authorization header in headers="
        )
