"""Tokens by OAuth 2.0's client credentials (RFC 6749, 4.4): one for all threads, while it lasts."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from change_events._source.route import Route
from change_events._source.token_endpoint import TokenEndpoint
from change_events.exceptions import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from change_events._source.certificates import ClientCert, File

EARLY = 300.0
"""The most seconds before its end at which a token is renewed."""

SHARED = 1.0
"""Seconds for which an error counts for all threads, so that they do not ask one after another."""

PAUSE = 10.0
"""
Seconds from a renewal that failed to the next, while the token is valid; and the age that a token
must have to be renewed by a second 401, because a source can answer 401 whatever the token.
"""


@dataclass(slots=True)
class _Token:
    """
    A token.

    Attributes:
        headers: It, as a header.
        asked: When it was asked for.
        renew_at: When to renew it.
        ends: When it is no longer valid.
        after_401: The source refused the one before.
        refused: The source has refused it.
    """

    headers: Mapping[str, str] = field(repr=False)
    asked: float
    renew_at: float
    ends: float
    after_401: bool
    refused: bool = False

    def is_valid(self, now: float) -> bool:
        return not self.refused and now < self.ends


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why no token came, and when that was known."""

    text: str
    retry_after: float | None
    at: float


class ClientCredentials:
    """
    Sends a token in `Authorization` that a token endpoint gives for a client's id and secret (OAuth
    2.0 client credentials, RFC 6749, 4.4). Threads and fetchers can share one.

        HTTPFetcher(
            "https://products.example.com/products/{id}",
            auth=ClientCredentials(
                "https://login.example.com/token",
                client_id="product-cache",
                client_secret=os.environ["CLIENT_SECRET"],
                scope="products:read",
            ),
        )

    One thread asks for a token; the others wait for it, each for as long as its GET can last. The
    token is renewed in the last fifth of its life, at most 300 seconds before its end: by one
    thread, while the others use it. A token without `expires_in` is used until a 401. After a 401
    the token is renewed, and the GET sent again, once. If a token that came after a 401 is refused,
    too, it is kept until it is 10 seconds old: the source has another reason.

    A token endpoint that is down, is slow, refuses, or answers nonsense is an outage of the source:
    a `FetchError` without a status. For a second, all threads get the same error. As long as a
    token is valid, no such outage is noticed.

    A forked process uses its parent's token until it needs another. Neither the secret nor a token
    is in an error, a log or a `repr`.

    Args:
        token_url: The token endpoint: an https URL; or http on this machine (`localhost`), because
            the secret is sent there. Redirects are not followed.
        client_id: The client's id.
        client_secret: The client's secret.
        scope: The scopes to ask for, with spaces between them. Default: what the server gives
            without being asked.
        parameters: More parameters of the request, such as `{"audience": "https://..."}`.
        secret_in_body: Send the id and the secret as parameters. Default: by HTTP Basic, which
            servers must support (RFC 6749, 2.3.1), though some do not.
        ca_file: The authorities to trust, as in `HTTPFetcher`, for the token endpoint.
        client_cert: Our certificate, as in `HTTPFetcher`, for the token endpoint.
        proxy: An HTTP proxy, as in `HTTPFetcher`, for the token endpoint.
        clock: Returns monotonic seconds. For tests.

    Raises:
        ConfigurationError: `token_url` is not such a URL; a text is empty, or not text; `scope` has
            other characters than scopes have; a parameter has a setting of its own; or a file or
            the proxy can't be used.
    """

    def __init__(
        self,
        token_url: str,
        *,
        client_id: str,
        client_secret: str,
        scope: str | None = None,
        parameters: Mapping[str, str] | None = None,
        secret_in_body: bool = False,
        ca_file: File | None = None,
        client_cert: ClientCert | None = None,
        proxy: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = TokenEndpoint(
            token_url,
            (client_id, client_secret),
            scope,
            parameters,
            secret_in_body=secret_in_body,
            route=Route(ca_file=ca_file, client_cert=client_cert, proxy=proxy),
        )
        self._client_id = client_id
        self._clock = clock
        self._token: _Token | None = None
        self._failure: _Failure | None = None
        # By process: a fork can happen while a thread of the parent holds the parent's lock.
        self._locks: dict[int, threading.Lock] = {}

    def __repr__(self) -> str:
        return f"ClientCredentials({self._endpoint.url!r}, client_id={self._client_id!r})"

    def authorize(
        self, method: str, url: str, headers: Mapping[str, str], /, *, timeout: float
    ) -> Mapping[str, str]:
        """See `Auth`."""
        del method, url, headers
        token, now = self._token, self._clock()
        if token is None or not token.is_valid(now):
            return self._wait_for_token(timeout).headers
        failure = self._failure
        if now < token.renew_at or (failure is not None and now - failure.at < PAUSE):
            return token.headers
        return self._renewed_early(token, timeout / 2).headers

    def renew(self, refused: Mapping[str, str], /) -> bool:
        """See `Auth`."""
        token = self._token
        if token is None or token.refused or token.headers != refused:
            return True  # another thread renews it, or has
        if token.after_401 and self._clock() - token.asked < PAUSE:
            return False
        token.refused = True
        return True

    def _lock(self) -> threading.Lock:
        """Return the lock of the thread that asks."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _wait_for_token(self, timeout: float) -> _Token:
        deadline = time.monotonic() + timeout
        lock = self._lock()
        if not lock.acquire(timeout=max(timeout, 0.0)):
            raise FetchError(f"POST {self._endpoint.url}: another thread still waits for its token")
        try:
            token = self._token
            if token is not None and token.is_valid(self._clock()):
                return token
            failure = self._failure
            if failure is not None and self._clock() - failure.at < SHARED:
                raise FetchError(failure.text, retry_after=failure.retry_after)
            left = deadline - time.monotonic()
            # A failure within less time says little about the endpoint.
            return self._ask(left, shared=left >= SHARED)
        finally:
            lock.release()

    def _renewed_early(self, token: _Token, timeout: float) -> _Token:
        """Return a new token; or this one, if another thread renews it, or there is no other."""
        lock = self._lock()
        if not lock.acquire(blocking=False):
            return token
        try:
            return self._ask(timeout, shared=True) if self._token is token else token
        except FetchError:
            return token
        finally:
            lock.release()

    def _ask(self, timeout: float, *, shared: bool) -> _Token:
        """Ask for a token. The caller has the lock; a failure can count for other threads, too."""
        asked = self._clock()
        try:
            text, lasts = self._endpoint.ask(timeout)
        except FetchError as error:
            if shared:
                self._failure = _Failure(str(error), error.retry_after, self._clock())
            raise
        ends = asked + lasts
        self._token = _Token(
            {"Authorization": f"Bearer {text}"},
            asked,
            renew_at=ends - min(lasts / 5, EARLY),
            ends=ends,
            after_401=self._token is not None and self._token.refused,
        )
        return self._token
