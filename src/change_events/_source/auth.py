"""Ask `auth=` for headers, and tell it of a 401."""

from __future__ import annotations

from typing import TYPE_CHECKING

from change_events.exceptions import ConfigurationError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from change_events._source.http import Answer
    from change_events.typing import Auth


class Authorizer:
    """
    Sends GETs with what `auth=` adds to their headers.

    Whatever fails in `auth=` is an error without a status: an outage of the source, never the
    entity's own failure.

    Raises:
        ConfigurationError: `auth` is not an `Auth`; or `headers` has what it adds.
    """

    def __init__(self, auth: Auth, headers: Mapping[str, str] | None) -> None:
        for name in ("authorize", "renew"):
            if isinstance(auth, type) or not callable(getattr(auth, name, None)):
                kind = auth.__name__ if isinstance(auth, type) else type(auth).__name__
                # Only the type: it can be a pair of a name and a password.
                raise ConfigurationError(
                    "auth= must be ClientCredentials(...), SigV4(...) or an object with "
                    f"authorize() and renew(), not {kind}"
                )
        if "authorization" in map(str.lower, headers or {}):
            raise ConfigurationError("headers= has an Authorization already: leave out auth= or it")
        self._auth = auth

    def get(
        self,
        url: str,
        headers: dict[str, str],
        send: Callable[[Mapping[str, str]], Answer],
        left: Callable[[], float],
    ) -> Answer:
        """
        GET; after a 401 renew, and GET once more, if there is time.

        Args:
            url: The URL.
            headers: The headers without those of `auth=`.
            send: Sends a GET with these headers and those that it is given.
            left: Returns the seconds that are left.

        Raises:
            FetchError: There is no answer, or no authorization.
        """
        outcome, added = self._attempt(url, headers, send, left())
        if outcome.status == 401 and self._renew(added) and left() > 0:
            outcome, _ = self._attempt(url, headers, send, left())
        if isinstance(outcome, FetchError):
            raise outcome
        return outcome

    def _attempt(
        self,
        url: str,
        headers: dict[str, str],
        send: Callable[[Mapping[str, str]], Answer],
        timeout: float,
    ) -> tuple[Answer | FetchError, Mapping[str, str]]:
        """Return the answer, or why it can't be read, and what `auth=` has added."""
        added = self._authorize(url, headers, timeout)
        try:
            return send(added), added
        except FetchError as error:
            return error, added  # its status can be 401

    def _authorize(self, url: str, headers: dict[str, str], timeout: float) -> Mapping[str, str]:
        try:
            return self._auth.authorize("GET", url, headers, timeout=timeout)
        except FetchError as error:
            raise FetchError(str(error), retry_after=error.retry_after) from error
        except Exception as error:  # the user's own code
            raise _failure(error) from error

    def _renew(self, added: Mapping[str, str]) -> bool:
        try:
            return self._auth.renew(added)
        except Exception as error:  # the user's own code
            raise _failure(error) from error


def _failure(error: Exception) -> FetchError:
    # Only the type: the text can quote a secret.
    return FetchError(f"auth= raised {type(error).__name__}")
