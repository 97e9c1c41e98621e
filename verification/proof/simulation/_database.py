"""The services' database, which can commit late, or hide that it has committed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from verification.proof.simulation._kernel import Killed

if TYPE_CHECKING:
    from verification.proof.simulation._books import Save
    from verification.proof.simulation._environment import Environment


LONGEST_IN_THREAD = 4.0
"""The most seconds from the cancellation of a save until its last commit, without a stall."""


class SaveFailed(Exception):  # noqa: N818
    """A save has failed, as far as its caller can see."""


class Database:
    """
    Commits what is saved.

    Args:
        environment: What the world's parts share.
        settle: The settle window in seconds. No commit is later: a condition of the promise.

    Attributes:
        late: Commits that are still to come, after their caller has got an error or has died.
    """

    def __init__(self, environment: Environment, *, settle: float) -> None:
        self._environment = environment
        self._settle = settle
        self.late = 0

    def commit_all(self, save: Save) -> None:
        """
        Commit one entity after the other. To be called by a task.

        Raises:
            SaveFailed: One of them has failed.
        """
        environment = self._environment
        kernel, random = environment.kernel, environment.random
        for id in save.ids:
            fails = random() < environment.faults.save_fails
            try:
                kernel.pause(environment.durations.save())
            except Killed:
                if random() < 0.5:
                    self._commit_later(save, id)
                raise
            if fails:
                raise SaveFailed
            hides = random() < environment.faults.save_hides
            if hides and random() < 0.5:
                self._commit_later(save, id)
                raise SaveFailed
            environment.ghost.commit(save, id)
            if hides:
                raise SaveFailed
            if random() < 0.2:
                kernel.pause(environment.durations.save())

    def commit_in_thread(self, save: Save) -> None:
        """Commit what is left of a cancelled save, within a few seconds."""
        environment = self._environment
        for id in save.ids:
            longest = LONGEST_IN_THREAD / len(save.ids)
            environment.kernel.pause(min(environment.durations.save(), longest))
            environment.kernel.enter()
            environment.ghost.commit(save, id)

    def _commit_later(self, save: Save, id: str) -> None:
        environment = self._environment
        now = environment.kernel.now
        left = save.accepted.get(id, now) + self._settle - now
        if left > 0:
            self.late += 1
            environment.kernel.at(
                now + left * 0.999 * environment.random(), partial(self._commit_late, save, id)
            )

    def _commit_late(self, save: Save, id: str) -> None:
        self.late -= 1
        self._environment.ghost.commit(save, id)
