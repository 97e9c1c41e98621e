"""A worker in the walk: it receives, looks and acknowledges, in production code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable
from queue import SimpleQueue
from typing import Any

from change_events import HTTPFetcher
from change_events._consumer.agenda import REST
from change_events._consumer.backoff import Backoff
from change_events._consumer.crew import Threads
from change_events._consumer.guard import Guard
from change_events._consumer.limit import Limit
from change_events._consumer.queue import BATCH_SIZE, Queue
from change_events._consumer.run import Run
from change_events._consumer.settings import Settings
from change_events._consumer.stats import Tally
from verification.proof.effects import GETS, ID, SETTLE, Effect, Message, Setup, Violation
from verification.proof.process import Facts, Process
from verification.proof.spec import Spec
from verification.proof.stand_ins import Cache, Pool, Sqs


class Ticks(Threads):
    """A clock that ticks; no thread is started."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock


class Worker(Process):
    """The steps of a production worker, taken as its threads take them: poll, look, acknowledge."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        queue = Queue("http://queue/1", Sqs(setup.delay))
        settings = Settings(
            queue.url,
            fetcher=HTTPFetcher(
                "http://source/{id}",
                bulk_url="http://source/" if setup.bulk else None,
                pool=Pool(setup),  # type: ignore[arg-type]  # all that it uses
            ),
            sink=Cache(),
            settle=float(SETTLE),
            early_look=setup.early_look,
            batch_size=2 if setup.pairs else BATCH_SIZE,
            prefetch=3 if setup.pairs else None,
        )
        self._run = Run(
            settings,
            queue=queue,
            guard=Guard(min_deleted=1, max_share=0.0) if setup.guarded else Guard(),
            tally=Tally(),
            control=SimpleQueue(),
            threads=Ticks(lambda: self.now),
            backoff=Backoff(lambda *_: 1.0, early=1.0),
            limit=Limit.fixed(),
        )
        with self._run.consumer as desk:
            self._desk, self._inbox = desk, desk.inbox
        self._run.ask_delay()
        self._acks: list[str] = []
        self._look_answers: list[tuple[str, Any]] = []
        self._saw: tuple[int, int] = (0, 0)
        self._polling_since = 0
        self._spec = Spec(SETTLE - setup.delay)
        self._setup = setup

    def go_on(self, actor: str, answer: Any = None) -> None:
        if actor == "look" and actor in self.wants:
            self._answered(self.wants[actor], answer)
        if actor == "poll" and actor not in self.running:
            self._polling_since = self.now
        super().go_on(actor, answer)
        self._spec.keep(self._held())

    def receive(self, messages: tuple[Message, ...], known_as: tuple[str, ...] = ()) -> None:
        """Receive messages; one that it holds already goes by its name, and others have ""."""
        taken = self._held()
        new = (name for name in map(str, itertools.count(1)) if name not in taken)
        names = [name or next(new) for name in known_as]
        if "poll" not in self.running:
            self.go_on("poll")
        for name, message in zip(names, messages, strict=True):
            self._spec.received(name, message.event, self.now, age=message.age)
        self.go_on("poll", tuple(zip(names, messages, strict=True)))

    def acknowledged(self, failed: tuple[str, ...]) -> None:
        """Receive the answer to an acknowledgement."""
        ((actor, effect),) = (
            (actor, effect) for actor, effect in self.wants.items() if effect[0] == "delete"
        )
        self._spec.acknowledged(set(_named(effect)).difference(failed))
        self.go_on(actor, failed)

    def _answered(self, effect: Effect, answer: Any) -> None:
        name = effect[0]
        if name == "entry":
            self._look_answers = [each for each in self._look_answers if each[0] in GETS]
        if name in GETS:
            self._look_answers = [each for each in self._look_answers if each[0] == "entry"]
            self._spec.get(self.now)
            self._saw = answer
        if name == "visibility" and self._saw[0] != 500:
            raise Violation("a look failed without a reason")
        if name == "apply":
            self._look_answers.clear()
            if answer:
                self._spec.applied()
        else:
            self._look_answers.append((name, answer))

    def task(self, actor: str) -> Callable[[], object]:
        if actor == "poll":
            return lambda: self._run.intake.receive(wait=1)
        if actor == "heartbeat":
            return lambda: self._run.visibility.extend(math.inf)
        return self._look if actor == "look" else self._acknowledge

    def _look(self) -> None:
        ids = self._desk.next(self.now)
        assert ids == [ID]
        together = self._setup.bulk and not self._inbox._groups[ID].alone
        looks = self._run.looks.look_together(ids) if together else self._run.looks.look(ids)
        for events in looks:  # meanwhile others are acknowledged
            self._acks += [event.receipt_handle for event in events]
        self._look_answers.clear()
        self._saw = (0, 0)
        self._spec.look_over()

    def _acknowledge(self) -> None:
        handles, self._acks = self._acks, []
        self._acks = list(self._run.acknowledgements.delete(handles)) + self._acks

    def give_up(self) -> None:
        """Stop trying to acknowledge what failed, as the worker does in the end."""
        self._acks = []
        self._spec.keep(self._held())

    def beat(self, refused: tuple[str, ...]) -> None:
        """Keep invisible what is held; SQS refuses that for some messages."""
        self.go_on("heartbeat")
        self.go_on("heartbeat", refused)

    def resume(self) -> None:
        """Be told by an operator to go on after a mass deletion was refused."""
        self._run.consumer.resume()

    def ready_in(self) -> dict[str, float]:
        ready: dict[str, float] = {}
        if "poll" not in self.running and self._desk.receiving.may_begin():
            ready["poll"] = 0
        at = self._desk.next_at()
        if at is not None and "look" not in self.running:
            ready["look"] = self.ticks_to(at)
        if self._acks and "acknowledge" not in self.running:
            ready["acknowledge"] = 0
        return ready

    def facts(self) -> Facts:
        polling = self.ticks_since(self._polling_since) if "poll" in self.running else 0.0
        return Facts(saw=self._saw, polling=polling, refuses=self._desk.guard.tripped)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._held(), key=lambda name: (repr(self._known_of(name)), name)))

    def state(self) -> Hashable:
        names = self.names()
        agenda = self._inbox._agenda
        return (
            tuple(map(self._known_of, names)),
            tuple(
                (
                    self.ticks_to(agenda.at(id)),
                    agenda.is_under_way(id),
                    group.alone,
                    group.too_early,
                )
                for id, group in self._inbox._groups.items()
            ),
            tuple(self._look_answers),
            tuple((actor, numbered(effect, names)) for actor, effect in self.wants.items()),
            self.facts().polling,
            self._rest() if self._setup.pairs else None,
            self._outage() if self._setup.outage or self._desk.breaker._in_a_row else None,
            self._desk.guard._state if self._setup.guarded else None,
        )

    def _rest(self) -> Hashable:
        """Return what decides whether the id rests."""
        rest = self._inbox._rest
        return (
            self._desk.receiving.backlog,
            *(self.ticks_to(looked + REST) for looked in rest._looked.values()),
            tuple(self.ticks_to(at) for at in rest._resting.values()),
            rest.making_room,
        )

    def _outage(self) -> Hashable:
        """Return what failed looks leave behind."""
        breaker = self._desk.breaker
        return (
            breaker.open,
            breaker.probing or self.ticks_to(breaker.look_at),
            breaker.failures,
            breaker._in_a_row,
            len(breaker._ids),
            len(self._desk.experiment._good),
        )

    def _held(self) -> set[str]:
        events = {name for group in self._inbox._groups.values() for name in group.events}
        return events.union(self._acks, *map(_named, self.wants.values()))

    def _known_of(self, name: str) -> Hashable:
        """Return all that the worker knows of a message, but its name."""
        events = [
            (self.ticks_to(event.due), event.phase, event.save, *self._known_of_look(group, event))
            for group in self._inbox._groups.values()
            if (event := group.events.get(name))
        ]
        wanted = tuple(actor for actor, effect in self.wants.items() if name in _named(effect))
        return (tuple(events), name in self._acks, wanted, self._spec.known_of(name, self))

    def _known_of_look(self, group: Any, event: Any) -> tuple[bool, ...]:
        looking = self._inbox._agenda.is_under_way(event.id)
        return (event in group.frozen, event.due <= group.get_started) if looking else ()


def _named(effect: Effect) -> tuple[str, ...]:
    """Return the names of the messages that an effect is about."""
    names: tuple[str, ...] = effect[1] if effect[0] in {"delete", "visibility"} else ()
    return names


def numbered(effect: Effect, names: tuple[str, ...]) -> Effect:
    """Return the effect with the places of messages instead of their names."""
    if effect[0] in {"delete", "visibility"}:
        return (effect[0], tuple(sorted(names.index(name) + 1 for name in _named(effect))))
    return effect
