"""
A fuzzer's bodies, ids and answers.

Each example comes with its meaning, which is known from how the example was made. A damaged example
has no such meaning; a few lines here then read it, beside the library's own decoder. Both accept
what Python's `json` accepts. Of a repeated key the last value counts (RFC 8259, 4, leaves that
open), and `NaN` beside an id does no harm. How deep JSON can be nested depends on the interpreter,
so the fuzzer nests either a hundred levels or a hundred thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.chaos.fuzz._answers import fuzz_answers
from verification.chaos.fuzz._bodies import fuzz_bodies

if TYPE_CHECKING:
    from verification.harness.figures import Figure


def fuzz(seed: int, *, bodies: int, answers: int) -> list[Figure]:
    """A fuzzer writes bodies and ids to a worker's queue, and answers the GETs of a fetcher."""
    return [*fuzz_bodies(seed, bodies), *fuzz_answers(seed, answers)]
