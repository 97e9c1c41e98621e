"""Consumers that do the same work: for each event one GET, one upsert into SQLite, then acknowledge."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks import environments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.stage import Stage


@dataclass(frozen=True)
class Contender:
    """
    Somebody who consumes.

    Attributes:
        name: What the tables call it; and its module here.
        environment: What it runs in.
        about: How it does the work.
        reads: What its messages are, if it can't read a change event.
        share: Which part of the events it is given, if it would take minutes; rates are what is compared.
        more: Settings that only it knows.
    """

    name: str
    about: str
    environment: str = environments.OURS
    reads: str = ""
    share: float = 1.0
    more: dict[str, Any] = field(default_factory=dict)

    def command(self) -> list[str]:
        """Return what to run."""
        return [environments.python(self.environment), "-m", f"benchmarks.contenders.{self.name}"]

    def messages(self, stage: Stage, queue_url: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the messages of events, as `SendMessage` takes them."""
        del stage, queue_url
        return [{"MessageBody": json.dumps({"id": id})} for id in ids]


OURS = Contender("ours", "the Worker", more={"settle": 0, "visibility_timeout": 60})
TUNED = Contender("tuned", "receive ten, ten threads GET, delete the ten in one call")
LOOPS = Contender("loops", "each thread receives ten, GETs one after the other, deletes the ten in one call")
PLAIN = Contender("plain", "one thread: receive ten, then GET, write, delete one by one", share=0.1)

AT_HAND = [PLAIN, TUNED, LOOPS, OURS]
"""Those that need no other environment."""
