"""What the source lists, for backfills and audits: page by page, while it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from change_events import Found, Page
from change_events._consumer.look import digest
from verification.proof.simulation._source import Listed

if TYPE_CHECKING:
    from verification.proof.simulation._source import Source

LEFT_OUT = 0.05
"""The chance that a page of whole entities names an id only."""


class Listing:
    """
    Lists the ids of what exists. The first of them change most, and so they come last.

    Args:
        source: The source.
        size: How many ids a page has.
        entities: Whole entities, not only ids.
    """

    url = "https://products/"

    def __init__(self, source: Source, *, size: int, entities: bool) -> None:
        self._source = source
        self._size = size
        self._entities = entities

    def page(self, cursor: str | None, /) -> Page[int]:
        """Read a page. Each of its entities is read at its own moment."""
        ids, states = self._source.page(cursor, self._size)
        found = None
        if self._entities:
            random = self._source.random
            found = {
                id: Found(Listed.of(state, commit), None, digest(state))
                for id, (commit, state) in states.items()
                if state is not None and random() >= LEFT_OUT
            }
        return Page(ids, found, ids[-1] if len(ids) == self._size else None)
