"""A backfill in the walk: it reads pages, stores them and looks, in production code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from change_events import HTTPFetcher, HTTPListing, ListingError
from change_events._consumer.deletions import Deletions
from change_events._consumer.guard import Guard
from change_events._operations.filled import STATE
from change_events._operations.filling import fill
from change_events._operations.state import loaded
from change_events._operations.throttle import Throttle
from verification.proof.effects import GETS, ask
from verification.proof.fibres import PARKED, Fibres
from verification.proof.process import Facts, Process
from verification.proof.stand_ins import FIRST_PAGE, FilledCache, Pool

if TYPE_CHECKING:
    from verification.proof.effects import Setup

PLACE = ("phase", "cursor", "pages", "recent", "after")
"""What decides how a backfill goes on, of what it keeps in the sink. The rest is for its report."""


class Filler(Process):
    """
    A process that fills the cache; if it dies, another one that goes on.

    Its actors are its threads. What they do among themselves is done at once: nobody else sees it.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        self._setup = setup
        self._kept: dict[str, str] = {}
        self._named = False
        self._over = False
        self._start()

    def _start(self) -> None:
        self._answers: list[tuple[str, str, Any]] = []  # those that still decide something
        self._targets: dict[str, Callable[[], object]] = {"fill": self._fill}
        self._fibres = Fibres(self._spawn)
        self._run_on()

    def crash(self) -> None:
        """Die. Another process begins, with what is kept in the sink."""
        self.close()
        self.wants.clear()
        self._start()

    def go_on(self, actor: str, answer: Any = None) -> None:
        wanted = self.wants[actor][0]
        if wanted == "page":
            self._named = answer[0] == 200
        if wanted == "apply":  # that look is over, or begins again; failures are counted
            self._answers = [
                (who, what, was)
                for who, what, was in self._answers
                if what not in {"entry", *GETS} or (what in GETS and was[1] < 0)
            ]
        elif wanted != "save":
            self._answers.append((actor, wanted, answer))
        self._switch(actor, answer)
        self._run_on()

    def _switch(self, actor: str, answer: Any = None) -> None:
        super().go_on(actor, answer)
        if self.wants.get(actor) == PARKED:
            del self.wants[actor]

    def _run_on(self) -> None:
        """Let all threads run until each of them waits for the world."""
        while actors := [*self._targets, *filter(self._can_go_on, self.running)]:
            self._switch(actors[0])

    def _can_go_on(self, actor: str) -> bool:
        return actor not in self.wants and self._fibres.is_ready(self.running[actor])

    def _spawn(self, role: str, target: Callable[[], object]) -> None:
        while role in self.running:  # it is about to end: a run before this one has begun it
            role += "'"
        self._targets[role] = target

    def task(self, actor: str) -> Callable[[], object]:
        return self._targets.pop(actor)

    def _fill(self) -> None:
        pool: Any = Pool(self._setup)  # all that the library uses of one
        sink = FilledCache(self._kept, keep=self._keep)
        fetcher = HTTPFetcher("http://source/{id}", pool=pool)
        listing = HTTPListing(FIRST_PAGE, entities=True, next="next", pool=pool)
        while not self._over:
            try:
                fill(
                    listing,
                    fetcher=fetcher,
                    sink=sink,
                    deletions=Deletions(Guard(on=False), sink, fetcher, lock=threading.Lock()),
                    throttle=Throttle(pause=lambda *_: 1.0, threads=self._fibres),
                    threads=1,
                )
            except ListingError:  # the entity changed after its page was read: "run again"
                self._answers.clear()
            else:
                self._over = True

    def _keep(self, name: str, text: str) -> None:
        """Keep a text, durably. The walk sees it if the backfill gets on."""
        place = _place(text)
        if name == STATE and place != _place(self._kept.get(name)):
            phase, _, pages, *_ = place
            ask("save", phase, pages)
            kinds = {"page"} if phase == "listing" else set()
            self._answers = [each for each in self._answers if each[1] in kinds]
        self._kept[name] = text

    def ready_in(self) -> dict[str, float]:
        return {}

    def facts(self) -> Facts:
        stores = {"insert", "apply"} & {effect[0] for effect in self.wants.values()}
        kinds = {"page"} if stores and "fill" in self.wants else GETS
        answers = [answer for _, wanted, answer in self._answers if wanted in kinds]
        saw = answers[-1] if stores and answers else (0, 0)
        return Facts(saw=saw, named=self._named, over=self._over)

    def state(self) -> Hashable:
        if self._over:
            return self._named
        place = _place(self._kept.get(STATE))
        return (self._named, place, tuple(self._answers), tuple(self.wants.items()))


def _place(text: str | None) -> tuple[Any, ...]:
    kept = loaded(text)
    return tuple(kept.get(name) for name in PLACE)
