"""The mutants of `_producer` that live, and why, as in survivors.py."""

from __future__ import annotations

OF_THE_PRODUCER = {
    "a dictionary for the order of its keys: nobody reads the values": [
        (
            "_producer.renewals.Renewals.begin",
            "self._saves[save] = None",
            'self._saves[save] = ""',
        ),
        ("_producer.renewals.Renewals.end", "self._late[save] = None", 'self._late[save] = ""'),
        (
            "_producer.renewals.Renewals.collect_due",
            "self._waiting[save] = None",
            'self._waiting[save] = ""',
        ),
    ],
    "a broadcast without a phase leaves the name out; it costs a microsecond": [
        (
            "_producer.broadcasting._AnnouncedSave.__init__",
            "self._save_id = self._renewals.new_save_id() if confirm else None",
            "self._save_id = self._renewals.new_save_id() if (confirm) or True else None",
        ),
    ],
    "the empty text is as false as None": [
        (
            "_producer.broadcasting._AnnouncedSave._awaited",
            "self._save = None",
            'self._save = ""',
        ),
    ],
    "all saves that share a call have one publisher": [
        (
            "_producer.broadcasts.failures",
            "broadcasts[0].publisher.publish(",
            "broadcasts[1].publisher.publish(",
        ),
    ],
    "both defaults are below every status": [
        (
            "_producer.sharing._may_be_anothers",
            'status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)',
            'status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 1)',
        ),
    ],
    "every save that waits has a sender of its own": [
        ("_producer.renewals.Renewals._next_saves", "continue", "break"),
    ],
    "a call that is full has room for no other save": [
        ("_producer.renewals.Renewals._next_saves", "if left <= 0:", "if left < 0:"),
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
    "the same for the first two attempts, and there is no pause after the third": [
        (
            "_producer.renewals.Renewals.announce_late",
            "self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))",
            "self._sleep(0.2 * 2 * attempt * random.uniform(0.5, 1.0))",
        ),
    ],
    "a sender that is free renews it sooner": [
        (
            "_producer.renewals.Renewals._put_off",
            "self._waiting.pop(save, None)",
            "self._waiting.pop(None, None)",
        ),
    ],
    "a broadcast that ends in another way reports nothing": [
        (
            "_producer.renewals.Renewals.announce_late",
            "failure: Exception | None = None",
            'failure: Exception | None = ""',
        ),
    ],
}
