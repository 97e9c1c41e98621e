"""
A random simulation of the production code, in virtual time.

A *world* is drawn from a seed: a set-up (settle window, queue delay, early look, confirmation,
workers, ...), a workload and everything that goes wrong. Services save within the production
`broadcasting`, renewed by the production `Renewals`, through the production `SNSPublisher`; workers
are the production `Consumer`, `Inbox`, `look`, `Queue` and `MemorySink`. What is faked is what lies
beyond the wire: SNS, SQS, the source, the clock. A *ghost* watches the wires and holds every step
against the promise.

The promise has conditions, and a world keeps them: a commit comes less than the settle window after
an accepted broadcast of its save, unless no renewal could be sent, when the broadcast after the
save covers it. One pair of faults is left out, as it is outside of the promise: a service that
crashes after such a late commit and before that last broadcast. What `on_unsettled` is told of is
broadcast again by an operator, which is what the hook is for.
"""

from __future__ import annotations

from verification.proof.simulation._ghost import CHECKS
from verification.proof.simulation._kernel import Violation
from verification.proof.simulation._run import play

__all__ = ["CHECKS", "Violation", "play"]
