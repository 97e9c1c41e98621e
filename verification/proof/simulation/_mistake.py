"""A mistake: workers are deployed with a wrong URL, which answers 404 to everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from verification.proof.simulation._chance import NO_FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.proof.simulation._environment import Environment
    from verification.proof.simulation._kernel import Process
    from verification.proof.simulation._source import Source

ROUNDS = 60.0
"""Virtual seconds between two looks of the operator at the workers' logs."""

UNNOTICED = 0.1
"""The chance, a round, that the operator finds the mistake although no worker has stopped."""

AFTER_RESUME = 900.0
"""Seconds from a `resume` to a mistake: deletions are believed until there are few for a while."""

MOST_DELETED = 50
"""How many entities can be deleted: half of the hundred looks that count."""


class Guarded(Protocol):
    """A worker that can refuse a mass deletion."""

    process: Process

    @property
    def refuses(self) -> bool: ...
    def resume(self) -> None: ...


class Mistake:
    """
    Deploys the wrong URL once, to all workers or to one of them, and corrects it.

    When the operator sees that workers have refused a mass deletion, all are deployed again if the
    URL is wrong. If it is right, one is told to resume: there are many deletions in these worlds.

    Args:
        environment: What the world's parts share.
        source: Has the wrong URL's answers, too.
        deploy: Starts so many workers again; None: all.
    """

    def __init__(
        self, environment: Environment, source: Source, deploy: Callable[[int | None], None]
    ) -> None:
        self._environment = environment
        self._source = source
        self._deploy = deploy
        self._workers: list[Guarded] = []
        self._lasts = False
        self._for_all = False
        self._resumed_at = 0.0

    def watch(self, worker: Guarded) -> None:
        """Look at this new worker's log, too."""
        self._workers.append(worker)
        if self._lasts and (self._for_all or not self._misleads_one()):
            self._source.misled.add(worker.process)
            if not self._is_shared:
                self._environment.ghost.mistakes.allowed += MOST_DELETED

    def await_it(self, *, within: float) -> None:
        """Schedule the mistake, in so many seconds at most, and the operator's rounds."""
        kernel = self._environment.kernel
        kernel.at(kernel.now + within * self._environment.random(), self._begin)
        kernel.at(kernel.now + ROUNDS, self._go_round)

    def _begin(self) -> None:
        environment = self._environment
        ghost, kernel = environment.ghost, environment.kernel
        if environment.faults is NO_FAULTS:
            return
        if ghost.counts["resumes"] and kernel.now < self._resumed_at + AFTER_RESUME:
            kernel.at(kernel.now + ROUNDS, self._begin)
            return
        self._lasts, self._for_all = True, environment.random() < 0.5
        ghost.counts["mistakes"] += 1
        if self._is_shared:
            ghost.mistakes.allowed = MOST_DELETED
        self._deploy(None if self._for_all else 1)

    @property
    def _is_shared(self) -> bool:
        """True if nobody has the right URL. Backfills, audits and redrives always have it."""
        return self._for_all and not self._environment.setup.operations

    def _misleads_one(self) -> bool:
        return any(process.alive for process in self._source.misled)

    def _go_round(self) -> None:
        environment = self._environment
        self._workers = [worker for worker in self._workers if worker.process.alive]
        refusing = [worker for worker in self._workers if worker.refuses]
        if self._lasts:
            if refusing or environment.random() < UNNOTICED:
                self._lasts = False
                self._deploy(None)
        elif refusing:
            environment.ghost.counts["resumes"] += 1
            self._resumed_at = environment.kernel.now
            refusing[0].resume()
        environment.kernel.at(environment.kernel.now + ROUNDS, self._go_round)
