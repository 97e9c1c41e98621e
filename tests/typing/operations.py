"""Checked by mypy and pyright, never run: looks by hand, audits, and a redrive."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from typing_extensions import assert_type

from change_events import (
    Audit,
    AuditReport,
    HTTPFetcher,
    MemorySink,
    Outcome,
    RedriveProgress,
    RedriveReport,
    Worker,
    redrive,
    refresh,
)

products: MemorySink[dict[str, Any]] = MemorySink()
numbers: MemorySink[int] = MemorySink()
fetcher = HTTPFetcher("https://products.example.com/products/{id}")

assert_type(fetcher.timeout, float)
assert_type(fetcher.answer("p1").status, int)

assert_type(refresh("p1", fetcher=fetcher, sink=products), Outcome)
refresh(7, fetcher=fetcher, sink=products, allow_mass_deletion=True)
refresh(1.5, fetcher=fetcher, sink=products)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no id
refresh("p1", fetcher=fetcher, sink=numbers)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]  # numbers are not objects


def by_a_worker(worker: Worker[dict[str, Any]], id: UUID) -> None:
    assert_type(worker.refresh(id), Outcome)


def with_an_audit(queue_url: str) -> None:
    worker = Worker(queue_url, fetcher=fetcher, sink=products, audit_per_minute=10)
    assert_type(worker.audit_per_minute, float | None)
    assert_type(worker.health().audit_stale, int | None)
    assert_type(worker.health().last_clean_audit, float | None)
    assert_type(worker.health().since_loss, float | None)
    assert_type(worker.stats().audit_compared, int)
    Worker(queue_url, fetcher=fetcher, sink=products, audit_per_minute=0.5, audit_min_age=300.0)
    Worker(queue_url, fetcher=fetcher, sink=products, audit_per_minute="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number


def tell(progress: RedriveProgress) -> None:
    assert_type(progress.letters, int)


report = redrive("https://...", fetcher=fetcher, sink=products, limit=10, on_progress=tell)
assert_type(report, RedriveReport)
assert_type(report.stopped, Exception | None)
report.kept = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # frozen
redrive("https://...", fetcher=fetcher, sink=numbers)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]  # numbers are not objects


def audited() -> None:
    audit = Audit(["p1"], fetcher=fetcher, sink=products, min_age=300.0)
    Audit([("p1", {"id": "p1"})], fetcher=fetcher, sink=products)
    report = audit.run(sample=1000)
    assert_type(report, AuditReport)
    assert_type(report.clean, bool)
    assert_type(report.repair().outcomes, Mapping[Outcome, int])
    assert_type(report.rates["stale_1_minute"].bound, float)
    audit.run(1000)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # sample= is a keyword
