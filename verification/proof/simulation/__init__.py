"""
A random simulation of the production code, in virtual time.

A *world* is drawn from a seed: a set-up (settle window, queue delay, early look, confirmation,
workers, ...), a workload and everything that goes wrong. Services save within the production
`broadcasting`, renewed by the production `Renewals`, through the production `SNSPublisher`.
Workers are the production `Run` and `Queue`, with tasks for threads. The cache is a production
sink: in memory or in a SQLite file; with `--sink`, also in PostgreSQL or DynamoDB. In half of the
worlds the production backfill, audit with its repair, and redrive run at random times. Stand-ins
replace what lies beyond the wire: SNS, SQS, the source, the clock. A *ghost* watches the wires and
checks every step against the promise.

The promise has conditions, and a world keeps them. A commit comes less than the settle window
after an accepted broadcast of its save, unless no renewal could be sent; then the broadcast after
the save covers it. One pair of faults is outside of the promise, and so is left out: a service that
crashes after such a late commit and before that last broadcast. An operator broadcasts again what
`on_unsettled` reports, which is the purpose of that hook.
"""

from __future__ import annotations

from verification.proof.simulation._ghost import CHECKS
from verification.proof.simulation._kernel import Violation
from verification.proof.simulation._run import play

__all__ = ["CHECKS", "Violation", "play"]
