"""
Every schedule of two saves, one that fails and one fault, on two workers: the production code, one
step at a time.

A state is what the processes are in and what lies between them. From each, every step that could
come next is taken, and states that are reached in several ways are gone on from once. Four things
keep them few, and lose no schedule that matters:

- Time is ticks, and a process knows how long ago things were, not when. The settle window is two
  ticks: with all limits strict on one side, an order of events is possible in real time exactly if
  it is possible in ticks, as long as no more windows overlap in a chain than a window has ticks.
- Two workers that change places, and two savers that do the same, are one state. So are messages
  that say the same.
- A version in the cache means nothing but its order, so versions are counted from one again.
- What nobody else can see is done at once. Once no fault can come any more, these are the
  acknowledgement of a message that is in no other hands (the sooner it is gone, the sooner a cache
  that it leaves stale is found), a GET when nothing will be saved any more, and the end of a save
  that raises.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from change_events import Entry, Found, Gone, MemorySink, Unchanged
from change_events._consumer import inbox
from change_events.sinks import memory
from verification.proof.programs import (
    GETS,
    ID,
    Effect,
    Facts,
    Message,
    Process,
    Saver,
    Setup,
    Violation,
    Worker,
    etag,
    numbered,
)

HELD = -1
"""Stands for the time until a message gets visible, while somebody holds it."""

LONGEST_SAVE = 2
"""Ticks that a save takes at the most where saves may outlast the window."""

LONGEST_PUBLISH = 2
"""Ticks that SNS takes at the most to answer, where it is slow."""

ABSENT = 206
"""Stands for the status of what is not in the answer to a GET of many: one that never deletes."""

SPENT = "spent"
"""The fault of a schedule that has had one."""


class Queued(NamedTuple):
    """
    A message in the queue.

    Attributes:
        name: What a schedule calls it; nothing, where schedules are only counted.
        message: What it says.
        visible_in: Ticks, or `HELD`.
        places: Which of the messages in its hands it is for each worker; 0 for one that does not
            hold it.
    """

    name: str
    message: Message
    visible_in: int
    places: tuple[int, ...]


class Row(NamedTuple):
    """
    The cache's row.

    Attributes:
        version: Its version.
        present: Whether the entity is there.
        etag: The ETag of the state that is.
        saw: What the source's latest commit was when its last look began its GET.
        told: Whether the source has told that ETag, and the row has it; a GET of many tells none.
    """

    version: int
    present: bool
    etag: str | None
    saw: int
    told: bool = True


class At(NamedTuple):
    """Where a worker is: in which state, and which version its look has read."""

    number: int
    version: int


class Orphan(NamedTuple):
    """
    A commit that the database may still make, though its client has got an exception, or has died.
    """

    puts: bool
    in_time_for: int


class State(NamedTuple):
    """
    All there is at one moment. Savers are numbers of their automaton's states; None is a dead one.
    """

    savers: tuple[int | None, ...]
    workers: tuple[At, ...]
    queue: tuple[Queued, ...]
    commits: int
    present: bool
    row: Row
    fault: str | None
    orphans: tuple[Orphan, ...]


Step: TypeAlias = tuple[str, str]
"""Who, and what."""

FAULTS = (
    "visibility expires",
    "duplicate delivery",
    "worker crashes",
    "publisher crashes",
    "batch call half failed",
    "source answers 503",
    "SNS refuses",
    "left out of many",
)


class Known(NamedTuple):
    """What is to be known of a process in one of its states."""

    wants: tuple[tuple[str, Effect], ...]
    ready: tuple[tuple[str, float], ...]
    facts: Facts


class Moved(NamedTuple):
    """
    Where a step has led a process.

    Attributes:
        number: To which state.
        places: The new place of each message in its hands, by the earlier one, that of a new
            message last; 0 if it let go.
    """

    number: int
    places: tuple[int, ...]


class Automaton:
    """The states of a process that have been met, and how they follow one another."""

    def __init__(self, make: Callable[[], Process]) -> None:
        self._make = make
        self._numbers: dict[Hashable, int] = {}
        self._traces: list[tuple[tuple[Any, ...], ...]] = []
        self._names: list[tuple[str, ...]] = []
        self._moved: dict[tuple[Any, ...], Moved] = {}
        self.known: list[Known] = []
        process = make()
        self._intern(process, ())
        process.close()

    def go_on(self, number: int, actor: str, answer: Any = None) -> Moved:
        """Take an actor's next step."""
        return self._after(number, "go_on", actor, answer)

    def tick(self, number: int) -> Moved:
        """Let time pass."""
        return self._after(number, "tick")

    def receive(self, number: int, message: Message, place: int) -> Moved:
        """Let a worker receive a message, which is in its hands already, or 0."""
        return self._after(number, "receive", message, places=(place,) if place else ())

    def acknowledged(self, number: int, failed: tuple[int, ...]) -> Moved:
        """Answer a worker that acknowledges; of some messages, that it failed."""
        return self._after(number, "acknowledged", places=failed)

    def give_up(self, number: int) -> Moved:
        """Let a worker no longer try to acknowledge."""
        return self._after(number, "give_up")

    def _after(
        self, number: int, method: str, *arguments: Any, places: tuple[int, ...] | None = None
    ) -> Moved:
        key = (number, method, arguments, places)
        if key not in self._moved:
            names = self._names[number]
            named = () if places is None else (tuple(names[place - 1] for place in places),)
            trace = (*self._traces[number], (method, *arguments, *named))
            process = self._make()
            try:
                for name, *given in trace:
                    getattr(process, name)(*given)
                after = process.names()
                new = [name for name in after if name not in names]
                places = tuple(
                    after.index(name) + 1 if name in after else 0 for name in (*names, *new)
                )
                self._moved[key] = Moved(self._intern(process, trace), places)
            finally:
                process.close()
        return self._moved[key]

    def _intern(self, process: Process, trace: tuple[tuple[Any, ...], ...]) -> int:
        state = process.state()
        if state not in self._numbers:
            names = process.names()
            self._numbers[state] = len(self._traces)
            self._traces.append(trace)
            self._names.append(names)
            wants = tuple(
                (actor, numbered(effect, names)) for actor, effect in process.wants.items()
            )
            self.known.append(Known(wants, tuple(process.ready_in().items()), process.facts()))
        return self._numbers[state]


