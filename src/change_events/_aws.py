"""
Make boto3 clients. boto3 is imported with the first one: that lasts longer than the import of our
whole package.
"""

from __future__ import annotations

import os
import threading
from typing import Any


class ForkSafeLock:
    """
    A lock that a fork waits for, so that no child finds it held by a thread that it does not have.
    A thread can acquire it several times.
    """

    def __init__(self) -> None:
        self._start_over()
        # A child starts over, because not every server that forks in C runs `before`.
        getattr(os, "register_at_fork", lambda **_: None)(
            before=self.__enter__, after_in_parent=self.__exit__, after_in_child=self._start_over
        )

    def _start_over(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


CLIENTS_LOCK = ForkSafeLock()
"""
Held while a client is made, boto3's import included: Python's lock of a module that is being
imported is not released in a child of a fork, either.
"""


def make_client(
    service: str,
    *,
    region: str | None = None,
    connect_timeout: float,
    read_timeout: float,
    attempts: int | None = None,
    connections: int = 10,
    validate: bool = True,
    session: Any = None,
) -> Any:
    """
    Make a client that retries in boto3's "standard" mode.

    Args:
        service: The service's name in boto3.
        region: Default: the Region that boto3 finds.
        connect_timeout: The most seconds for an attempt to connect.
        read_timeout: The most seconds for an attempt to wait for an answer.
        attempts: The most attempts for a call. Default: as the environment says, or 3.
        connections: The most connections to keep.
        validate: Check a call's parameters before sending it.
        session: Default: boto3's default session.
    """
    with CLIENTS_LOCK:
        import encodings.idna  # noqa: F401  # otherwise the first look-up of a host imports it

        import boto3
        from botocore.config import Config

        retries = {"mode": "standard", "total_max_attempts": attempts}
        config = Config(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries={name: value for name, value in retries.items() if value is not None},
            max_pool_connections=connections,
            parameter_validation=validate,
        )
        return (session or boto3).client(service, region_name=region, config=config)


def new_session() -> Any:
    """
    Return a session like boto3's default session, except that it looks for credentials again.

    A session keeps the credentials that it found. If the user gave credentials to the default
    session itself, return that session: no others must replace them.
    """
    import boto3
    from boto3.session import Session

    old = boto3.DEFAULT_SESSION
    if old is None:
        return Session()
    credentials = old.get_credentials()
    if credentials is not None and credentials.method == "explicit":
        return old
    return Session(profile_name=None if old.profile_name == "default" else old.profile_name)


def could_be_credentials(error: Exception) -> bool:
    """
    Return whether expired credentials could be why a call failed: after every refusal by the
    service (4xx) and every error before the request was sent, because that error has many names.
    """
    from botocore import exceptions as botocore

    if isinstance(error, botocore.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        return bool(400 <= status < 500)
    no_answer = isinstance(error, (botocore.HTTPClientError, botocore.ConnectionError))
    return isinstance(error, botocore.BotoCoreError) and not no_answer


def is_denied(error: Exception) -> bool:
    """Return whether AWS refused a call because a permission is missing."""
    response = getattr(error, "response", None)  # botocore's ClientError has one
    details = response.get("Error", {}) if isinstance(response, dict) else {}
    return "AccessDenied" in str(details.get("Code"))
