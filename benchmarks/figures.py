"""Print what the library costs a service: per call, at import, on disk. Run it as `make figures`."""

from __future__ import annotations

import compileall
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from change_events import SNSPublisher, broadcasts_before_save

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[1]
TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"


class Client:
    """Answers like SNS, in no time, so that what is left is our own."""

    def publish(self, **_: Any) -> dict[str, str]:
        return {"MessageId": "m"}


class Repository:
    client = Client()
    publisher = SNSPublisher(TOPIC, client=client)

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, str]] = {}

    def save_by_hand(self, product: dict[str, str]) -> None:
        self.client.publish(TopicArn=TOPIC, Message=json.dumps({"id": product["id"]}))
        self.rows[product["id"]] = product

    @broadcasts_before_save(publisher, id="product.id")
    def save(self, product: dict[str, str]) -> None:
        self.rows[product["id"]] = product


def microseconds_per_call(save: Callable[[dict[str, str]], None], calls: int = 5_000) -> float:
    product = {"id": "0191d3c4-0000-7000-8000-000000000000"}
    started = time.perf_counter()
    for _ in range(calls):
        save(product)
    return (time.perf_counter() - started) / calls * 1e6


def decorator_overhead() -> None:
    repository = Repository()
    pairs = [(microseconds_per_call(repository.save_by_hand), microseconds_per_call(repository.save)) for _ in range(15)]
    overhead = statistics.median(decorated - by_hand for by_hand, decorated in pairs)
    by_hand = statistics.median(pair[0] for pair in pairs)
    print(f"decorator   {overhead:6.1f} µs a call over the same publish and save by hand ({by_hand:.1f} µs); goal 25")


def milliseconds(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return (time.perf_counter() - started) * 1e3


def import_times() -> None:
    compileall.compile_dir(ROOT / "src", quiet=1)  # as an installed package is
    for statement, goal in [
        ("import change_events", "; goal 40"),
        ("from change_events import SNSPublisher, broadcasts_before_save", ""),
        ("from change_events import HTTPFetcher, SQLiteSink, Worker", ""),
    ]:
        milliseconds(statement)
        pairs = [(milliseconds("pass"), milliseconds(statement)) for _ in range(15)]
        print(f"import      {statistics.median(b - a for a, b in pairs):6.1f} ms on top of python -c pass: {statement}{goal}")


def distributions(python: Path) -> set[str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True).stdout
    return {distribution["name"] for distribution in json.loads(listed)}


def added_distributions() -> None:
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory, "bin", "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "boto3"], check=True)
        before = distributions(python)
        subprocess.run([*install, ROOT], check=True)
        added = sorted(distributions(python) - before)
    print(f"install     {len(added)} distribution(s) on top of boto3's {len(before)}: {', '.join(added)}; goal 2")


if __name__ == "__main__":
    decorator_overhead()
    import_times()
    added_distributions()
