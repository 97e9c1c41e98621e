"""
Every schedule of two saves, one that fails and one fault, on two workers: the production code, one step at a time.

A state is what the processes are in and what lies between them. From each, every step that could come next is taken, and
states that are reached in several ways are gone on from once. The search goes level by level, so that the first violation
that it finds has the shortest schedule.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from change_events import Entry, Found, Gone, MemorySink, Unchanged
from change_events import _inbox as inbox
from change_events.sinks import memory
from proof.programs import ID, SETTLE, Effect, Message, Process, Saver, Setup, Violation, Worker, etag

HELD = -1
"""Stands for the time when a message gets visible, while somebody holds it."""

LONGEST_SAVE = 3
"""Ticks that a save takes at the most where saves may outlast the window, which is two."""

LONGEST_PUBLISH = 3
"""Ticks that SNS takes at the most to answer, where it is slow."""


class Queued(NamedTuple):
    """A message in the queue; `visible_at` is a time or `HELD`."""

    message_id: str
    message: Message
    visible_at: int
    deliveries: int


class Row(NamedTuple):
    """The cache's row, and what the source's latest commit was when its last look began its GET."""

    version: int
    present: bool
    etag: str | None
    saw: int


class Orphan(NamedTuple):
    """A commit that the database may still make, though its client has got an exception, or has died."""

    puts: bool
    deadline: int


class State(NamedTuple):
    """All there is at one moment. Processes are numbers of their automata; None is a dead one."""

    now: int
    savers: tuple[int | None, ...]
    workers: tuple[int, ...]
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
)


class Known(NamedTuple):
    """What is to be known of a process in one of its states."""

    wants: tuple[tuple[str, Effect], ...]
    ready: tuple[tuple[str, float], ...]
    process: dict[str, Any]


class Automaton:
    """The states of a process that have been met, and how they follow one another."""

    def __init__(self, make: Callable[[], Process]) -> None:
        self._make = make
        self._numbers: dict[Hashable, int] = {}
        self._traces: list[tuple[tuple[Any, ...], ...]] = []
        self._next: dict[tuple[int, Any], int] = {}
        self.known: list[Known] = []
        process = make()
        self._intern(process, ())
        process.close()

    def go_on(self, number: int, actor: str, now: int, answer: Any = None) -> int:
        """Return the state that an actor's next step leads to."""
        return self._after(number, ("go_on", actor, now, answer))

    def give_up(self, number: int) -> int:
        """Return the state of a worker that no longer tries to acknowledge."""
        return self._after(number, ("give_up",))

    def _after(self, number: int, move: tuple[Any, ...]) -> int:
        key = (number, move)
        if key not in self._next:
            trace = (*self._traces[number], move)
            process = self._make()
            try:
                for name, *arguments in trace:
                    getattr(process, name)(*arguments)
                self._next[key] = self._intern(process, trace)
            finally:
                process.close()
        return self._next[key]

    def _intern(self, process: Process, trace: tuple[tuple[Any, ...], ...]) -> int:
        state = process.state()
        if state not in self._numbers:
            self._numbers[state] = len(self._traces)
            self._traces.append(trace)
            self.known.append(Known(tuple(process.wants.items()), tuple(process.ready_at().items()), process.facts()))
        return self._numbers[state]


