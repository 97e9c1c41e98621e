"""The worker, run like in a service. What the benchmark does not set has its default."""

from __future__ import annotations

from change_events import HTTPFetcher, SQLiteSink, Worker
from verification.benchmarks.contenders.work import told


def main() -> None:
    """Consume until the process is ended."""
    work = told()
    bulk_url = f"{work.source}/products" if work.more.pop("bulk", False) else None
    worker = Worker(
        work.queue_url,
        fetcher=HTTPFetcher(f"{work.source}/products/{{id}}", bulk_url=bulk_url),
        sink=SQLiteSink(work.path),
        threads=work.threads,
        **work.more,
    )
    worker.run()


if __name__ == "__main__":
    main()
