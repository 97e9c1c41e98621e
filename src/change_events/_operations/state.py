"""What an operation keeps in the sink, so that it goes on after it was killed."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from change_events.exceptions import AlreadyRunningError, ConfigurationError
from change_events.typing import StatefulSink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TEXT_OR_NONE, NUMBER_OR_NONE = (str, type(None)), (int, float, type(None))

LEASE = 60.0
"""Seconds without a word after which another process takes over."""

BEAT = 10.0
"""Seconds after which the state is stored again: other processes see that the work goes on."""

SHORTLY = 1.0
"""Seconds between two looks at whether another process still works."""

ATTEMPTS = 100
"""How often to try to store a state that others change, too."""

_working: set[str] = set()
"""The tokens of this process's owners: its own pid does not tell whether another one is at work."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that works."""

    host: str
    pid: int
    token: str

    @classmethod
    def me(cls) -> Owner:
        """Return a new owner in this process."""
        return cls(socket.gethostname(), os.getpid(), uuid.uuid4().hex)

    def is_dead(self, other: Owner) -> bool:
        """Return True if the other owner can't work any more, as far as this one can see."""
        if other.host != self.host:
            return False
        if other.pid == self.pid:  # perhaps before a restart: a container's process has pid 1
            return other.token not in _working
        try:
            os.kill(other.pid, 0)
        except OSError as error:
            return isinstance(error, ProcessLookupError)  # otherwise it is another user's
        return False

    def __str__(self) -> str:
        """Return where it works."""
        return f"process {self.pid} on {self.host}"


def stateful(sink: object) -> StatefulSink:
    """
    Return the sink.

    Raises:
        ConfigurationError: It keeps no state.
    """
    if isinstance(sink, StatefulSink):
        return sink
    raise ConfigurationError(
        f"{sink!r} keeps no state: it needs state(name) and set_state(name, text, if_state=...), "
        "see change_events.typing.StatefulSink"
    )


def loaded(text: str | None) -> dict[str, Any]:
    """Return what was stored; an empty mapping if nothing was, or nothing that can be read."""
    try:
        kept = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def change_state(sink: StatefulSink, name: str, change: Callable[[str | None], str]) -> None:
    """
    Store what `change` returns for the text that is stored now.

    Raises:
        RuntimeError: The sink has refused it too often.
    """
    for _ in range(ATTEMPTS):
        text = sink.state(name)
        if sink.set_state(name, change(text), if_state=text):
            return
    raise RuntimeError(f"{sink!r} has refused to store the state {name!r} {ATTEMPTS} times")


class Kept:
    """
    A mapping that is kept in a sink under a name, and changed by one process at a time.

    Two processes that change it at once would only do the work twice. So it is enough that the
    second one sees that the first is at work: what is stored changes every few seconds.

    Args:
        sink: The sink.
        name: The name.
        types: The types of the values. Others are left out: another version can have stored them.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        sink: StatefulSink,
        name: str,
        *,
        types: Mapping[str, type | tuple[type, ...]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sink = sink
        self._name = name
        self._types = {**types, "beat": int}
        self._text: str | None = None
        self._clock = clock
        self._saved_at = clock()
        self.me = Owner.me()
        self.values: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Return what is stored now."""
        self._text = self.sink.state(self._name)
        self.values = {
            name: value
            for name, value in loaded(self._text).items()
            if isinstance(value, self._types.get(name, object))
        }
        return self.values

    def take(self, wait: Callable[[float], object]) -> dict[str, Any]:
        """
        Become the owner.

        Args:
            wait: Waits for so many seconds.

        Raises:
            AlreadyRunningError: Another process works on it.
        """
        began = self._clock()
        before = dict(self.read())
        while (owner := self.owner) is not None and self._clock() - began < LEASE:
            if owner.token not in _working:
                wait(SHORTLY)
            if owner.token in _working or self.read() != before:
                raise self._taken()
        _working.add(self.me.token)
        try:
            if not self._save():
                self.read()
                raise self._taken()
        except BaseException:
            _working.discard(self.me.token)
            raise
        return self.values

    @property
    def owner(self) -> Owner | None:
        """Another process that works on it, or did when it stored something last."""
        match self.values.get("owner"):
            case {"host": str(host), "pid": int(pid), "token": str(token)}:
                other = Owner(host, pid, token)
                return None if self.me.is_dead(other) else other
        return None

    def _taken(self) -> AlreadyRunningError:
        owner = self.owner
        return AlreadyRunningError(
            f"another {self._name} works on this cache: {owner or 'another process'}"
        )

    def save(self, **changes: object) -> None:
        """
        Store these changes, durably.

        Raises:
            AlreadyRunningError: Another process has taken over.
        """
        self.values |= changes
        if not self._save():
            self.read()
            raise self._taken()

    def beat(self) -> None:
        """Store again, if nothing was stored for `BEAT` seconds, to show that the work goes on."""
        if self._clock() - self._saved_at >= BEAT:
            self.save()

    def release(self) -> None:
        """Be no longer the owner. It leaves another process that has taken over alone."""
        _working.discard(self.me.token)
        if (self.values.get("owner") or {}).get("token") != self.me.token:
            return
        self.values["owner"] = None
        self._save(owned=False)

    def _save(self, *, owned: bool = True) -> bool:
        me = self.me
        if owned:
            self.values["owner"] = {"host": me.host, "pid": me.pid, "token": me.token}
        self.values["beat"] = self.values.get("beat", 0) + 1
        text = json.dumps(self.values)
        if not self.sink.set_state(self._name, text, if_state=self._text):
            # It can be ours: a call that failed can have stored it.
            stored = self.sink.state(self._name)
            is_ours = (loaded(stored).get("owner") or {}).get("token") == me.token
            if not (is_ours and self.sink.set_state(self._name, text, if_state=stored)):
                return False
        self._text = text
        self._saved_at = self._clock()
        return True
