"""`change-events worker`: runs a worker, in one process or in several."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from change_events._cli.app import load_app
from change_events._cli.options import app_argument, option, processes_option

if TYPE_CHECKING:
    from change_events._worker import Worker

LEVELS = ("debug", "info", "warning", "error")


@click.command()
@app_argument
@processes_option("How many processes to run.")
@option("--drain", is_flag=True, help="End once the queue is empty and nothing is held.")
@option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="info",
    help="What the library logs to stderr, unless the module of APP sets up logging.",
)
@click.option("--child", type=int, hidden=True, allow_from_autoenv=False)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    app: str,
    processes: int,
    drain: bool,
    log_level: str,
    child: int | None,
) -> None:
    """
    Run the worker until SIGTERM or Ctrl-C.

    \b
      change-events worker shop.cache:worker --processes 4

    A first signal stops it in good order, a second one gives back at once what is held; both end
    with status 0. SIGUSR1 is resume.

    With --processes it starts so many, passes signals on to them, and restarts each one that dies,
    after pauses that grow to half a minute. A third signal kills them. The first process must start
    before the others do; if it can't, the command ends. If the worker has a health_address, the
    second process listens on the next port, the third one on the port after that, and so on.

    With --drain it ends once the queue is empty: for cron and tests. It does not serve health then.
    """
    if child is not None:
        from change_events._cli.child import follow_parent

        following = follow_parent()
        # Of several, each would have a cache of its own, and get a part of the events.
        worker = load_app(app, level=_level(log_level), prints=True)
        _move_port(worker, child)
        following.worker = worker
    elif processes > 1:
        from change_events._cli.processes import Processes

        ctx.exit(
            Processes(
                lambda number: _child_command(app, number, drain=drain, log_level=log_level),
                processes,
                once=drain,
            ).run()
        )
    else:
        worker = load_app(app, level=_level(log_level), in_memory=True, prints=True)
    if drain:
        click.echo(f"{worker.drain():,} messages acknowledged")
    else:
        worker.run()


def _level(name: str) -> int:
    return int(getattr(logging, name.upper()))


def _child_command(app: str, number: int, *, drain: bool, log_level: str) -> list[str]:
    options = ["--child", str(number), "--log-level", log_level, *(["--drain"] * drain)]
    return [sys.executable, "-m", "change_events", "worker", *options, app]


def _move_port(worker: Worker[Any], number: int) -> None:
    """Let each process serve health on a port of its own: two can't listen on one."""
    if worker.health_address is not None:
        host, port = worker.health_address
        # Settings are frozen for users. This worker has not begun to run.
        object.__setattr__(worker, "health_address", (host, port and port + number))
