"""A saver in the walk: a service that saves one entity, in production code."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

import greenlet

from change_events import PublishError, SNSPublisher, broadcasting
from change_events._producer.renewals import Renewals
from change_events._producer.threads import Senders
from verification.proof.effects import CANCELLED, ID, RAISES, SETTLE, TOPIC, Setup, ask
from verification.proof.process import Facts, Process
from verification.proof.stand_ins import Sns


class SaveFailed(Exception):  # noqa: N818
    """The user's save raises."""


class Cancelled(BaseException):
    """The user's save is cancelled, and goes on in a thread."""


class Saver(Process):
    """A service that saves one entity: the block under `broadcasting`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self._setup = setup
        self._jobs: list[Callable[[], None]] = []
        self._renewals = Renewals(
            clocks=lambda: (self._monotonic, self.now),
            sleep=lambda _: None,
            in_thread=lambda _: None,
            senders=Senders(self._jobs.append),
            new_save_id=lambda: "s",  # the explorer distinguishes savers
            linger=0.0,  # so it is two windows
        )
        self._answers: list[Any] = []  # since the start, or since the save wanted to commit
        self._asked_at: dict[str, tuple[int, int]] = {}  # by both clocks
        self._saving_since = 0
        self._relies_on = 0  # when the last accepted broadcast began
        self._begun_with = SETTLE  # ticks in which it could commit when the save began
        self._exposed = False
        self._stood_still = 0  # ticks that the monotonic clock has not noticed
        self._frozen = False  # since its save has begun, or since its start
        self._over = False

    @property
    def _monotonic(self) -> int:
        return self.now - self._stood_still

    def freeze(self) -> None:
        """Let a window pass in which the process and its monotonic clock stand still."""
        self.now += SETTLE
        self._stood_still += SETTLE
        self._frozen = True

    def go_on(self, actor: str, answer: Any = None) -> None:
        wanted = self.wants.get(actor, ("",))[0]
        if wanted == "publish" and answer:
            self._relies_on = max(self._relies_on, self._asked_at[actor][1])
            self._exposed = False
        if wanted in {"commit", "land"} and answer != CANCELLED:
            self._exposed = "renew" in self.wants and self.now - self._relies_on >= SETTLE
        if actor == "save":
            self._answers.append(answer)
        super().go_on(actor, answer)
        if answer == CANCELLED:
            self._saving_since = self.now
            super().go_on("thread")
        if self.wants.get(actor, ("",))[0] == "publish":
            self._asked_at[actor] = (self._monotonic, self.now)

    def task(self, actor: str) -> Callable[[], object]:
        if actor == "save":
            return self._save
        if actor == "confirm":
            return self._jobs.pop(0)
        if actor == "thread":
            return lambda: ask("land")
        self._renewals.collect_due()
        return self._renewals.renew_next

    def _save(self) -> None:
        client = Sns(
            slow=lambda: any(
                greenlet.getcurrent() is self.running.get(actor)
                for actor in self._setup.slow_actors
            )
        )
        broadcast = broadcasting(
            SNSPublisher(TOPIC, client=client),
            ID,
            settle=float(SETTLE),
            confirm=self._setup.confirm,
            renewals=self._renewals,
        )
        with suppress(SaveFailed, PublishError, Cancelled), broadcast:
            self._saving_since = self.now
            self._begun_with = SETTLE - (self.now - self._relies_on)
            self._frozen = False
            self._answers.clear()
            answer = ask("commit")
            if answer == CANCELLED:
                raise Cancelled
            if not answer:
                raise SaveFailed
            if self._setup.renewals and ask("return") == RAISES:
                raise SaveFailed
        self._over = True
        self._answers.clear()

    def ready_in(self) -> dict[str, float]:
        ready: dict[str, float] = {}
        if "save" not in self._asked_at:
            ready["save"] = 0
        if self._jobs and "confirm" not in self.running:
            ready["confirm"] = 0
        renew_at = min((save.renew_at for save in self._renewals._saves), default=math.inf)
        landed = self._over and "thread" not in self.running  # a renewal is only one more event
        renews = self._setup.renewals and renew_at < math.inf and not landed
        if renews and "renew" not in self.running:
            ready["renew"] = max(0.0, renew_at - self._monotonic)
        return ready

    def state(self) -> Hashable:
        if self._over and "thread" not in self.running:
            under_way = self.facts() if self.running else None
            return (len(self._jobs), tuple(self.wants.items()), under_way)
        return (
            "save" in self._asked_at,
            tuple(self._answers),
            tuple(self.wants.items()),
            tuple(
                (
                    min(self._monotonic - save.started[0], SETTLE),
                    self.ticks_since(save.started[1]),
                    max(0.0, save.renew_at - self._monotonic),
                    max(0.0, save.linger_until - self._monotonic),
                )
                for save in self._renewals._saves
            ),
            tuple(self._monotonic - self._asked_at[actor][0] for actor in self._asking()),
            self._frozen,
            self.facts(),
        )

    def _asking(self) -> list[str]:
        return [a for a, effect in self.wants.items() if effect[0] in {"publish", "answer"}]

    def facts(self) -> Facts:
        asking = {actor: self.now - self._asked_at[actor][1] for actor in self._asking()}
        saving = self._renewals._saves or "thread" in self.running
        return Facts(
            rely_on=SETTLE - self.ticks_since(self._relies_on),
            asked=max(asking.values(), default=0),
            renewing=asking.get("renew"),
            exposed=self._exposed,
            begun_with=self._begun_with,
            saving=self.now - self._saving_since if saving else 0,
            frozen=self._frozen,
            over=self._over and "thread" not in self.running,
        )
