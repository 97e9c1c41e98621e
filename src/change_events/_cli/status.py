"""`change-events status`: what the health endpoint says, and what the sink's state has."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from change_events._cli.app import load_app
from change_events._cli.options import app_argument, json_option, processes_option
from change_events._cli.problems import FOUND, Unfinished
from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from change_events._worker import Worker

TIMEOUT = 5.0
"""Seconds that an endpoint has for its answer. It closes a connection after as many."""

ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # not listened on
"""Hosts that listen everywhere, and where to ask them."""

ROWS = (
    "alive",
    "ready",
    "paused",
    "last_poll",
    "oldest_held",
    "held",
    "prefetch",
    "in_flight",
    "get_limit",
    "synced",
    "audit_stale",
)
"""The fields of `Health`, in the table's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """
    A health endpoint that was asked.

    Attributes:
        address: Host and port.
        health: What it answered; None: it did not.
        error: Why not.
    """

    address: str
    health: Mapping[str, Any] | None = None
    error: str | None = None

    @property
    def ready(self) -> bool:
        """True if the process is ready."""
        return self.health is not None and self.health.get("ready") is True


@click.command()
@app_argument
@processes_option("How many processes the worker has. Each has a port of its own.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, app: str, processes: int, as_json: bool) -> None:
    """
    Show whether a worker is alive and ready, and what was done to its cache.

    \b
      change-events status shop.cache:worker

    Asks the worker's health_address on this machine, and reads the sink's state: the backfill, the
    last audit, the worker's own audit, and the guard against mass deletion.

    Exit status: 1 if a process does not answer, or is not ready.
    """
    worker = load_app(app, in_memory=True)
    asked = ask(worker, processes)
    state = state_of(worker.sink)
    if as_json:
        health = [
            {"address": each.address, "health": each.health, "error": each.error} for each in asked
        ]
        click.echo(json.dumps({"processes": health, **(state or {})}, indent=2))
    else:
        _print(worker, asked, state)
    if not all(each.ready for each in asked):
        ctx.exit(FOUND)


def ask(worker: Worker[Any], processes: int) -> list[Asked]:
    """Ask the health endpoint of each process; of none, if the worker has no `health_address`."""
    if worker.health_address is None:
        return []
    host, port = worker.health_address
    return [_ask(ANYWHERE.get(host, host), port + number) for number in range(processes)]


def _ask(host: str, port: int) -> Asked:
    import urllib3

    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/readyz"
    address = url.removeprefix("http://").removesuffix("/readyz")
    try:
        with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as pool:
            health = pool.request("GET", url).json()
        if not isinstance(health, dict) or "alive" not in health:
            raise ValueError("another program answers")
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        return Asked(address=address, error=_why(error))
    return Asked(address=address, health=health)


def _why(error: Exception) -> str:
    if isinstance(error.__cause__ or error.__context__, ConnectionRefusedError):
        return "nothing listens there"
    return printable(error, 200)


def state_of(sink: object) -> dict[str, Any] | None:
    """
    Return what the sink's state says about the cache; None if the sink keeps none.

    Raises:
        Unfinished: The sink does not answer.
    """
    from change_events._operations.state import loaded
    from change_events.typing import StatefulSink

    if not isinstance(sink, StatefulSink):
        return None
    try:
        backfill, control, audit, own, guard = (
            loaded(sink.state(name))
            for name in ("backfill", "backfill control", "audit", "worker audit", "guard")
        )
    except Exception as error:  # of the database's driver, whichever it is
        raise Unfinished(f"{type(sink).__name__} does not answer: {printable(error)}") from error
    return {
        "backfill": {**backfill, **control} or None,
        "audit": audit or None,
        "worker_audit": own or None,
        "guard": guard or None,
    }


def _print(worker: Worker[Any], asked: list[Asked], state: Mapping[str, Any] | None) -> None:
    rows = list(_rows(worker, asked, state))
    if sys.stdout is None or not sys.stdout.isatty():  # a row must stay one line, however long
        for name, value in rows:
            click.echo(f"{name:10}{value}")
        return
    table = Table(box=box.SIMPLE, show_header=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def _rows(
    worker: Worker[Any], asked: list[Asked], state: Mapping[str, Any] | None
) -> Iterator[tuple[str, str]]:
    yield "queue", printable(worker.queue_url)
    yield "sink", type(worker.sink).__name__
    if not asked:
        yield "health", "not known: the worker has no health_address"
    for each in asked:
        yield "health", _health(each)
    if state is None:
        yield "state", "the sink keeps none: no backfill, no audit, and a guard of each process"
        return
    yield "backfill", _told(_backfill, state["backfill"])
    yield "audit", _told(_audit, state["audit"])
    if state["worker_audit"] or worker.audit_per_minute is not None:
        yield "own audit", _told(_own_audit, state["worker_audit"])
    yield "guard", _guard(state["guard"], worker)


def _told(tell: Callable[[Mapping[str, Any] | None], str], state: Mapping[str, Any] | None) -> str:
    try:
        return tell(state)
    except (AttributeError, KeyError, TypeError, ValueError):
        return "can't be read: another version has stored it, or somebody has changed it"


def _health(asked: Asked) -> str:
    if asked.health is None:
        return f"{asked.address}: does not answer: {asked.error}"
    told = ", ".join(
        f"{name.replace('_', ' ')} {_value(name, asked.health[name])}"
        for name in ROWS
        if asked.health.get(name) is not None
    )
    return f"{asked.address}: {told}"


def _value(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if name == "get_limit" else f"{value:.1f} s"
    return printable(value)


def _backfill(state: Mapping[str, Any] | None) -> str:
    if not state or "phase" not in state:
        return "none" + _asked_for(state or {})
    total = f" of {state['total']:,}" if state.get("total") else ""
    failed = f", {state['failed']:,} failed" if state.get("failed") else ""
    owner = state.get("owner") or {}
    by = f"; process {owner.get('pid')} on {owner.get('host')}" if owner else ""
    phase = "complete" if state["phase"] == "done" else state["phase"]
    idle = "" if owner or state["phase"] == "done" else "; nobody works on it"
    return printable(
        f"{phase}: {state['listed']:,}{total} ids listed, {state['stored']:,} stored{failed}"
        f"{by}{idle}{_asked_for(state)}"
    )


def _asked_for(state: Mapping[str, Any]) -> str:
    paused = "; paused" if state.get("paused") else ""
    rate = f"; at most {state['rate']:g} GETs a second" if state.get("rate") else ""
    return paused + rate


def _audit(state: Mapping[str, Any] | None) -> str:
    if not state:
        return "none"
    clean = state.get("last_clean")
    return (
        f"{_ago(state['ended'])}: {state['compared']:,} compared, {state['stale']:,} stale, "
        f"{state['undecided']:,} undecided; last clean: {_ago(clean) if clean else 'never'}"
    )


def _own_audit(state: Mapping[str, Any] | None) -> str:
    if not state:
        return "not begun"
    clean = state["last_clean"]
    return (
        f"{len(state['stale']):,} stale; {state['compared']:,} compared in this pass; last clean "
        f"pass: {_ago(clean) if clean else 'never'}"
    )


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"


def _guard(state: Mapping[str, Any] | None, worker: Worker[Any]) -> str:
    if worker.allow_mass_deletion:
        return "off: allow_mass_deletion=True"
    gone = str((state or {}).get("gone", ""))
    allowed = "; deletions are allowed by resume" if (state or {}).get("believes") else ""
    return f"{gone.count('1')} of the last {len(gone)} looks saw a cached entity gone{allowed}"
