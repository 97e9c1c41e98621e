"""
A fuzzer's bodies, ids and answers.

Each comes with what it means, known from how it was made. Where it was made by damaging another,
nobody knows; then a few lines below say it once more, beside the library's own decoder. Both take
Python's word for what is JSON: of a key that stands twice the last counts (RFC 8259, 4, leaves that
open), and `NaN` beside an id does no harm. How deep JSON may be nested is the interpreter's
business, so that the fuzzer nests a hundred deep, or a hundred thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.chaos.fuzz._answers import fuzz_answers
from verification.chaos.fuzz._bodies import fuzz_bodies

if TYPE_CHECKING:
    from verification.chaos.figures import Figure


def fuzz(seed: int, *, bodies: int, answers: int) -> list[Figure]:
    """
    A fuzzer writes bodies and ids to the queue of a worker, and answers the GETs of a fetcher.
    """
    return [*fuzz_bodies(seed, bodies), *fuzz_answers(seed, answers)]
