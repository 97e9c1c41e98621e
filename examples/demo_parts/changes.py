"""Draw changes to products, and make them over HTTP from several threads."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import urllib3

from product_service.demo_faults import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable


class Kind(Enum):
    """What a request asks for."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    NONSENSE = "nonsense"


class Fault(Enum):
    """What happens to a save between its broadcast and its commit."""

    NONE = "none"
    FAIL = "fail"
    SLOW = "slow"


MIX = {
    (Kind.UPDATE, Fault.NONE): 48,
    (Kind.UPDATE, Fault.FAIL): 7,
    (Kind.UPDATE, Fault.SLOW): 9,
    (Kind.CREATE, Fault.NONE): 5,
    (Kind.CREATE, Fault.FAIL): 4,
    (Kind.CREATE, Fault.SLOW): 3,
    (Kind.DELETE, Fault.NONE): 5,
    (Kind.DELETE, Fault.FAIL): 2,
    (Kind.DELETE, Fault.SLOW): 2,
    (Kind.NONSENSE, Fault.NONE): 15,
}
"""How many of a hundred changes are of each sort."""

HOSTS = ("images.example.com", "cdn.example.net", "static.example.org")

NONSENSE: tuple[tuple[str, str, object], ...] = (
    ("POST", "/products", {"name": "no image"}),
    ("POST", "/products", {"name": "", "imageURL": "https://images.example.com/1.png"}),
    ("POST", "/products", {"name": "no URL", "imageURL": "images/1.png"}),
    ("PATCH", "/products/{id}", [{"op": "remove", "path": "/name"}]),
    ("PATCH", "/products/{id}", [{"op": "replace", "path": "/price/amount", "value": 1}]),
    ("PATCH", "/products/{id}", [{"op": "replace", "path": "/lastModified", "value": "tomorrow"}]),
    ("PATCH", "/products/nobody", [{"op": "replace", "path": "/name", "value": "nobody's"}]),
    ("DELETE", "/products/nobody", None),
)
"""Refused requests: not valid, not applicable, or for a product that never existed."""


class UnexpectedAnswerError(Exception):
    """The product service answered what it should not."""


@dataclass(frozen=True, slots=True)
class Change:
    """
    A change to make.

    Attributes:
        number: Its place in the plan.
        kind: What it asks for.
        fault: What happens to its save.
        delay: How long a slow save takes, in seconds.
        pick: Which of the products that exist by then, from 0 to 1.
    """

    number: int
    kind: Kind
    fault: Fault
    delay: float
    pick: float

    def request(self, id: str) -> tuple[str, str, object]:
        """Return method, path and body, for the product picked."""
        image = f"https://{HOSTS[self.number % len(HOSTS)]}/{self.number}.png"
        if self.kind is Kind.CREATE:
            return "POST", "/products", {"name": f"product {self.number}", "imageURL": image}
        if self.kind is Kind.UPDATE:
            path, value = (
                ("/imageURL", image) if self.pick < 0.5 else ("/name", f"renamed by {self.number}")
            )
            return "PATCH", f"/products/{id}", [{"op": "replace", "path": path, "value": value}]
        if self.kind is Kind.DELETE:
            return "DELETE", f"/products/{id}", None
        method, path, body = NONSENSE[self.number % len(NONSENSE)]
        return method, path.replace("{id}", id), body

    def headers(self) -> dict[str, str]:
        """Return the request's headers."""
        content_type = (
            "application/json-patch+json"
            if self.kind in {Kind.UPDATE, Kind.NONSENSE}
            else "application/json"
        )
        faults = {Fault.NONE: "", Fault.FAIL: "fail", Fault.SLOW: f"slow={self.delay:.3f}"}
        return {"Content-Type": content_type, HEADER: faults[self.fault]}

    def expected(self) -> set[int]:
        """Return the right statuses; 409 and 410 if another thread changed the product first."""
        if self.kind is Kind.NONSENSE:
            return {404, 410, 422}
        if self.fault is Fault.FAIL:
            return {500, 410}
        return {201 if self.kind is Kind.CREATE else 200, 409, 410}


