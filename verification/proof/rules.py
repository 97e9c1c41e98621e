"""The rules that the promise rests on, each with a change to the code that switches it off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """
    A rule that is switched off.

    Attributes:
        name: What is done instead.
        module: Where, below `change_events`.
        old: A text of that module; it stands there once.
        new: What stands there instead.
        setup: How the processes are set up.
        puts: What is saved, on top of an entity that is there.
        present: Whether it is.
        faults: What else may happen.
        failing: Whether there is one more saver, whose save raises.
        cached: What the cache has at first; see `History`.
    """

    name: str
    module: str
    old: str
    new: str
    setup: tuple[tuple[str, Any], ...] = ()
    puts: tuple[bool, ...] = (True,)
    present: bool = True
    faults: tuple[str, ...] = ()
    failing: bool = False
    cached: bool | None = None


VERSION = "version = if_version + 1 if if_version else first_version(now)"
MOST_ELAPSED = "    seconds: float = max(map(sub, now, since))\n"
LATE = (("renewals", True), ("early_look", False))

BULK_GET = (
    "            with self.slot:\n"
    "                early = self._begin_get(ids)\n"
    "                timed = timed_get(self.consumer.answers, self.clock, len(ids))\n"
    "                with timed, measured_get(self.tally.meter, self.clock) as answer:\n"
    "                    changes = fetcher.fetch_many(ids)\n"
)

MUTANTS = (
    Mutant(
        "a second look only if the first saw unchanged or gone",
        "_consumer.looks",
        "            settled = desk.succeeded(\n",
        "            changed = what.value in {'created', 'updated'}\n"
        "            for event in desk.inbox._groups[id].frozen if changed else []:\n"
        "                event.hold = 0.0\n"
        "            settled = desk.succeeded(\n",
        puts=(True, True),
    ),
    Mutant(
        "no new version for what is unchanged",
        "sinks.memory",
        VERSION,
        "version = if_version + 1\n"
        "            if not if_version:\n"
        "                version = first_version(now)\n"
        "            elif (present, digest) == (row.entry.present, row.entry.digest):\n"
        "                version = if_version",
        setup=(("early_look", False), ("tombstone", True)),
        puts=(True, False),
        present=False,
    ),
    Mutant(
        "no new version for an entity that is what it was",
        "sinks.memory",
        VERSION,
        "version = if_version + 1\n"
        "            if not if_version:\n"
        "                version = first_version(now)\n"
        "            elif present and digest == row.entry.digest:\n"
        "                version = if_version",
        setup=(("early_look", False), ("reverts", True)),
        puts=(True, True),
    ),
    Mutant(
        "no version for what is gone and was never seen",
        "sinks.memory",
        VERSION,
        f"{VERSION}\n"
        "            version = 0 if isinstance(change, Gone) and not if_version else version",
        puts=(True, False),
        present=False,
    ),
    Mutant(
        "no tombstone",
        "sinks.memory",
        "            self._rows[id] = _Row(",
        "            if isinstance(change, Gone):\n"
        "                self._rows.pop(id, None)\n"
        "                return True\n"
        "            self._rows[id] = _Row(",
        puts=(True, False),
        present=False,
    ),
    Mutant(
        "the GET before the version is read",
        "_consumer.looks",
        "                    change = self._fetch(id, etag)\n",
        "                    change = self._fetch(id, etag)\n"
        "                    entry = sink.entry(id)\n",
        puts=(True, True),
    ),
    Mutant(
        "an event joins a GET that is under way",
        "_consumer.looks",
        "                early = self._begin_get([id], again=attempt > 0)\n"
        "                etag = etag_to_send(entry, fetcher, early=bool(early))\n"
        "                with timed_get(self.consumer.answers, self.clock):\n"
        "                    change = self._fetch(id, etag)\n",
        "                change = self._fetch(id, etag := None)\n"
        "                early = self._begin_get([id], again=attempt > 0)\n",
        setup=(("delay", 2), ("slow_get", True)),
        puts=(True, True),
    ),
    Mutant(
        "bulk: what is absent is taken as gone",
        "_consumer.looks",
        "                id: _Done(entry, compared(changes[id], id, entry, fetcher, None))\n"
        "                for id, entry in entries.items()\n"
        "                if isinstance(changes.get(id), Found)\n",
        "                id: _Done(\n"
        "                    entry, compared(changes.get(id, Gone()), id, entry, fetcher, None)\n"
        "                )\n"
        "                for id, entry in entries.items()\n",
        setup=(("bulk", True),),
        faults=("left out of many",),
    ),
    Mutant(
        "bulk: the GET before the versions are read",
        "_consumer.looks",
        "            entries = {id: entry_of(sink, id) for id in ids}\n" + BULK_GET,
        BULK_GET + "                    entries = {id: entry_of(sink, id) for id in ids}\n",
        setup=(("bulk", True),),
        puts=(True, True),
    ),
    Mutant(
        "bulk: an event joins a GET that is under way",
        "_consumer.looks",
        BULK_GET,
        "            with self.slot:\n"
        "                timed = timed_get(self.consumer.answers, self.clock, len(ids))\n"
        "                with timed, measured_get(self.tally.meter, self.clock) as answer:\n"
        "                    changes = fetcher.fetch_many(ids)\n"
        "                    early = self._begin_get(ids)\n",
        setup=(("bulk", True), ("delay", 2), ("slow_get", True)),
        puts=(True, True),
    ),
    Mutant(
        "bulk: what it does not bring is settled",
        "_consumer.looks",
        "        self._look_alone([id for id in ids if id not in found])\n",
        "        for id in ids:\n"
        "            if id not in found:\n"
        "                with self.consumer as desk:\n"
        "                    yield desk.succeeded(\n"
        "                        id, self.clock(), started=started, found=False, cached=True\n"
        "                    ).events\n",
        setup=(("bulk", True),),
        puts=(False,),
    ),
    Mutant(
        "acknowledged before it is applied",
        "_consumer.looks",
        "        early = self.consumer.begin_get(ids, again=again)\n",
        "        early = self.consumer.begin_get(ids, again=again)\n"
        "        with self.consumer as desk:\n"
        "            now, groups = self.clock(), desk.inbox._groups\n"
        "            due = [each for id in ids for each in groups[id].frozen if each.due <= now]\n"
        "        if due:\n"
        "            self.visibility.queue.delete([event.receipt_handle for event in due])\n"
        "        return early\n",
    ),
    Mutant(
        "a look that settles relies on an ETag",
        "_consumer.look",
        '    return entry.etag if early or getattr(fetcher, "trust_etags", False) else None\n',
        "    return entry.etag\n",
        setup=(("coarse_etags", True),),
        puts=(True, True),
    ),
    Mutant(
        "an early look that finds nothing new settles",
        "_consumer.looks",
        "                self._too_early(id, entry)\n                return None\n",
        "                for event in self.consumer._desk.inbox._groups[id].frozen:\n"
        "                    event.hold = 0.0\n"
        "                return _Done(entry, change)\n",
    ),
    Mutant(
        "the window counted from the end of the publish",
        "_producer.broadcasting",
        "        require_sent(answer, self._publisher)\n        return started\n",
        "        require_sent(answer, self._publisher)\n        return self._renewals.now()\n",
        setup=(*LATE, ("slow_publish", True)),
    ),
    Mutant(
        "5xx taken as gone",
        "_source.fetcher",
        "        if answer.status == 410 or (",
        "        if answer.status >= 500 or answer.status == 410 or (",
        faults=("source answers 503",),
    ),
    Mutant(
        "a lock in the process instead of a compare-and-set",
        "sinks.memory",
        "if row.entry.version != if_version:",
        "if row.entry.version != if_version and not row:",
        puts=(True, True),
    ),
    Mutant(
        "an event is held from the start of its receive",
        "_consumer.intake",
        "            messages = self.queue.receive(\n"
        "                most=most, wait=wait, visibility=self.settings.visibility_timeout\n"
        "            )\n"
        "            events, undecided = self.reader.read(messages, delay=self._delay)\n",
        "            began = self.clock()\n"
        "            messages = self.queue.receive(\n"
        "                most=most, wait=wait, visibility=self.settings.visibility_timeout\n"
        "            )\n"
        "            events, undecided = self.reader.read(messages, delay=self._delay)\n"
        "            for event in events:\n"
        "                event.received = began\n",
        setup=(("slow_poll", True), ("early_look", False)),
    ),
    Mutant(
        "an id rests until the queue has no more, or is in want of room",
        "_consumer.agenda",
        "        return until\n",
        "        return math.inf\n",
        setup=(("pairs", True), ("early_look", False)),
        puts=(True, True),
        faults=("duplicate delivery",),
    ),
    Mutant(
        "in an outage, what is held is not tried again",
        "_consumer.desk",
        "            or self.inbox.parked() is not None\n",
        "",
        setup=(("outage", True), ("early_look", False)),
        faults=("source is down, once",),
    ),
    Mutant(
        "a refused deletion is done",
        "_consumer.looks",
        "            if isinstance(change, Gone) and self._refused(id, entry):\n"
        "                return None\n",
        "            if isinstance(change, Gone):\n                self._refused(id, entry)\n",
        setup=(("guarded", True), ("early_look", False)),
        puts=(False,),
    ),
    Mutant(
        "once deletions are believed, what was refused is not looked at again",
        "_consumer.consumer",
        "            self._desk.release(self._clock())\n",
        "            self._desk.changed()\n",
        setup=(("guarded", True), ("early_look", False)),
        puts=(False,),
    ),
    Mutant(
        "a heartbeat ends a look under way",
        "_consumer.inbox",
        "                if not self._agenda.is_under_way(id):\n",
        "                if True:\n",
        setup=(("heartbeats", True), ("early_look", False)),
        faults=("visibility expires",),
    ),
    Mutant(
        "any delay of the queue is long enough",
        "_consumer.intake",
        "max(0.0, window_of(event, self.settings.settle) - max(delay, message.age))",
        "0.0 if delay else window_of(event, self.settings.settle)",
        setup=(("delay", 1),),
    ),
    Mutant(
        "an event's age by the worker's own clock",
        "_consumer.intake",
        "max(delay, message.age)",
        "max(delay, self.clock() - (message.sent or 0.0))",
        setup=(("aging", True),),
    ),
    Mutant(
        "an event's age without a margin for SQS's clocks",
        "_consumer.queue",
        "self.answered - self.sent - CLOCK_SLACK",
        "self.answered - self.sent",
        setup=(("aging", True),),
    ),
    Mutant(
        "`saved` for a save that raised",
        "_producer.broadcasting",
        '"saved" if self._confirm and returned else None',
        '"saved" if self._confirm else None',
        setup=(("confirm", True),),
        puts=(),
        failing=True,
    ),
    Mutant(
        "a late save is not broadcast again",
        "_producer.renewals",
        "        started = self.now()\n",
        "        return\n        started = self.now()\n",
        setup=LATE,
    ),
    Mutant(
        "nor after it, where SNS refused that",
        "_producer.renewals",
        "                try:\n                    broadcast()\n",
        "                try:\n                    pass\n",
        setup=LATE,
        faults=("SNS refuses",),
    ),
    Mutant(
        "a cancelled save is over",
        "_producer.renewals",
        "            if goes_on:\n",
        "            if goes_on and not save:\n",
        setup=LATE,
        faults=("save is cancelled",),
    ),
    Mutant(
        "a cancelled save is broadcast once more, and not for two windows",
        "_producer.renewals",
        "now[0] + max(self._linger, 2 * save.settle)",
        "now[0]",
        setup=LATE,
        faults=("save is cancelled",),
    ),
    Mutant(
        "time by the monotonic clock alone, after the save",
        "_producer.clocks",
        MOST_ELAPSED,
        "    seconds = now[0] - since[0]\n",
        setup=LATE,
        faults=("publisher freezes",),
    ),
    Mutant(
        "time by the monotonic clock alone, before the save",
        "_producer.clocks",
        MOST_ELAPSED,
        "    seconds = now[0] - since[0]\n",
        setup=(*LATE, ("slow_publish", True)),
        faults=("publisher freezes",),
    ),
    Mutant(
        "a renewal counted from its end",
        "_producer.renewals",
        "            self._renewed(save, started, error if",
        "            self._renewed(save, self.now(), error if",
        setup=(*LATE, ("slow_renewal", True), ("longest_save", 3)),
    ),
    Mutant(
        "a failed renewal counts as accepted",
        "_producer.renewals",
        "            if error is None:\n                save.started,",
        "            if error is None or save:\n                save.started,",
        setup=LATE,
        faults=("SNS refuses",),
    ),
    Mutant(
        "a late save that raised is not broadcast again",
        "_producer.broadcasting",
        "        if self._renewals.end(save, goes_on=goes_on):\n",
        "        if self._renewals.end(save, goes_on=goes_on) and returned:\n",
        setup=(*LATE, ("raises", True)),
        faults=("SNS refuses",),
    ),
    Mutant(
        "a save begins however old its broadcast is",
        "_producer.broadcasting",
        "        if age >= self._settle:\n",
        "        if age >= self._settle and not now:\n",
        setup=(*LATE, ("slow_publish", True)),
    ),
)
"""
Those of the design and of the issues that asked for this, four of bulk GETs, two of an event's age,
and those of saves that are late, cancelled or frozen.
"""
