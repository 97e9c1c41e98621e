"""One world of one contender. The processes that play import this module."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from verification.proof.field._conditions import BY_NAME, FAULTS
from verification.proof.simulation._run import run

Job = tuple[str, int, int, float]
"""The contender's name, the seed, the number of writes, and the factor of the faults."""


def play(job: Job) -> dict[str, Any]:
    """Play one world to its end. The ghost counts violations."""
    name, seed, writes, factor = job
    contender = BY_NAME[name]
    setup = replace(contender.setup, writes=writes, faults=FAULTS.times(factor))
    started = time.process_time()
    ghost = run(seed, setup, contender.make(), checks=frozenset())
    cpu = time.process_time() - started
    return {
        "job": job,
        "seed": seed,
        "writes": writes,
        "cpu": cpu,
        "counts": ghost.counts,
        "staleness": ghost.staleness.buckets,
    }
