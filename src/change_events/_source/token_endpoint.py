"""Asks for a token: a request by client credentials (RFC 6749, 4.4), and what its answer says."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from change_events._source.endpoint import require_token_url
from change_events._source.entities import json_in
from change_events._source.headers import retry_after
from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from change_events._source.http import Answer
    from change_events._source.route import Route

_MAX_BYTES = 64 * 1024
"""The longest answer to accept. Tokens have a few KB."""

_ERRORS = frozenset(
    {
        *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client"),
        *("unsupported_grant_type", "invalid_scope", "invalid_target", "access_denied"),
        *("server_error", "temporarily_unavailable"),
    }
)
"""
The errors of RFC 6749 (4.1.2.1 and 5.2) and RFC 8707. No other text of an answer is shown: it can
quote the secret.
"""

_TOKEN = re.compile(r"[\x21-\x7e]+")
"""An access token (RFC 6749, A.12), without a space: a header's value could not have one."""

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
"""RFC 6749, 3.3."""

_OWN = {"grant_type", "client_id", "client_secret", "scope"}
"""Parameters that the request has by itself, or that have a setting."""


class TokenEndpoint:
    """Asks for tokens. Args and errors are those of `ClientCredentials`."""

    def __init__(
        self,
        token_url: str,
        client: tuple[str, str],
        scope: str | None,
        parameters: Mapping[str, str] | None,
        *,
        secret_in_body: bool,
        route: Route,
    ) -> None:
        url = require_token_url(token_url)
        # Without the query: it can have a secret.
        self.url = f"{url.scheme}://{url.netloc}{url.path or '/'}"
        self._target = url.request_uri
        self._connections = route.connections(url)
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "change-events",
        }
        sent = {"grant_type": "client_credentials", **_checked(scope, parameters)}
        for setting, value in zip(("client_id", "client_secret"), client, strict=True):
            _require_text(value, setting)
            if secret_in_body:
                sent[setting] = value
        if not secret_in_body:
            # Encoded by RFC 6749, 2.3.1; a space as %20, which servers that know no + decode, too.
            pair = ":".join(quote(each, safe="") for each in client)
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        self._body = urlencode(sent).encode()

    def ask(self, timeout: float) -> tuple[str, float]:
        """
        Return a token and the seconds for which it is valid, infinite if the answer does not say.

        Raises:
            FetchError: There is none. The error has no status: an outage.
        """
        what = f"POST {self.url}"
        try:
            answer = self._connections.post(
                self._target, self._headers, self._body, timeout=timeout, max_bytes=_MAX_BYTES
            )
            if answer.status != 200:
                seconds = retry_after(answer.headers.get("Retry-After"))
                raise FetchError(
                    f"it answered {answer.status}{_error_in(answer)}", retry_after=seconds
                )
            return _token_in(json_in(answer.headers, answer.body, "it", exact=False))
        except FetchError as error:
            raise FetchError(f"{what}: {error}", retry_after=error.retry_after) from error


def _token_in(body: object) -> tuple[str, float]:
    token = body.get("access_token") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise FetchError("it answered 200 without an access_token that can be sent")
    kind = body.get("token_type")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise FetchError("it answered a token whose token_type is not Bearer")
    try:
        seconds = float(body["expires_in"])  # Azure's older endpoint sends text
    except (KeyError, TypeError, ValueError, OverflowError):
        return token, math.inf
    if not seconds > 0:
        raise FetchError("it answered a token that has expired")
    return token, seconds


def _error_in(answer: Answer) -> str:
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        return ""
    error = body.get("error") if isinstance(body, dict) else None
    return f", {error}" if isinstance(error, str) and error in _ERRORS else ""


def _checked(scope: str | None, parameters: Mapping[str, str] | None) -> dict[str, str]:
    given = {} if parameters is None else parameters
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"parameters= must be a mapping, not {type(given).__name__}")
    for name, value in given.items():
        if name in _OWN:
            raise ConfigurationError(f"parameters= can't have {name!r}: the request has it already")
        _require_text(name, "parameters")
        _require_text(value, "parameters")
    if scope is None:
        return dict(given)
    if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
        raise ConfigurationError(
            f"scope= must be names with single spaces between them, not {scope!r:.200}"
        )
    return {**given, "scope": scope}


def _require_text(value: object, setting: str) -> None:
    """Refuse what is not text. Never quote it: it can be a secret."""
    kind = type(value).__name__
    if isinstance(value, str):
        try:
            kind = "" if value.encode() else "an empty text"
        except UnicodeEncodeError:
            kind = "a text without UTF-8"
    if kind:
        raise ConfigurationError(f"{setting}= must be text, not {kind}")
