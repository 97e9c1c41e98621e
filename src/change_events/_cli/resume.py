"""`change-events resume`: the entities are meant to be gone."""

from __future__ import annotations

import json
import threading

import click

from change_events._cli.app import load_app
from change_events._cli.options import app_argument, json_option, option, processes_option
from change_events._cli.problems import FOUND, Mistake
from change_events._cli.status import ask, state_of
from change_events._consumer.deletions import Deletions
from change_events._consumer.health import MASS_DELETION
from change_events._consumer.settings import make_guard


@click.command()
@app_argument
@processes_option("How many processes the worker has, to ask them whether they refuse deletions.")
@option("--force", is_flag=True, help="Allow deletions although none is known to be refused.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, *, app: str, processes: int, force: bool, as_json: bool) -> None:
    """
    Go on after a refused mass deletion.

    \b
      change-events resume shop.cache:worker

    The entities are meant to be gone. It tells all processes of the cache, through the sink's
    state: workers learn of it within a minute. Deletions are then believed until there are no
    longer too many in the last hundred looks. If nothing can have been refused, because fewer than
    five of these looks saw an entity gone, it changes nothing.

    Exit status: 1 if nothing can have been refused.
    """
    worker = load_app(app)
    if state_of(worker.sink) is None:
        raise Mistake(
            f"{type(worker.sink).__name__} keeps no state, so other processes can't be told there. "
            "Send SIGUSR1 to each worker process, or call Worker.resume() in it"
        )
    if worker.allow_mass_deletion:
        raise Mistake("this worker refuses no deletion: it has allow_mass_deletion=True")
    guard = make_guard(worker)
    deletions = Deletions(guard, worker.sink, worker.fetcher, lock=threading.Lock())
    deletions.learn()
    gone = guard.gone
    paused = [each.health.get("paused") for each in ask(worker, processes) if each.health]
    resumed = force or guard.can_have_refused or any(MASS_DELETION in str(each) for each in paused)
    if resumed:
        guard.allow()
        deletions.keep()
    if as_json:
        click.echo(json.dumps({"resumed": resumed, "gone": gone}))
    elif resumed:
        click.echo("resumed: deletions are believed; running workers learn of it within a minute")
    else:
        click.echo("nothing was refused, so nothing is changed (--force allows deletions)")
    if not resumed:
        ctx.exit(FOUND)
