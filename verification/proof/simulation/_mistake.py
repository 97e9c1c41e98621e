"""A mistake: workers are deployed with a URL that answers 404 to everything."""

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


class Guarded(Protocol):
    """A worker that can refuse a mass deletion."""

    process: Process

    @property
    def refuses(self) -> bool: ...
    def resume(self) -> None: ...


class Mistake:
    """
    Makes the source wrong, once, and corrects it.

    When the operator sees that workers have refused a mass deletion, they are deployed again if the
    URL is wrong. If it is right, they are told to resume: there are many deletions in these worlds.

    Args:
        environment: What the world's parts share.
        source: Becomes wrong.
        deploy: Starts all workers again.
    """

    def __init__(
        self, environment: Environment, source: Source, deploy: Callable[[], None]
    ) -> None:
        self._environment = environment
        self._source = source
        self._deploy = deploy
        self._workers: list[Guarded] = []

    def watch(self, worker: Guarded) -> None:
        """Look at this worker's log, too."""
        self._workers.append(worker)

    def await_it(self, *, within: float) -> None:
        """Schedule the mistake, in so many seconds at most, and the operator's rounds."""
        kernel = self._environment.kernel
        kernel.at(kernel.now + within * self._environment.random(), self._begin)
        kernel.at(kernel.now + ROUNDS, self._go_round)

    def _begin(self) -> None:
        environment = self._environment
        if environment.faults is not NO_FAULTS and not environment.ghost.counts["resumes"]:
            environment.ghost.counts["mistakes"] += 1
            self._source.is_wrong = True

    def _go_round(self) -> None:
        environment = self._environment
        self._workers = [worker for worker in self._workers if worker.process.alive]
        refusing = [worker for worker in self._workers if worker.refuses]
        if self._source.is_wrong:
            if refusing or environment.random() < UNNOTICED:
                self._source.is_wrong = False
                self._deploy()
        else:
            environment.ghost.counts["resumes"] += len(refusing)
            for worker in refusing:
                worker.resume()
        environment.kernel.at(environment.kernel.now + ROUNDS, self._go_round)
