"""Which ids a listing has named, kept in the sink."""

from __future__ import annotations

import base64
from array import array
from bisect import bisect_left
from hashlib import blake2b
from typing import TYPE_CHECKING

from change_events._operations.state import change_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from change_events._operations.state import Kept

LISTED = "backfill listed"
"""The beginning of the names under which the ids are kept."""

CHUNK = 2000
"""How many ids are kept under one name."""


class Listed:
    """The ids that were listed, as hashes of eight bytes, kept in the sink."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def add(self, ids: Sequence[str]) -> None:
        """Add ids; what is saved next keeps them."""
        values = self._kept.values
        recent = _hashes(values["recent"])
        recent.extend(map(hash_of, ids))
        if len(recent) >= CHUNK:
            name = self._name(values["chunks"])
            text = _text(recent)
            change_state(self._kept.sink, name, lambda _: text)
            values["chunks"] += 1
            recent = array("Q")
        values["recent"] = _text(recent)

    def ordered(self) -> array[int]:
        """Return the hashes of all of them, sorted."""
        values = self._kept.values
        listed = _hashes(values["recent"])
        for number in range(values["chunks"]):
            listed.extend(_hashes(self._kept.sink.state(self._name(number)) or ""))
        return array("Q", sorted(listed))

    @staticmethod
    def _name(number: int) -> str:
        return f"{LISTED} {number}"


def hash_of(id: str, salt: bytes = b"") -> int:
    """Return a hash of eight bytes. `salt`: Up to 16 bytes; others make another hash."""
    return int.from_bytes(blake2b(id.encode(), digest_size=8, salt=salt).digest(), "big")


def is_in(ordered: array[int], id: str) -> bool:
    """Return True if the id's hash is among these, which are sorted."""
    hashed = hash_of(id)
    at = bisect_left(ordered, hashed)
    return at < len(ordered) and ordered[at] == hashed


def _hashes(text: str) -> array[int]:
    hashes = array("Q")
    hashes.frombytes(base64.b64decode(text))
    return hashes


def _text(hashes: array[int]) -> str:
    return base64.b64encode(hashes.tobytes()).decode()
