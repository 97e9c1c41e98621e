"""Sinks that each break one rule of the contract."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from dataclasses import replace

from change_events import Entry, Found, Gone, MemorySink, SQLiteSink, Unchanged
from verification.harness.processes import wait_until


class NoBumpOnUnchanged(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Unchanged):
            return self.entry(id).version == if_version
        return super().apply(id, change, if_version=if_version)


class NoBumpOnGoneNeverSeen(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Gone) and self.entry(id) == Entry():
            return if_version == 0
        return super().apply(id, change, if_version=if_version)


class NoBumpOnGoneTombstone(MemorySink):
    def apply(self, id, change, /, *, if_version):
        entry = self.entry(id)
        if isinstance(change, Gone) and entry.version and not entry.present:
            return entry.version == if_version
        return super().apply(id, change, if_version=if_version)


class NoBumpOnSameEntity(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Found) and change.value == self.get(id):
            return self.entry(id).version == if_version
        return super().apply(id, change, if_version=if_version)


class TombstoneDropped(MemorySink):
    def apply(self, id, change, /, *, if_version):
        done = super().apply(id, change, if_version=if_version)
        if done and isinstance(change, Gone):
            del self._rows[id]
        return done


class NoCompare(MemorySink):
    def apply(self, id, change, /, *, if_version):
        return super().apply(id, change, if_version=self.entry(id).version)


class NoCompareOnGone(MemorySink):
    def apply(self, id, change, /, *, if_version):
        return super().apply(
            id,
            change,
            if_version=self.entry(id).version if isinstance(change, Gone) else if_version,
        )


class NewerIsGoodEnough(MemorySink):
    def apply(self, id, change, /, *, if_version):
        return super().apply(id, change, if_version=min(if_version, self.entry(id).version))


class WritesThenCompares(MemorySink):
    def __init__(self, **settings):
        super().__init__(**settings)
        self._values = {}

    def apply(self, id, change, /, *, if_version):
        if not isinstance(change, Unchanged):
            self._values[id] = change.value if isinstance(change, Found) else None
        return super().apply(id, change, if_version=if_version)

    def get(self, id, /):
        return self._values.get(id)


class ChecksThenWrites(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if self.entry(id).version != if_version:
            return False
        time.sleep(0.001)  # as long as a network
        return super().apply(id, change, if_version=self.entry(id).version)


class LocksThreadsOnly(SQLiteSink):
    def __init__(self, path, **settings):
        super().__init__(path, **settings)
        self._threads = threading.Lock()
        self._path = path

    def apply(self, id, change, /, *, if_version):
        with self._threads:
            if self.entry(id).version != if_version:
                return False
            if multiprocessing.parent_process():
                self._wait_for_another_process()
            while not super().apply(id, change, if_version=self.entry(id).version):
                pass  # the file's own comparison must not help
            return True

    def _wait_for_another_process(self):
        """Write once a second process has compared, too; or after all, if none does."""
        self._path.with_suffix(f".{os.getpid()}").touch()
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: len(list(self._path.parent.glob(f"{self._path.stem}.[0-9]*"))) > 1)


class FailsOnce(SQLiteSink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Found) and change.value["n"] == 40:
            raise OSError("the disk is full")
        return super().apply(id, change, if_version=if_version)


class ForgetsETagOnUnchanged(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Unchanged):
            change = Found(self.get(id), None, self.entry(id).digest)
        return super().apply(id, change, if_version=if_version)


class KeepsETagOfBefore(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Found):
            change = Found(change.value, change.etag or self.entry(id).etag)
        return super().apply(id, change, if_version=if_version)


class IgnoresETagOfUnchanged(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Unchanged):
            change = Unchanged()
        return super().apply(id, change, if_version=if_version)


class StoresNoDigest(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Found):
            change = replace(change, digest=None)
        return super().apply(id, change, if_version=if_version)


class KeepsDigestOfBefore(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Found):
            change = replace(change, digest=change.digest or self.entry(id).digest)
        return super().apply(id, change, if_version=if_version)


class KeepsDigestOfTheDeleted(MemorySink):
    def apply(self, id, change, /, *, if_version):
        before = self.entry(id).digest
        done = super().apply(id, change, if_version=if_version)
        if done and isinstance(change, Gone):
            row = self._rows[id]
            self._rows[id] = replace(row, entry=replace(row.entry, digest=before))
        return done


class ForgetsDigestOnUnchanged(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Unchanged):
            change = Found(self.get(id), change.etag or self.entry(id).etag)
        return super().apply(id, change, if_version=if_version)


class ForgetsEntityOnUnchanged(MemorySink):
    def apply(self, id, change, /, *, if_version):
        if isinstance(change, Unchanged):
            entry = self.entry(id)
            change = Found(None, change.etag or entry.etag, entry.digest)
        return super().apply(id, change, if_version=if_version)


class TakesIdsForEachOther(MemorySink):
    def entry(self, id, /):
        return super().entry(id.strip())

    def apply(self, id, change, /, *, if_version):
        return super().apply(id.strip(), change, if_version=if_version)


class MixesUpEntities(MemorySink):
    def get(self, id, /):
        return super().get(id[:255])


class ListsTombstones(MemorySink):
    def items(self):
        return ((id, row.value) for id, row in self._rows.items())


class CountsTombstones(MemorySink):
    def __len__(self):
        return len(self._rows)


class NamesTombstones(MemorySink):
    def ids(self, *, after=None, limit=1000):
        return sorted(id for id in self._rows if after is None or id > after)[:limit]


class NamesTheLastIdAgain(MemorySink):
    def ids(self, *, after=None, limit=1000):
        return sorted(id for id, _ in self.items() if after is None or id >= after)[:limit]


class NamesMoreThanAsked(MemorySink):
    def ids(self, *, after=None, limit=1000):
        return super().ids(after=after)


class StopsAtTombstones(MemorySink):
    """It reads a page and then leaves out tombstones, so that a page can be empty too early."""

    def ids(self, *, after=None, limit=1000):
        page = sorted(id for id in self._rows if after is None or id > after)[:limit]
        return [id for id in page if self.entry(id).present]


class StopsAtAnIdThatIsGone(MemorySink):
    def ids(self, *, after=None, limit=1000):
        if after is not None and not self.entry(after).present:
            return []
        return super().ids(after=after, limit=limit)


class KeepsTheFirstState(MemorySink):
    def set_state(self, name, text, /, *, if_state):
        return self._state.setdefault(name, text) == text


class SetsStateOverAnything(MemorySink):
    def set_state(self, name, text, /, *, if_state):
        self._state[name] = text
        return True


class SetsStateWithoutALock(MemorySink):
    def set_state(self, name, text, /, *, if_state):
        if self.state(name) != if_state:
            return False
        time.sleep(0.001)
        self._state[name] = text
        return True


class KeepsOneState(MemorySink):
    def state(self, name, /):
        return self._state.get("")

    def set_state(self, name, text, /, *, if_state):
        self._state[""] = text
        return True


class KeepsStateAmongEntities(MemorySink):
    def state(self, name, /):
        return self.get(f"state of {name}")

    def set_state(self, name, text, /, *, if_state):
        id = f"state of {name}"
        return self.apply(id, Found(text), if_version=self.entry(id).version)


class MistakesStateForAnEntry(MemorySink):
    def entry(self, id, /):
        return Entry(1) if id in self._state else super().entry(id)


class PurgesState(MemorySink):
    def purge(self, **settings):
        self._state.clear()
        return super().purge(**settings)


class PurgesTheYoung(MemorySink):
    def purge(self, *, older_than=0.0):
        before = self._clock() - older_than
        old = [
            id
            for id, row in self._rows.items()
            if not row.entry.present and row.applied_at < before
        ]
        for id in old:
            del self._rows[id]


class PurgesWhatLives(MemorySink):
    def purge(self, **settings):
        super().purge(**settings)
        self._rows = {
            id: row
            for id, row in self._rows.items()
            if row.applied_at > self._clock() - 14 * 24 * 3600.0
        }


class NeverPurges(MemorySink):
    def purge(self, *, older_than=0.0):
        if older_than < 14 * 24 * 3600.0:
            raise ValueError("14 days")


class BeginsAt1(MemorySink):
    def apply(self, id, change, /, *, if_version):
        done = super().apply(id, change, if_version=if_version)
        if done and if_version == 0:
            self._rows[id] = replace(self._rows[id], entry=replace(self._rows[id].entry, version=1))
        return done


class InsertsOverAnything(MemorySink):
    def insert_many(self, found, /):
        return {
            id
            for id, each in found.items()
            if self.apply(id, each, if_version=self.entry(id).version)
        }


class InsertsOverTombstones(MemorySink):
    def insert_many(self, found, /):
        done = super().insert_many(found)
        gone = {id for id in found if not self.entry(id).present}
        for id in gone:
            self.apply(id, found[id], if_version=self.entry(id).version)
        return done | gone


class InsertsAtMost100(MemorySink):
    def insert_many(self, found, /):
        return super().insert_many(dict(list(found.items())[:100]))


class NamesAllAsInserted(MemorySink):
    def insert_many(self, found, /):
        super().insert_many(found)
        return set(found)


class NamesNothingAsInserted(MemorySink):
    def insert_many(self, found, /):
        super().insert_many(found)
        return set()


class InsertsWithoutETags(MemorySink):
    def insert_many(self, found, /):
        return super().insert_many({id: replace(each, etag=None) for id, each in found.items()})


class InsertsWithoutDigests(MemorySink):
    def insert_many(self, found, /):
        return super().insert_many({id: replace(each, digest=None) for id, each in found.items()})


class InsertsAtVersion0(MemorySink):
    def insert_many(self, found, /):
        done = super().insert_many(found)
        for id in done:
            self._rows[id] = replace(self._rows[id], entry=replace(self._rows[id].entry, version=0))
        return done


class InsertsAtVersion1(MemorySink):
    def insert_many(self, found, /):
        done = super().insert_many(found)
        for id in done:
            self._rows[id] = replace(self._rows[id], entry=replace(self._rows[id].entry, version=1))
        return done


class ChecksThenInserts(MemorySink):
    def insert_many(self, found, /):
        new = {id: each for id, each in found.items() if not self.entry(id).version}
        time.sleep(0.001)  # as long as a network
        for id, each in new.items():
            self.apply(id, each, if_version=self.entry(id).version)
        return set(new)


class NeedsSomethingToInsert(MemorySink):
    def insert_many(self, found, /):
        min(found)
        return super().insert_many(found)


class BelievesAPageThatFailed(MemorySink):
    def __init__(self, **settings):
        super().__init__(**settings)
        self._inserted = set()

    def insert_many(self, found, /):
        new = {id: each for id, each in found.items() if id not in self._inserted}
        self._inserted |= set(new)
        if any(type(each.value) is object for each in new.values()):
            raise TypeError("not JSON")
        return super().insert_many(new)


class ReadsTombstones(MemorySink):
    def get_many(self, ids, /):
        return {id: self.get(id) for id in ids if self.entry(id).version}


class ReadsAtMost100(MemorySink):
    def get_many(self, ids, /):
        return super().get_many(ids[:100])


class ReadsWhatWasFirst(MemorySink):
    def __init__(self, **settings):
        super().__init__(**settings)
        self._first = {}

    def get_many(self, ids, /):
        self._first = super().get_many(ids) | self._first
        return {id: self._first[id] for id in ids if id in self._first}


class ReadsIdsWithoutSpaces(MemorySink):
    def get_many(self, ids, /):
        return super().get_many([id.strip() for id in ids])


class NeedsSomethingToRead(MemorySink):
    def get_many(self, ids, /):
        min(ids)
        return super().get_many(ids)


class RefusesAll(MemorySink):
    def apply(self, id, change, /, *, if_version):
        return False


# These break no rule.


class Plain:
    """The smallest possible sink."""

    def __init__(self, **settings):
        sink = MemorySink()
        self.entry = sink.entry
        self.apply = sink.apply


class OwnClock(MemorySink):
    def __init__(self, **settings):
        super().__init__()


class PurgesTheRevived(MemorySink):
    """It notes when an entity was deleted, and does not forget that when it comes again."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self._deleted_at = {}

    def apply(self, id, change, /, *, if_version):
        done = super().apply(id, change, if_version=if_version)
        if done and isinstance(change, Gone):
            self._deleted_at[id] = self._clock()
        return done

    def purge(self, *, older_than=14 * 86_400.0):
        for id, at in self._deleted_at.items():
            if at < self._clock() - older_than:
                self._rows.pop(id, None)


class _ChecksFirst(MemorySink):
    """It compares before it applies such a change, and not at the same time."""

    change = Gone

    def apply(self, id, change, /, *, if_version):
        if isinstance(change, self.change):
            if self.entry(id).version != if_version:
                return False
            time.sleep(0.001)
            if_version = self.entry(id).version
        return super().apply(id, change, if_version=if_version)


class ChecksThenDeletes(_ChecksFirst):
    change = Gone


class ChecksThenTouches(_ChecksFirst):
    change = Unchanged


class NamesOneOfAlike(MemorySink):
    """It goes on after an id by an order that mistakes upper for lower case."""

    def ids(self, *, after=None, limit=1000):
        ids = sorted((id for id, _ in self.items()), key=str.casefold)
        return [id for id in ids if after is None or id.casefold() > after.casefold()][:limit]