@dataclass(frozen=True)
class History:
    """What is saved: by each saver a put or a delete, on top of an entity that is there or not. One more saver fails."""

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
        symmetric: Whether to count two workers that change places as one state.
    """

    def __init__(
        self,
        setup: Setup,
        history: History,
        *,
        faults: tuple[str, ...] = FAULTS,
        workers: int = 2,
        failing: bool = True,
        symmetric: bool = True,
    ) -> None:
        self._setup = setup
        self._history = history
        self._puts = (*history.puts, True) if failing else history.puts
        self._failing = len(history.puts) if failing else None
        self._faults = faults
        self._workers = workers
        self._symmetric = symmetric
        self.saver = _automaton(Saver, setup)
        self.worker = _automaton(Worker, setup)

    def start(self) -> State:
        """Return the state from which all schedules begin: the cache equals the source."""
        row = Row(1, True, etag(0), 0) if self._history.present else Row(0, False, None, 0)
        return State(0, (0,) * len(self._puts), (0,) * self._workers, (), 0, self._history.present, row, None, ())

    def steps(self, state: State) -> Iterator[tuple[Step, State]]:
        """Yield each step that can be taken, and the state that it leads to."""
        for index, number in enumerate(state.savers):
            if number is not None:
                yield from self._saver_steps(state, index, number)
        for orphan in state.orphans:
            yield from self._orphan_steps(state, orphan)
        for index, number in enumerate(state.workers):
            if not (self._symmetric and number in state.workers[:index]):
                yield from self._worker_steps(state, index, number)
        if "visibility expires" in self._faults and state.fault is None:
            for queued in state.queue:
                if queued.visible_at == HELD:
                    yield (
                        ("fault", f"the visibility timeout of {queued.message_id} is over"),
                        state._replace(fault="visibility expires", queue=_shown(state.queue, [queued.message_id], state.now)),
                    )
        if self._time_matters(state) and self._time_may_pass(state):
            yield ("clock", f"{state.now + 1}"), state._replace(now=state.now + 1)

    # Savers

    def _saver_steps(self, state: State, index: int, number: int) -> Iterator[tuple[Step, State]]:
        known = self.saver.known[number]
        who = self._name(index)
        for actor, at in known.ready:
            if at <= state.now:
                begun = self.saver.go_on(number, actor, state.now)
                effect = dict(self.saver.known[begun].wants)[actor]
                if actor == "save" and self._setup.slow_publish:
                    yield (who, f"begins to broadcast at {state.now}"), _with_saver(state, index, begun)
                else:
                    yield from self._saver_effect(state, index, begun, actor, effect)
        for actor, effect in known.wants:
            yield from self._saver_effect(state, index, number, actor, effect)
        if self._may(state, "publisher crashes") and known.wants:
            dead = _with_saver(state, index, None)._replace(fault="publisher crashes")
            yield (who, "crashes"), dead
            if ("save", ("commit",)) in known.wants:
                deadline = known.process["last_started"] + SETTLE
                if deadline > state.now:
                    orphan = Orphan(self._puts[index], deadline)
                    yield (who, "crashes, its commit under way"), dead._replace(orphans=(*dead.orphans, orphan))

    def _saver_effect(self, state: State, index: int, number: int, actor: str, effect: Effect) -> Iterator[tuple[Step, State]]:
        who, go_on = self._name(index), self.saver.go_on
        known = self.saver.known[number]
        if effect[0] == "publish":
            accepted = _with_saver(state, index, go_on(number, actor, state.now, True))
            message = self._message(effect, who)
            queued = self._queued(state, f"{who}{known.process['accepted'] + 1}", message)
            yield (
                (who, f"{actor}: {queued.message_id} accepted {_shown_attributes(message)}"),
                accepted._replace(queue=_sorted(*state.queue, queued)),
            )
            if self._may(state, "duplicate delivery"):
                twin = queued._replace(message_id=queued.message_id + "'")
                yield (
                    (who, f"{actor}: {queued.message_id} accepted, delivered twice"),
                    accepted._replace(queue=_sorted(*state.queue, queued, twin), fault="duplicate delivery"),
                )
            again = state.fault == "SNS refuses" and actor == "renew"
            if self._may(state, "SNS refuses") or again:
                refused = _with_saver(state, index, go_on(number, actor, state.now, False))
                yield (who, f"{actor}: refused by SNS"), refused._replace(fault="SNS refuses")
        elif effect[0] == "answer":
            yield (who, "SNS has answered"), _with_saver(state, index, go_on(number, actor, state.now, True))
            if self._may(state, "SNS refuses"):
                lost = _with_saver(state, index, go_on(number, actor, state.now, False))
                yield (who, "SNS's answer is lost"), lost._replace(fault="SNS refuses")
        elif effect[0] == "commit" and index == self._failing:
            failed = _with_saver(state, index, go_on(number, actor, state.now, False))
            yield (who, "the save raises"), failed
            deadline = known.process["last_started"] + SETTLE
            if deadline > state.now:
                orphan = Orphan(self._puts[index], deadline)
                yield (who, "the save raises, its commit under way"), failed._replace(orphans=(*failed.orphans, orphan))
        elif effect[0] == "commit":
            if state.now >= known.process["last_started"] + SETTLE and state.fault != "SNS refuses":
                raise Violation(f"{who} commits at {state.now}, {SETTLE} or more after its last broadcast began")
            yield (
                (who, _verb(self._puts[index])),
                self._committed(_with_saver(state, index, go_on(number, actor, state.now, True)), puts=self._puts[index]),
            )
        else:
            yield (who, "returns"), _with_saver(state, index, go_on(number, actor, state.now))

    def _orphan_steps(self, state: State, orphan: Orphan) -> Iterator[tuple[Step, State]]:
        left = list(state.orphans)
        left.remove(orphan)
        without = state._replace(orphans=tuple(left))
        yield ("database", f"{_verb(orphan.puts)} after all"), self._committed(without, puts=orphan.puts)
        yield ("database", "rolls back"), without

    def _committed(self, state: State, *, puts: bool) -> State:
        return state._replace(commits=state.commits + 1, present=puts)

    def _message(self, effect: Effect, who: str) -> Message:
        _, body, attributes = effect
        return Message(body, tuple((name, who if name == "save" else value) for name, value in attributes))

    def _queued(self, state: State, message_id: str, message: Message) -> Queued:
        return Queued(message_id, message, state.now + self._setup.delay, 0)

    def _name(self, index: int) -> str:
        return "abc"[index] if index != self._failing else "f"

    # Workers

    def _worker_steps(self, state: State, index: int, number: int) -> Iterator[tuple[Step, State]]:
        who, go_on = f"worker {index + 1}", self.worker.go_on
        known = self.worker.known[number]
        for actor, at in known.ready:
            if at > state.now:
                continue
            if actor == "poll":
                yield from self._receives(state, index, number)
                continue
            begun = go_on(number, actor, state.now)
            effect = dict(self.worker.known[begun].wants)[actor]
            if actor == "look":
                yield from self._look_steps(state, index, begun, effect)
            else:
                yield from self._deletes(state, index, begun, effect)
        for actor, effect in known.wants:
            assert actor == "look"
            yield from self._look_steps(state, index, number, effect)
        if self._may(state, "worker crashes") and (known.wants or known.process["holds"]):
            yield (
                (who, "crashes"),
                self._with_worker(state, index, 0)._replace(
                    fault="worker crashes", queue=_shown(state.queue, known.process["holds"], state.now)
                ),
            )

    def _receives(self, state: State, index: int, number: int) -> Iterator[tuple[Step, State]]:
        polling: int | None = None
        for position, queued in enumerate(state.queue):
            if HELD < queued.visible_at <= state.now:
                polling = self.worker.go_on(number, "poll", state.now) if polling is None else polling
                delivered = queued._replace(visible_at=HELD, deliveries=queued.deliveries + 1)
                delivery = (queued.message_id, delivered.deliveries, queued.message)
                received = self._with_worker(state, index, self.worker.go_on(polling, "poll", state.now, (delivery,)))
                queue = (*state.queue[:position], delivered, *state.queue[position + 1 :])
                yield (f"worker {index + 1}", f"receives {queued.message_id}"), received._replace(queue=queue)

    def _look_steps(self, state: State, index: int, number: int, effect: Effect) -> Iterator[tuple[Step, State]]:
        who = f"worker {index + 1}"

        def after(answer: Any) -> State:
            return self._with_worker(state, index, self.worker.go_on(number, "look", state.now, answer))

        name = effect[0]
        if name == "entry":
            row = state.row
            yield (who, f"reads the entry: version {row.version}"), after((row.version, row.present, row.etag))
        elif name == "get":
            answer = self._answer(state, effect[1])
            yield (who, f"GETs commit {state.commits}: {answer[0]}"), after(answer)
            if self._may(state, "source answers 503"):
                yield (who, "GETs: 503"), after((503, -1))._replace(fault="source answers 503")
        elif name == "apply":
            applied, row = self._apply(state, number, effect)
            what = "applies" if applied else "lost the compare-and-set of"
            yield (who, f"{what} {_shown_change(effect)}, if version is {effect[3]}"), after(applied)._replace(row=row)
        else:
            handed_back = [message_id for message_id, _ in effect[1]]
            queue = _shown(state.queue, handed_back, state.now)
            yield (who, f"hands back {', '.join(handed_back)}"), after(None)._replace(queue=queue)

    def _answer(self, state: State, known_etag: str | None) -> tuple[int, int]:
        if state.present:
            return (304 if known_etag == etag(state.commits) else 200, state.commits)
        return (410 if state.commits else 404, state.commits)

    def _apply(self, state: State, number: int, effect: Effect) -> tuple[bool, Row]:
        _, kind, value, if_version = effect
        status, saw = self.worker.known[number].process["saw"]
        applied, entry = _applied(state.row[:3], kind, value, if_version)
        if not applied:
            return False, state.row
        row = Row(*entry, saw)
        if saw < state.row.saw:
            raise Violation(f"the cache goes back from commit {state.row.saw} to commit {saw}")
        if state.row.present and not row.present and status not in {404, 410}:
            raise Violation(f"the answer {status} deletes")
        if row.present and row.etag not in {etag(saw), state.row.etag}:
            raise Violation(f"{row.etag} was never committed")
        return True, row

    def _deletes(self, state: State, index: int, number: int, effect: Effect) -> Iterator[tuple[Step, State]]:
        who = f"worker {index + 1}"
        message_ids = [message_id for message_id, _ in effect[1]]

        def after(*failed: int) -> tuple[State, int]:
            then = self.worker.go_on(number, "acknowledge", state.now, failed)
            gone = {message_id for position, message_id in enumerate(message_ids) if position not in failed}
            queue = tuple(queued for queued in state.queue if queued.message_id not in gone)
            return self._with_worker(state, index, then)._replace(queue=queue), then

        yield (who, f"acknowledges {', '.join(message_ids)}"), after()[0]
        if self._may(state, "batch call half failed"):
            for failed in {(position,) for position in range(len(message_ids))} | {tuple(range(len(message_ids)))}:
                half, then = after(*failed)
                half = half._replace(fault="batch call half failed")
                shown = ", ".join(message_ids[position] for position in failed)
                yield (who, f"fails to acknowledge {shown}, and will try again"), half
                queue = _shown(half.queue, [message_ids[position] for position in failed], state.now)
                position = half.workers.index(then)
                yield (
                    (who, f"fails to acknowledge {shown}, and gives up"),
                    self._with_worker(half, position, self.worker.give_up(then))._replace(queue=queue),
                )

    def _with_worker(self, state: State, index: int, number: int) -> State:
        workers = (*state.workers[:index], number, *state.workers[index + 1 :])
        return state._replace(workers=tuple(sorted(workers)) if self._symmetric else workers)

    # Time, faults, properties

    def _may(self, state: State, fault: str) -> bool:
        return state.fault is None and fault in self._faults

    def _time_matters(self, state: State) -> bool:
        """Whether somebody waits for time to pass; else it might pass for ever."""
        if any(queued.visible_at > state.now for queued in state.queue):
            return True
        if any(state.now < at < math.inf for number in state.workers for _, at in self.worker.known[number].ready):
            return True
        return (self._setup.renewals or self._setup.slow_publish) and any(
            number is not None and self.saver.known[number].wants for number in state.savers
        )

    def _time_may_pass(self, state: State) -> bool:
        """Whether nobody must act before: what the promise asks of savers."""
        later = state.now + 1
        if any(later >= orphan.deadline for orphan in state.orphans):
            return False
        return all(self._may_wait(self.saver.known[number], later) for number in state.savers if number is not None)

    def _may_wait(self, known: Known, later: int) -> bool:
        wants = {effect[0] for _, effect in known.wants}
        if {"publish", "answer"} & wants and self._setup.slow_publish and later > known.process["asked_at"] + LONGEST_PUBLISH:
            return False
        if not {"commit", "return"} & wants:
            return True
        if not self._setup.renewals:
            return later < known.process["last_started"] + SETTLE
        renewed_in_time = all(at >= later for actor, at in known.ready if actor == "renew")
        return renewed_in_time and later <= known.process["began_save"] + LONGEST_SAVE

    def check(self, state: State) -> None:
        """Check what must hold in every state."""
        if self._is_stale(state) and not state.queue and not self._saving(state):
            raise Violation("the cache is stale, and no event is left that would mend it")

    def check_quiet(self, state: State) -> None:
        """Check what must hold when no step is left."""
        if state.queue:
            raise Violation(f"nobody will ever acknowledge {', '.join(queued.message_id for queued in state.queue)}")
        if self._is_stale(state):
            raise Violation("all is quiet, and the cache is stale")

    def _saving(self, state: State) -> bool:
        return any(
            number is not None and number != 0 and not self.saver.known[number].process["over"] for number in state.savers
        )

    def _is_stale(self, state: State) -> bool:
        if state.row.present != state.present:
            return True
        return state.present and state.row.etag != etag(state.commits)


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
    change = {"Found": Found(value, etag(value or 0)), "Gone": Gone(), "Unchanged": Unchanged()}[kind]
    applied = sink.apply(ID, change, if_version=if_version)
    after = sink.entry(ID)
    return applied, (after.version, after.present, after.etag)


def _with_saver(state: State, index: int, number: int | None) -> State:
    return state._replace(savers=(*state.savers[:index], number, *state.savers[index + 1 :]))


def _sorted(*queue: Queued) -> tuple[Queued, ...]:
    return tuple(sorted(queue, key=lambda queued: queued.message_id))


def _shown(queue: tuple[Queued, ...], message_ids: Any, now: int) -> tuple[Queued, ...]:
    """Make messages visible."""
    return tuple(queued._replace(visible_at=now) if queued.message_id in message_ids else queued for queued in queue)


def _shown_attributes(message: Message) -> str:
    return " ".join(f"{name}={value}" for name, value in message.attributes if name != "settle")


def _shown_change(effect: Effect) -> str:
    return f"commit {effect[2]}" if effect[1] == "Found" else str(effect[1]).lower()


def _verb(puts: bool) -> str:  # noqa: FBT001
    return "commits a put" if puts else "commits a delete"


@dataclass
class Result:
    """What an exploration has found."""

    states: int = 0
    steps: int = 0
    schedules: int = 0
    depth: int = 0
    violation: str | None = None
    schedule: tuple[Step, ...] = ()


def explore(world: World, *, with_schedule: bool = False) -> Result:
    """
    Take every step from every state.

    Args:
        world: Where.
        with_schedule: Remember how each state was reached, which takes memory, to tell the schedule of a violation.
    """
    before, slack = logging.root.manager.disable, inbox.SLACK
    logging.disable(logging.CRITICAL)
    inbox.SLACK = 0.0  # it only delays looks, and here every look may be as late as it likes
    try:
        return _explored(world, with_schedule=with_schedule)
    finally:
        logging.disable(before)
        inbox.SLACK = slack


def _explored(world: World, *, with_schedule: bool) -> Result:
    result = Result()
    start = world.start()
    level: dict[State, int] = {start: 1}
    parents: list[dict[State, tuple[State, Step]]] = []
    while level:
        found: dict[State, int] = {}
        came: dict[State, tuple[State, Step]] = {}
        for state, ways in level.items():
            result.states += 1
            quiet = True
            step: Step = ("", "")
            try:
                for step, after in world.steps(state):
                    quiet = False
                    result.steps += 1
                    if after not in found:
                        world.check(after)
                        came[after] = (state, step)
                    found[after] = found.get(after, 0) + ways
                    step = ("", "")  # noqa: PLW2901  # what the next one is, is not known before it is taken
                if quiet:
                    world.check_quiet(state)
                    result.schedules += ways
            except Violation as violation:
                result.violation = str(violation)
                if with_schedule:
                    last = (step,) if step[0] else ()
                    result.schedule = (*_schedule(parents, state), *last)
                return result
        if with_schedule:
            parents.append(came)
        level = found
        result.depth += 1
    return result


def _schedule(parents: list[dict[State, tuple[State, Step]]], state: State) -> tuple[Step, ...]:
    steps: list[Step] = []
    for came in reversed(parents):
        state, step = came[state]
        steps.append(step)
    return tuple(reversed(steps))