@dataclass(frozen=True)
class History:
    """
    What is saved: by each saver a put or a delete, on top of an entity that is there or not. One
    more saver fails.
    """

    present: bool
    puts: tuple[bool, ...]

    def __str__(self) -> str:
        return f"{'present' if self.present else 'absent'}: {', '.join('put' if put else 'delete' for put in self.puts)}"


class World:
    """
    The steps that can be taken.

    Args:
        setup: How the processes are set up.
        history: What is saved.
        faults: Which may happen, one of them in a schedule.
        workers: How many.
        failing: Whether there is one more saver, whose save raises.
        alike: Whether to take for one state what differs in names only.
    """

    def __init__(
        self,
        setup: Setup,
        history: History,
        *,
        faults: tuple[str, ...] = FAULTS,
        workers: int = 2,
        failing: bool = True,
        alike: bool = True,
    ) -> None:
        self._setup = setup
        self._history = history
        self._puts = (*history.puts, True) if failing else history.puts
        self._failing = len(history.puts) if failing else None
        self._faults = faults
        self._workers = workers
        self._alike = alike
        self._sorted: dict[tuple[int | None, ...], tuple[int | None, ...]] = {}
        self.saver = _automaton(Saver, setup)
        self.worker = _automaton(Worker, setup)

    def start(self) -> State:
        """Return the state from which all schedules begin: the cache equals the source."""
        row = Row(1, True, etag(0), 0) if self._history.present else Row(0, False, None, 0)
        savers, workers = (0,) * len(self._puts), (At(0, 0),) * self._workers
        return State(savers, workers, (), 0, self._history.present, row, None, ())

    def steps(self, state: State) -> Iterator[tuple[Step, State]]:
        """Yield each step that can be taken, and the state that it leads to."""
        for step, after in self._steps(state):
            yield step, self._same(after) if self._alike else after

    def _steps(self, state: State) -> Iterator[tuple[Step, State]]:
        if self._alike and (unseen := self._unseen_steps(state)):
            yield from unseen
            return
        for index, number in enumerate(state.savers):
            if number is not None:
                yield from self._saver_steps(state, index, number)
        for orphan in state.orphans:
            yield from self._orphan_steps(state, orphan)
        for index, at in enumerate(state.workers):
            yield from self._worker_steps(state, index, at)
        if self._may(state, "visibility expires"):
            for position, queued in enumerate(state.queue):
                if queued.visible_in == HELD:
                    shown = _replaced(state.queue, position, queued._replace(visible_in=0))
                    step = ("fault", f"the visibility timeout of {queued.name} is over")
                    yield step, state._replace(fault=SPENT, queue=shown)
        if self._time_matters(state) and self._time_may_pass(state):
            yield ("clock", "a tick"), self._tick(state)

    def _unseen_steps(self, state: State) -> Iterator[tuple[Step, State]] | None:
        """
        Return the steps of somebody of whom nobody else can tell when he took them, if there is
        one: they come first.
        """
        for index, at in enumerate(state.workers):
            if self._acknowledges_unseen(state, index, at):
                return self._deletes(self._begun(state, index, "acknowledge"), index)
        raising = (
            None if self._failing is None or self._setup.renewals else state.savers[self._failing]
        )
        if raising is not None and self.saver.known[raising].wants == (("save", ("commit",)),):
            return self._saver_effect(state, self._failing or 0, raising, "save", ("commit",))
        if self._is_still(state):
            for index, at in enumerate(state.workers):
                if [effect[0] in GETS for _, effect in self.worker.known[at.number].wants] == [
                    True
                ]:
                    return self._look_steps(state, index)
        return None

    def _tick(self, state: State) -> State:
        for index, at in enumerate(state.workers):
            state = self._moved(state, index, self.worker.tick(at.number))
        return state._replace(
            savers=tuple(
                number if number is None else self.saver.tick(number).number
                for number in state.savers
            ),
            queue=tuple(
                queued._replace(visible_in=queued.visible_in - 1)
                if queued.visible_in > 0
                else queued
                for queued in state.queue
            ),
            orphans=tuple(
                orphan._replace(in_time_for=orphan.in_time_for - 1) for orphan in state.orphans
            ),
        )

    # Savers

    def _saver_steps(self, state: State, index: int, number: int) -> Iterator[tuple[Step, State]]:
        known = self.saver.known[number]
        who = self._name(index)
        for actor, ticks in known.ready:
            if not ticks:
                begun = self.saver.go_on(number, actor).number
                if actor == "save" and self._setup.slow_publish:
                    yield (who, "begins to broadcast"), _with_saver(state, index, begun)
                elif effect := dict(self.saver.known[begun].wants).get(actor):
                    yield from self._saver_effect(state, index, begun, actor, effect)
                else:
                    yield (who, f"{actor}: nothing is sent"), _with_saver(state, index, begun)
        for actor, effect in known.wants:
            yield from self._saver_effect(state, index, number, actor, effect)
        if self._may(state, "publisher crashes") and (known.wants or ("confirm", 0) in known.ready):
            dead = _with_saver(state, index, None)._replace(fault=SPENT)
            yield (who, "crashes"), dead
            if ("save", ("commit",)) in known.wants and known.facts.rely_on > 0:
                orphan = Orphan(self._puts[index], int(known.facts.rely_on))
                yield (
                    (who, "crashes, its commit under way"),
                    dead._replace(orphans=(*dead.orphans, orphan)),
                )

    def _saver_effect(
        self, state: State, index: int, number: int, actor: str, effect: Effect
    ) -> Iterator[tuple[Step, State]]:
        who = self._name(index)
        facts = self.saver.known[number].facts

        def after(answer: Any) -> State:
            return _with_saver(state, index, self.saver.go_on(number, actor, answer).number)

        if effect[0] == "publish":
            message = self._message(effect, who)
            what = " ".join(
                [actor if actor != "save" else "broadcast", *_shown_attributes(message)]
            )
            queued = Queued(
                "" if self._alike else who, message, self._setup.delay, (0,) * self._workers
            )
            accepted = after(True)
            yield (who, f"{what}: accepted"), accepted._replace(queue=(*state.queue, queued))
            if self._may(state, "duplicate delivery"):
                twice = accepted._replace(queue=(*state.queue, queued, queued), fault=SPENT)
                yield (who, f"{what}: accepted, delivered twice"), twice
            if self._may(state, "SNS refuses") or (
                state.fault == "SNS refuses" and actor == "renew"
            ):
                yield (who, f"{what}: refused by SNS"), after(False)._replace(fault="SNS refuses")
        elif effect[0] == "answer":
            yield (who, "SNS has answered"), after(True)
            if self._may(state, "SNS refuses"):
                yield (who, "SNS's answer is lost"), after(False)._replace(fault="SNS refuses")
        elif effect[0] == "commit":
            yield from self._commit_steps(state, index, after(index != self._failing), facts)
        else:
            yield (who, "the save returns"), after(None)

    def _commit_steps(
        self, state: State, index: int, after: State, facts: Facts
    ) -> Iterator[tuple[Step, State]]:
        who = self._name(index)
        if index == self._failing:
            yield (who, "the save raises"), after
            if facts.rely_on > 0:
                orphan = Orphan(self._puts[index], int(facts.rely_on))
                yield (
                    (who, "the save raises, its commit under way"),
                    after._replace(orphans=(*state.orphans, orphan)),
                )
            return
        if not facts.rely_on and state.fault != "SNS refuses":
            raise Violation(
                f"{who} commits, and its last broadcast began a settle window ago, or more"
            )
        yield (who, _verb(self._puts[index])), self._committed(after, puts=self._puts[index])

    def _orphan_steps(self, state: State, orphan: Orphan) -> Iterator[tuple[Step, State]]:
        left = list(state.orphans)
        left.remove(orphan)
        without = state._replace(orphans=tuple(left))
        yield (
            ("database", f"{_verb(orphan.puts)} after all"),
            self._committed(without, puts=orphan.puts),
        )
        yield ("database", "rolls back"), without

    def _committed(self, state: State, *, puts: bool) -> State:
        return state._replace(commits=state.commits + 1, present=puts)

    def _message(self, effect: Effect, who: str) -> Message:
        _, body, attributes = effect
        return Message(
            body, tuple((name, who if name == "save" else value) for name, value in attributes)
        )

    def _name(self, index: int) -> str:
        return "abc"[index] if index != self._failing else "f"

    # Workers

    def _worker_steps(self, state: State, index: int, at: At) -> Iterator[tuple[Step, State]]:
        known = self.worker.known[at.number]
        for actor, ticks in known.ready:
            if ticks:
                continue
            if actor == "poll":
                yield from self._receives(state, index, at)
            elif actor == "look":
                yield from self._look_steps(self._begun(state, index, actor), index)
            else:
                yield from self._deletes(self._begun(state, index, actor), index)
        if known.wants:
            yield from self._look_steps(state, index)
        held = {queued.places[index] for queued in state.queue} - {0}
        if self._may(state, "worker crashes") and (known.wants or held):
            dead = state._replace(
                workers=_replaced(state.workers, index, At(0, 0)),
                queue=_shown(state.queue, index, held),
            )
            queue = tuple(
                queued._replace(places=_replaced(queued.places, index, 0)) for queued in dead.queue
            )
            yield (_worker(index), "crashes"), dead._replace(fault=SPENT, queue=queue)

    def _begun(self, state: State, index: int, actor: str) -> State:
        return self._moved(state, index, self.worker.go_on(state.workers[index].number, actor))

    def _moved(self, state: State, index: int, moved: Moved, version: int | None = None) -> State:
        """Return the state after a worker's step."""
        version = state.workers[index].version if version is None else version
        at = At(moved.number, version if self.worker.known[moved.number].wants else 0)
        return state._replace(
            workers=_replaced(state.workers, index, at),
            queue=_with_places(state.queue, index, moved.places),
        )

    def _receives(self, state: State, index: int, at: At) -> Iterator[tuple[Step, State]]:
        seen: set[Queued] = set()
        for position, queued in enumerate(state.queue):
            if queued.visible_in == 0 and queued not in seen:
                seen.add(queued)
                moved = self.worker.receive(at.number, queued.message, queued.places[index])
                place = queued.places[index] or len(moved.places)
                delivered = queued._replace(
                    visible_in=HELD, places=_replaced(queued.places, index, place)
                )
                received = state._replace(queue=_replaced(state.queue, position, delivered))
                yield (
                    (_worker(index), f"receives {queued.name}"),
                    self._moved(received, index, moved),
                )

    def _look_steps(self, state: State, index: int) -> Iterator[tuple[Step, State]]:
        who = _worker(index)
        number, read = state.workers[index]
        effect = dict(self.worker.known[number].wants)["look"]

        def after(answer: Any, version: int | None = None) -> State:
            return self._moved(state, index, self.worker.go_on(number, "look", answer), version)

        name = effect[0]
        if name == "entry":
            row = state.row
            step = (who, f"reads the entry: version {row.version}")
            yield (
                step,
                after(
                    (min(row.version, 1), row.present, row.etag if row.told else None), row.version
                ),
            )
        elif name in GETS:
            for what, answer, fault in self._answers(state, effect):
                yield (who, what), after(answer)._replace(fault=fault)
        elif name == "arrive":
            yield (who, "gets the answer"), after(None)
        elif name == "apply":
            applied, row = self._apply(state, self.worker.known[number].facts.saw, effect, read)
            what = "applies" if applied else "lost the compare-and-set of"
            yield (
                (who, f"{what} {_shown_change(effect)}, if version is {read}"),
                after(applied)._replace(row=row),
            )
        elif name == "delete":  # which only a mutant does in a look
            yield from self._deletes(state, index)
        else:
            places = _places(effect)
            state = state._replace(queue=_shown(state.queue, index, places))
            yield (who, f"hands back {_names(state, index, places)}"), after(None)

    def _answers(
        self, state: State, effect: Effect
    ) -> Iterator[tuple[str, tuple[int, int], str | None]]:
        """
        Yield what the source may answer: in words, with which status and commit, and the fault that
        the schedule has had.
        """
        if effect[0] == "get":
            answer = self._answer(state, effect[1])
            yield f"GETs commit {state.commits}: {answer[0]}", answer, state.fault
        else:
            status, there = (200, "there") if state.present else (ABSENT, "not there")
            yield (
                f"GETs many at commit {state.commits}: it is {there}",
                (status, state.commits),
                state.fault,
            )
            if state.present and self._may(state, "left out of many"):
                yield "GETs many: it is left out", (ABSENT, state.commits), SPENT
        if self._may(state, "source answers 503"):
            yield f"{'GETs' if effect[0] == 'get' else 'GETs many'}: 503", (503, -1), SPENT

    def _answer(self, state: State, known_etag: Hashable) -> tuple[int, int]:
        if state.present:
            return (304 if known_etag == etag(state.commits) else 200, state.commits)
        return (410 if state.commits else 404, state.commits)

    def _apply(
        self, state: State, seen: tuple[int, int], effect: Effect, read: int
    ) -> tuple[bool, Row]:
        _, kind, value, told, if_version = effect
        assert if_version == min(read, 1), "a look applies with the version it has read"
        status, saw = seen
        before = (state.row.version, state.row.present, state.row.etag)
        applied, entry = _applied(before, kind, value, read)
        if not applied:
            return False, state.row
        row = Row(*entry, max(saw, state.row.saw), told)
        if state.row.present and not row.present and status not in {404, 410}:
            raise Violation(f"the answer {status} deletes")
        if saw < state.row.saw and (state.row.present or row.present):
            raise Violation(f"the cache goes back from commit {state.row.saw} to commit {saw}")
        if row.present and row.etag not in {etag(saw), state.row.etag}:
            raise Violation(f"{row.etag} was never committed")
        return True, row

    def _acknowledges_unseen(self, state: State, index: int, at: At) -> bool:
        """Whether it has something to acknowledge, and nobody else could tell when."""
        if (self._faults and state.fault is None) or ("acknowledge", 0) not in self.worker.known[
            at.number
        ].ready:
            return False
        return not any(queued.places[index] and queued.visible_in != HELD for queued in state.queue)

    def _deletes(self, state: State, index: int) -> Iterator[tuple[Step, State]]:
        who, number = _worker(index), state.workers[index].number
        (places,) = (
            _places(effect)
            for _, effect in self.worker.known[number].wants
            if effect[0] == "delete"
        )

        def after(failed: tuple[int, ...], *, visible: bool = False) -> State:
            queue = tuple(
                queued
                for queued in state.queue
                if queued.places[index] not in places or queued.places[index] in failed
            )
            queue = _shown(queue, index, failed) if visible else queue
            return self._moved(
                state._replace(queue=queue), index, self.worker.acknowledged(number, failed)
            )

        yield (who, f"acknowledges {_names(state, index, places)}"), after(())
        if self._may(state, "batch call half failed"):
            for failed in {(place,) for place in places} | {places}:
                shown = _names(state, index, failed)
                yield (
                    (who, f"fails to acknowledge {shown}, and will try again"),
                    after(failed)._replace(fault=SPENT),
                )
                half = after(failed, visible=True)._replace(fault=SPENT)
                given_up = self._moved(half, index, self.worker.give_up(half.workers[index].number))
                yield (who, f"fails to acknowledge {shown}, and gives up"), given_up

    # Time, faults, properties

    def _may(self, state: State, fault: str) -> bool:
        return state.fault is None and fault in self._faults

    def _time_matters(self, state: State) -> bool:
        """Whether somebody waits for time to pass; else it might pass for ever."""
        if any(queued.visible_in > 0 for queued in state.queue):
            return True
        if any(
            0 < ticks < math.inf
            for at in state.workers
            for _, ticks in self.worker.known[at.number].ready
        ):
            return True
        return (self._setup.renewals or self._setup.slow_publish) and any(
            number is not None and self.saver.known[number].wants for number in state.savers
        )

    def _time_may_pass(self, state: State) -> bool:
        """Whether nobody must act before: what the promise asks of savers."""
        if any(orphan.in_time_for <= 1 for orphan in state.orphans):
            return False
        return all(
            self._may_wait(self.saver.known[number])
            for number in state.savers
            if number is not None
        )

    def _may_wait(self, known: Known) -> bool:
        wants = {effect[0] for _, effect in known.wants}
        if {"publish", "answer"} & wants and known.facts.asked >= LONGEST_PUBLISH:
            return False
        if not {"commit", "return"} & wants:
            return True
        if not self._setup.renewals:
            return known.facts.rely_on > 1
        return ("renew", 0) not in known.ready and known.facts.saving < LONGEST_SAVE

    def check(self, state: State) -> None:
        """Check what must hold in every state."""
        unsettled = state.fault == "SNS refuses" and self._saving(state)
        if self._is_stale(state) and not state.queue and not unsettled:
            raise Violation("the cache is stale, and no event is left that would mend it")

    def check_quiet(self, state: State) -> None:
        """Check what must hold when no step is left."""
        if state.queue:
            raise Violation(
                f"nobody will ever acknowledge {', '.join(queued.name for queued in state.queue)}"
            )
        if self._is_stale(state):
            raise Violation("all is quiet, and the cache is stale")

    def _is_still(self, state: State) -> bool:
        """Whether the source will not change any more, nor stop to answer."""
        return (
            not self._may(state, "source answers 503")
            and not self._may(state, "left out of many")
            and not self._may(state, "worker crashes")
            and not state.orphans
            and all(
                number is None or self.saver.known[number].facts.over for number in state.savers
            )
        )

    def _saving(self, state: State) -> bool:
        return any(number is not None and self.saver.known[number].wants for number in state.savers)

    def _is_stale(self, state: State) -> bool:
        if state.row.present != state.present:
            return True
        return state.present and state.row.etag != etag(state.commits)

    # What is one state

    def _same(self, state: State) -> State:
        """Return one and the same state for all that differ in names only."""
        fault = state.fault
        if fault == "SNS refuses" and not self._setup.renewals:
            fault = SPENT
        savers = state.savers if self._setup.confirm else self._sorted_savers(state.savers)
        version, *versions = _counted_again(
            (state.row.version, *(at.version for at in state.workers))
        )
        row = state.row if version == state.row.version else state.row._replace(version=version)
        unsorted = [(at.number, read) for at, read in zip(state.workers, versions, strict=True)]
        workers = sorted(unsorted)
        order = tuple(sorted(range(len(workers)), key=unsorted.__getitem__))
        queue = _in_order(state.queue, order)
        if len(set(workers)) < len(workers):
            queue = min(queue, _in_order(state.queue, order[::-1]))
        return State(
            savers,
            tuple(At(*each) for each in workers),
            queue,
            state.commits,
            state.present,
            row,
            fault,
            tuple(sorted(state.orphans)),
        )

    def _sorted_savers(self, savers: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Sort those that save the same."""
        if savers not in self._sorted:
            sorted_ = list(savers)
            for puts in (True, False):
                indices = [
                    index
                    for index, each in enumerate(self._puts)
                    if each == puts and index != self._failing
                ]
                numbers = sorted(
                    (savers[index] for index in indices),
                    key=lambda number: -1 if number is None else number,
                )
                for index, number in zip(indices, numbers, strict=True):
                    sorted_[index] = number
            self._sorted[savers] = tuple(sorted_)
        return self._sorted[savers]


@lru_cache
def _automaton(make: Callable[[Setup], Process], setup: Setup) -> Automaton:
    return Automaton(lambda: make(setup))


@lru_cache(None)
def _applied(
    entry: tuple[int, bool, str | None], kind: str, value: int | None, if_version: int
) -> tuple[bool, tuple[int, bool, str | None]]:
    """Let the production sink apply a change to a row."""
    sink: MemorySink[Any] = MemorySink(clock=lambda: 0.0)
    if entry[0]:
        sink._rows[ID] = memory._Row(Entry(*entry), None, 0.0)
    change: Found[Any] | Unchanged | Gone = Found(value, etag(value or 0))
    if kind != "Found":
        change = Gone() if kind == "Gone" else Unchanged()
    applied = sink.apply(ID, change, if_version=if_version)
    after = sink.entry(ID)
    return applied, (after.version, after.present, after.etag)


def _replaced(values: tuple[Any, ...], position: int, value: Any) -> tuple[Any, ...]:
    return (*values[:position], value, *values[position + 1 :])


def _with_saver(state: State, index: int, number: int | None) -> State:
    return state._replace(savers=_replaced(state.savers, index, number))


@lru_cache(None)
def _with_places(
    queue: tuple[Queued, ...], index: int, places: tuple[int, ...]
) -> tuple[Queued, ...]:
    """Say which messages in its hands they are for a worker now."""
    places = (0, *places)
    return tuple(
        queued._replace(places=_replaced(queued.places, index, places[queued.places[index]]))
        for queued in queue
    )


def _shown(queue: tuple[Queued, ...], index: int, places: Iterable[int]) -> tuple[Queued, ...]:
    """Make messages in a worker's hands visible."""
    return tuple(
        queued._replace(visible_in=0) if queued.places[index] in places else queued
        for queued in queue
    )


@lru_cache(None)
def _in_order(queue: tuple[Queued, ...], order: tuple[int, ...]) -> tuple[Queued, ...]:
    """Let the workers change places."""
    return tuple(
        sorted(
            queued._replace(places=tuple(queued.places[index] for index in order))
            for queued in queue
        )
    )


@lru_cache(None)
def _counted_again(versions: tuple[int, ...]) -> tuple[int, ...]:
    """
    Count versions from one again; nothing but their order means anything, and that 0 is an entry
    never touched.
    """
    counted = sorted({0, *versions})
    return tuple(counted.index(version) for version in versions)


def _places(effect: Effect) -> tuple[int, ...]:
    """Return which of the messages in its hands a worker wants to delete, or to show."""
    places: tuple[int, ...] = effect[1]
    return places


def _names(state: State, index: int, places: tuple[int, ...]) -> str:
    return ", ".join(queued.name for queued in state.queue if queued.places[index] in places)


def _worker(index: int) -> str:
    return f"worker {index + 1}"


def _shown_attributes(message: Message) -> list[str]:
    return [f"{name}={value}" for name, value in message.attributes if name != "settle"]


def _shown_change(effect: Effect) -> str:
    return f"commit {effect[2]}" if effect[1] == "Found" else str(effect[1]).lower()


def _verb(puts: bool) -> str:  # noqa: FBT001
    return "commits a put" if puts else "commits a delete"


@dataclass
class Result:
    """What an exploration has found."""

    states: int = 0
    schedules: int = 0
    longest: int = 0
    violation: str | None = None
    schedule: tuple[Step, ...] = field(default=(), repr=False)


def explore(world: World, *, progress: Callable[[int], object] = lambda _: None) -> Result:
    """
    Take every step from every state, and count the schedules.

    Args:
        world: Where.
        progress: Called now and then with the number of states so far.
    """
    result = Result()
    ways: dict[State, int] = {}
    depth: dict[State, int] = {}
    with _quietly():
        # Depth first, without recursion: what lies ahead of a state is known when its last step has
        # been followed.
        path = [(world.start(), iter([*world.steps(world.start())]))]
        totals = [[0, 0]]
        try:
            while path:
                state, ahead = path[-1]
                for _, after in ahead:
                    if after in ways:
                        totals[-1][0] += ways[after]
                        totals[-1][1] = max(totals[-1][1], depth[after] + 1)
                        continue
                    world.check(after)
                    path.append((after, world.steps(after)))
                    totals.append([0, 0])
                    break
                else:
                    schedules, longest = totals.pop()
                    path.pop()
                    if not schedules:
                        world.check_quiet(state)
                    ways[state], depth[state] = schedules or 1, longest
                    if len(ways) % 10_000 == 0:
                        progress(len(ways))
                    if totals:
                        totals[-1][0] += ways[state]
                        totals[-1][1] = max(totals[-1][1], longest + 1)
                    else:
                        result.schedules, result.longest = ways[state], longest
        except Violation as violation:
            result.violation = str(violation)
        result.states = len(ways)
    return result


def shortest_violation(world: World) -> Result:
    """
    Take every step from every state, those that few steps lead to first, until a property does not
    hold.
    """
    result = Result()
    at = world.start()
    came: dict[State, tuple[State, Step] | None] = {at: None}
    level = [at]
    with _quietly():
        try:
            while level:
                found = []
                for state in level:
                    at, quiet = state, True
                    for step, after in world.steps(state):
                        quiet = False
                        if after not in came:
                            came[after] = (state, step)
                            found.append(after)
                            at = after
                            world.check(after)
                            at = state
                    if quiet:
                        world.check_quiet(state)
                level = found
        except Violation as violation:
            result.violation = str(violation)
            result.schedule = _schedule(came, at)
    result.states = len(came)
    return result


def _schedule(came: dict[State, tuple[State, Step] | None], state: State) -> tuple[Step, ...]:
    steps: list[Step] = []
    while (before := came[state]) is not None:
        state, step = before
        steps.append(step)
    return tuple(reversed(steps))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """
    Silence the production code's logs, and let no look wait for company: here every look may be as
    late as it likes.
    """
    before, slack = logging.root.manager.disable, inbox.SLACK
    logging.disable(logging.CRITICAL)
    inbox.SLACK = 0.0
    try:
        yield
    finally:
        logging.disable(before)
        inbox.SLACK = slack
