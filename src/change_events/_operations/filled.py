"""What a backfill keeps in the sink: how far it is, and what it has left out."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING

from change_events._operations.pages import epoch_of
from change_events._operations.state import (
    NUMBER_OR_NONE,
    TEXT_OR_NONE,
    Kept,
    change_state,
    loaded,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from change_events.typing import StatefulSink

STATE = "backfill"
"""The name of a backfill's state in the sink."""

TYPES: dict[str, type | tuple[type, ...]] = {
    "listing": str,
    "epoch": TEXT_OR_NONE,
    "phase": str,
    "cursor": TEXT_OR_NONE,
    "pages": int,
    "listed": int,
    "stored": int,
    "total": NUMBER_OR_NONE,
    "outcomes": dict,
    "unlisted": NUMBER_OR_NONE,
    "failed": int,
    "failed_ids": dict,
    "left": list,
    "doubted": bool,
    "chunks": int,
    "recent": str,
    "after": TEXT_OR_NONE,
}
"""What is kept, and the types."""

MOST_LEFT = 1000
"""How many ids that failed are kept, for the worker that looks at them again."""

LEFT_SIZE = 65_536
"""The most characters of JSON that these ids have: an item of DynamoDB has at most 400 KB."""


def is_filled(sink: StatefulSink, listing: object) -> bool:
    """
    Return True if the cache was filled from that listing, by any process, and has lost nothing
    since.
    """
    values = Kept(sink, STATE, types=TYPES).read()
    return (
        values.get("phase") == "done"
        and values.get("listing") == name_of(listing)
        and values.get("epoch") == epoch_of(sink)
    )


def that_fit(ids: Sequence[str]) -> list[str]:
    """Return the first of these ids, as many as can be kept."""
    sizes = accumulate(len(json.dumps(id)) + 2 for id in ids)
    return [id for id, size in zip(ids, sizes, strict=True) if size <= LEFT_SIZE][:MOST_LEFT]


def ids_left(sink: StatefulSink) -> tuple[list[str], str | None]:
    """Return the ids at which the last backfill has looked in vain, and the sink's epoch then."""
    values = Kept(sink, STATE, types=TYPES).read()
    return values.get("left", []), values.get("epoch")


def forget_left(sink: StatefulSink, ids: Collection[str], epoch: str | None) -> None:
    """Note that looks at these ids have succeeded, unless the sink has lost something since."""

    def change(text: str | None) -> str:
        values = loaded(text)
        if values.get("epoch") != epoch:
            return text or "{}"
        values["left"] = [id for id in values.get("left", ()) if id not in ids]
        return json.dumps(values)

    change_state(sink, STATE, change)


def is_unfinished(kept: Kept, listing: object, epoch: str | None) -> bool:
    """Return True if a backfill from that listing can go on. `epoch`: the sink's, now."""
    values = kept.values
    return (
        TYPES.keys() <= values.keys()
        and values["phase"] in {"listing", "unlisted"}
        and values["listing"] == name_of(listing)
        and values["epoch"] == epoch
    )


def name_of(listing: object) -> str:
    """Return a name that the listing has after a restart, too."""
    return str(getattr(listing, "url", type(listing).__qualname__))


def begin(kept: Kept, listing: object, epoch: str | None) -> None:
    """Forget what was done, but not the owner, nor that the listing was refused."""
    kept.values.setdefault("doubted", False)
    kept.values.update(
        listing=name_of(listing),
        epoch=epoch,
        phase="listing",
        cursor=None,
        pages=0,
        listed=0,
        stored=0,
        total=None,
        outcomes={},
        unlisted=None,
        failed=0,
        failed_ids={},
        left=[],
        chunks=0,
        recent="",
        after=None,
    )
