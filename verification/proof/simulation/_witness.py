"""The ghost's eyes on what operates a cache: backfills, audits, repairs, and changes by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.proof.simulation._ghost import EPSILON

if TYPE_CHECKING:
    from collections.abc import Collection

    from verification.proof.simulation._ghost import Ghost
    from verification.proof.simulation._kernel import Kernel


class Witness:
    """
    Tells the ghost, and checks what operations say they have done.

    Args:
        ghost: The ghost.
        kernel: The clock.
    """

    def __init__(self, ghost: Ghost, kernel: Kernel) -> None:
        self._ghost = ghost
        self._kernel = kernel
        self._outside = ghost.cache.outside

    def existed(self, id: str, state: int) -> None:
        """An entity is older than the queue."""
        self._ghost.history[id].append(state)
        self._outside.unannounced.add(id)
        self._outside.note(id, written=False, wrong=True)
        self._ghost.tell(id, f"has {state} before the queue exists")

    def changed_by_hand(self, id: str, value: int) -> None:
        """A row of the cache was changed by hand."""
        self._ghost.cache.states[id] = value
        self._outside.by_hand[id] = (value, self._kernel.now)
        self._outside.note(id, written=False, wrong=True)
        self._ghost.counts["rows changed by hand"] += 1
        self._ghost.tell(id, f"CHANGED BY HAND: {value}")

    def filled(self, failed: Collection[str]) -> None:
        """A backfill is complete, but for some broken ids."""
        for id in self._outside.unannounced - set(failed):
            self._ghost.fail("filled", id, "it is not cached")

    def audited(
        self, stale: Collection[str], undecided: Collection[str], *, since: float, min_age: float
    ) -> None:
        """An audit since then has reported these ids."""
        self._ghost.counts["reported as wrong"] += len(stale)
        for id in stale:
            self._ghost.tell(id, "is reported as wrong")
            if (age := self._outside.was_wrong(id, since=since)) < min_age - EPSILON:
                self._ghost.fail(
                    "audited", id, f"reported, and wrong for {age:.3f} s without a write"
                )
        for id in self._outside.overlooked({*stale, *undecided}, since=since):
            self._ghost.fail("audited", id, "changed by hand, and not reported")

    def repaired(self, ids: Collection[str], *, since: float) -> None:
        """These ids were repaired by looks that have begun after that."""
        self._ghost.counts["repaired"] += len(ids)
        for id in ids:
            if id in self._outside.by_hand and self._outside.by_hand[id][1] < since:
                self._ghost.fail("audited", id, "repaired, and still as it was changed by hand")
