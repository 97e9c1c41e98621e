"""
The mutants that live, and why: for each reason the function, its line, and what the mutant makes of
that.
"""

from __future__ import annotations

SURVIVORS = {
    "None is as false as False": [
        ("_consumer.Consumer.__init__", "self._closed = False", "self._closed = None"),
        ("_decorator.broadcasting.__init__", "self._entered = False", "self._entered = None"),
        ("_renewal.Renewals.start_over", "self._watched = False", "self._watched = None"),
    ],
    "a dictionary for the order of its keys; nobody reads the values": [
        (
            "_consumer.MalformedLog.add",
            "self._logged[message_id] = None",
            'self._logged[message_id] = ""',
        ),
        ("_renewal.Renewals.begin", "self._saves[save] = None", 'self._saves[save] = ""'),
    ],
    "no id is the empty text": [
        (
            "_breaker.Breaker.succeeded",
            "self._probe: str | None = None",
            'self._probe: str | None = ""',
        ),
        ("_breaker.Breaker.failed", "self._probe = None", 'self._probe = ""'),
    ],
    "nothing is parked but in an outage, or while deletions are refused and no look begins; to look for it takes time": [
        (
            "_consumer.Consumer.next",
            "id = self.inbox.next(now) or (self.inbox.retry() if self.breaker.open else None)",
            "id = self.inbox.next(now) or (self.inbox.retry() if (self.breaker.open) or True else None)",
        ),
    ],
    "only keeps the power from overflowing; no caller's limit is above 2**20": [
        (
            "_consumer.pause_after",
            "return min(2.0 ** min(failures, 20), most) * random.uniform(0.5, 1.0)",
            "return min(2.0 ** min(failures, 21), most) * random.uniform(0.5, 1.0)",
        ),
    ],
    "a name that is never said, as a broadcast without a phase leaves it out; it costs a microsecond": [
        (
            "_decorator.broadcasting.__init__",
            "self._save_id = uuid.uuid4().hex if confirm else None",
            "self._save_id = uuid.uuid4().hex if (confirm) or True else None",
        ),
    ],
    "the same for the first two attempts, and there is no pause after the third": [
        (
            "_renewal.Renewals.announce_late",
            "self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))",
            "self._sleep(0.2 * 2 * attempt * random.uniform(0.5, 1.0))",
        ),
    ],
    "the watcher wakes once more, to the same end": [
        (
            "_renewal.Renewals.renew",
            "if save in self._saves and renew_at < self._wake_at:",
            "if save in self._saves and renew_at <= self._wake_at:",
        ),
        (
            "_renewal.Renewals._watch",
            "while (pause := self._wake_at - self._clock()) > 0:",
            "while (pause := self._wake_at - self._clock()) >= 0:",
        ),
    ],
}
