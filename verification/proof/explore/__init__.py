"""
Every schedule of a few saves of one entity, on two workers, or on one beside a backfill.

`World` says how many saves there are, whether one more raises, and which faults can happen.
`exhaustive.WALKS` lists what is walked: not every set-up has two saves, one that raises *and* a
fault.

The production code runs one step at a time. A state is the state of all processes and of what lies
between them. From each state every possible next step is taken; a state that several schedules
reach is continued once. Four things keep the states few, and lose no schedule that matters:

- Time is ticks, and a process knows how long ago things were, not when. The settle window is two
  ticks: with all limits strict on one side, an order of events is possible in real time exactly if
  it is possible in ticks, as long as no more windows overlap in a chain than a window has ticks.
- States that differ only in the order of the workers, or of savers that save the same, are one
  state. So are states that differ only in the names of messages that say the same.
- Of a version in the cache only its order matters, so versions are renumbered from one.
- What no other process can see is done at once. Once no fault can come any more, these steps are:
  the acknowledgement of a message that no other process holds (the sooner it is gone, the sooner a
  cache that it leaves stale is found); a GET when nothing will be saved any more; and the end of a
  save that raises. A backfill keeps its place at once, or dies before.
"""

from __future__ import annotations

from verification.proof.explore._scenario import History
from verification.proof.explore._search import Result, explore, shortest_violation
from verification.proof.explore._state import FAULTS
from verification.proof.explore._world import World

__all__ = ["FAULTS", "History", "Result", "World", "explore", "shortest_violation"]
