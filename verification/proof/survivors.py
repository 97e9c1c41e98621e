"""
The mutants that live, and why.

For each reason: the function, its line, and the line of the mutant.
"""

from __future__ import annotations

SURVIVORS = {
    "None is as false as False": [
        (
            "_consumer.acknowledgements.Acknowledgements.__init__",
            "self._closed = False",
            "self._closed = None",
        ),
        (
            "_consumer.acknowledgements.Acknowledgements.__init__",
            "self._lingering = False",
            "self._lingering = None",
        ),
        (
            "_consumer.acknowledgements.Acknowledgements._take",
            "self._lingering = False",
            "self._lingering = None",
        ),
        ("_consumer.consumer.Consumer.__init__", "self._stopping = False", "self._stopping = None"),
        ("_consumer.desk.Desk.__init__", "self._backlog = False", "self._backlog = None"),
        ("_consumer.desk.Desk.__init__", "self._closed = False", "self._closed = None"),
        ("_consumer.desk.Desk.__init__", "self._help = False", "self._help = None"),
        ("_consumer.inbox.Inbox.settle", "group.alone = False", "group.alone = None"),
        (
            "_producer.broadcasting._AnnouncedSave.__init__",
            "self._entered = False",
            "self._entered = None",
        ),
        (
            "_producer.renewals.Renewals._forget_saves",
            "self._watched = False",
            "self._watched = None",
        ),
    ],
    "a dictionary for the order of its keys; nobody reads the values": [
        ("_producer.renewals.Renewals.begin", "self._saves[save] = None", 'self._saves[save] = ""'),
    ],
    "no id is the empty text": [
        (
            "_consumer.breaker.Breaker.succeeded",
            "self._probe: str | None = None",
            'self._probe: str | None = ""',
        ),
        ("_consumer.breaker.Breaker.failed", "self._probe = None", 'self._probe = ""'),
    ],
    "an id is parked only in an outage, or while no look begins; the check saves time": [
        (
            "_consumer.desk.Desk.next",
            "id = self.inbox.next(now) or (self.inbox.retry() if self.breaker.open else None)",
            (
                "id = self.inbox.next(now) or "
                "(self.inbox.retry() if (self.breaker.open) or True else None)"
            ),
        ),
    ],
    "before the first receive there is no backlog to help with": [
        ("_consumer.desk.Desk.__init__", "self._help = False", "self._help = True"),
    ],
    "a second entry for the same time is skipped": [
        ("_consumer.agenda.Agenda.add", "if at <= self.at(id):", "if at < self.at(id):"),
    ],
    "the end of a pause that has not begun does nothing": [
        (
            "_consumer.consumer.Consumer.__init__",
            "self._paused = {SOURCE_DOWN: False, MASS_DELETION: False}",
            "self._paused = {SOURCE_DOWN: True, MASS_DELETION: False}",
        ),
    ],
    "an id without events has no look due; the line makes that sure": [
        ("_consumer.inbox.Inbox.settle", "self._agenda.cancel(id)", "self._agenda.cancel(None)"),
    ],
    "a bulk GET finds nothing gone, so the guard never refuses what it found": [
        (
            "_consumer.looks.Looks._store",
            "stored = self._allowed(id, entry, change) and self.settings.sink.apply(",
            "stored = self._allowed(None, entry, change) and self.settings.sink.apply(",
        ),
        (
            "_consumer.looks.Looks._store",
            "stored = self._allowed(id, entry, change) and self.settings.sink.apply(",
            "stored = self._allowed(id, entry, None) and self.settings.sink.apply(",
        ),
    ],
    "only keeps the power from overflowing; no caller's limit is above 2**20": [
        (
            "_consumer.backoff.pause_after",
            "return min(2.0 ** min(failures, 20), most) * random.uniform(0.5, 1.0)",
            "return min(2.0 ** min(failures, 21), most) * random.uniform(0.5, 1.0)",
        ),
    ],
    "a broadcast without a phase leaves the name out; it costs a microsecond": [
        (
            "_producer.broadcasting._AnnouncedSave.__init__",
            "self._save_id = self._renewals.new_save_id() if confirm else None",
            "self._save_id = self._renewals.new_save_id() if (confirm) or True else None",
        ),
    ],
    "the same for the first two attempts, and there is no pause after the third": [
        (
            "_producer.renewals.Renewals.announce_late",
            "self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))",
            "self._sleep(0.2 * 2 * attempt * random.uniform(0.5, 1.0))",
        ),
    ],
    "the watcher wakes once more, to the same end": [
        (
            "_producer.renewals.Renewals._renewed",
            "elif save in self._saves and save.renew_at < self._wake_at:",
            "elif save in self._saves and save.renew_at <= self._wake_at:",
        ),
        (
            "_producer.renewals.Renewals._watch",
            "while (pause := self._wake_at - self.now()[0]) > 0:",
            "while (pause := self._wake_at - self.now()[0]) >= 0:",
        ),
    ],
}