def stock(count: int) -> list[Change]:
    """Return changes that make so many products."""
    return [Change(number, Kind.CREATE, Fault.NONE, 0.0, 0.0) for number in range(count)]


def plan(seed: int, count: int, *, slowest: float) -> list[Change]:
    """
    Draw a mix of changes.

    Args:
        seed: The same seed draws the same changes.
        count: How many changes to draw.
        slowest: How long the slowest save takes, in seconds.
    """
    rng = random.Random(seed)  # noqa: S311  # no secret
    sorts = rng.choices(list(MIX), weights=list(MIX.values()), k=count)
    return [
        Change(number, kind, fault, rng.uniform(slowest / 3, slowest), rng.random())
        for number, (kind, fault) in enumerate(sorts)
    ]


@dataclass(frozen=True, slots=True)
class Saved:
    """
    A change that was committed.

    Attributes:
        id: The product's id.
        last_modified: The version that the change made; the time just before the commit.
        deleted: True if the change was to delete the product.
    """

    id: str
    last_modified: str
    deleted: bool


class Driver:
    """
    Makes the changes from several threads, and counts their results.

    Attributes:
        total: How many changes to make.
        tally: How many were `saved`, and how many of these were `slow`; how many `failed` or met a
            `conflict` after their broadcast, and how many were `rejected` before it.
        saved: The changes that were committed.
        ids: The products that exist.
        longest: Seconds that the slowest request took.
    """

    def __init__(
        self, url: str, changes: list[Change], *, ids: Iterable[str] = (), threads: int
    ) -> None:
        self.total = len(changes)
        self.tally: Counter[str] = Counter()
        self.saved: list[Saved] = []
        self.ids = list(ids)
        self.longest = 0.0
        self._url = url
        self._threads = threads
        self._pool = urllib3.PoolManager(maxsize=threads, retries=False, timeout=30)
        self._changes = iter(changes)
        self._errors: list[Exception] = []
        self._lock = threading.Lock()

    @property
    def made(self) -> int:
        """How many changes have been made."""
        return sum(self.tally[result] for result in ("saved", "failed", "conflict", "rejected"))

    @property
    def broadcasts(self) -> int:
        """How many changes have been announced: all that reached the save."""
        return sum(self.tally[result] for result in ("saved", "failed", "conflict"))

    def run(self) -> None:
        """
        Make all changes.

        Raises:
            UnexpectedAnswerError: The service answered what it should not.
            urllib3.exceptions.HTTPError: It did not answer.
        """
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _work(self) -> None:
        while not self._errors and (task := self._next()) is not None:
            try:
                self._make(*task)
            except Exception as error:  # run() raises it in the caller's thread
                self._errors.append(error)

    def _next(self) -> tuple[Change, str] | None:
        """Take the next change and pick its product. No other change picks it if it is deleted."""
        with self._lock:
            change = next(self._changes, None)
            if change is None:
                return None
            if not self.ids:
                return change, "nobody"
            index = int(change.pick * len(self.ids))
            return change, self.ids.pop(index) if change.kind is Kind.DELETE else self.ids[index]

    def _make(self, change: Change, id: str) -> None:
        method, path, body = change.request(id)
        started = time.monotonic()
        response = self._pool.request(
            method, self._url + path, body=json.dumps(body), headers=change.headers()
        )
        took = time.monotonic() - started
        if response.status not in change.expected():
            raise UnexpectedAnswerError(
                f"{method} {path} answered {response.status}: {response.data[:200]!r}"
            )
        with self._lock:
            self.longest = max(self.longest, took)
            self._count(change, id, response.status, response.json())

    def _count(self, change: Change, id: str, status: int, body: Any) -> None:
        if status in {200, 201}:
            self.tally["saved"] += 1
            self.tally["slow"] += change.fault is Fault.SLOW
            self.saved.append(Saved(body["id"], body["lastModified"], change.kind is Kind.DELETE))
        else:
            self.tally[{500: "failed", 409: "conflict"}.get(status, "rejected")] += 1
        if status == 201:
            self.ids.append(body["id"])
        elif change.kind is Kind.DELETE and status in {409, 500}:
            self.ids.append(id)  # it is still there
