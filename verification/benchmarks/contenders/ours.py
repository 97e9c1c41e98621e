"""The worker, run like in a service. What the benchmark does not set has its default."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

from change_events import HTTPFetcher, SQLiteSink, Worker
from change_events._consumer import desk
from change_events._consumer.limit import Limit
from verification.benchmarks.contenders.work import told


def main() -> None:
    """Consume until the process is ended."""
    work = told()
    if work.more.pop("fixed", False):
        setattr(desk, "Limit", Limit.fixed)  # noqa: B010  # what the limit is compared with
    bulk_url = f"{work.source}/products" if work.more.pop("bulk", False) else None
    counts = work.more.pop("counts", None)
    worker = Worker(
        work.queue_url,
        fetcher=HTTPFetcher(f"{work.source}/products/{{id}}", bulk_url=bulk_url),
        sink=SQLiteSink(work.path),
        threads=work.threads,
        **work.more,
    )
    if counts is not None:
        threading.Thread(target=write_counts, args=(worker, Path(counts)), daemon=True).start()
    worker.run()


def write_counts(worker: Worker[Any], path: Path) -> None:
    """Write what the worker has done into a file, four times a second."""
    fresh = path.with_suffix(".new")
    while True:
        fresh.write_text(json.dumps(dataclasses.asdict(worker.stats())), encoding="utf-8")
        fresh.replace(path)
        time.sleep(0.25)


if __name__ == "__main__":
    main()
