"""Finds the `Worker` that a user names."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import re
import sys
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from change_events._cli.problems import Mistake
from change_events._consumer.log import log
from change_events._text import with_type

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from change_events._worker import Worker

LIKE = "like shop.cache:worker"

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""How APP is written."""


def load_app(
    name: str,
    *,
    level: int = logging.WARNING,
    in_memory: bool = False,
    prints: bool = False,
) -> Worker[Any]:
    """
    Import the worker that `module:attribute` names.

    Args:
        name: The name.
        level: What the library logs from this level on is shown on stderr, unless the module sets
            up logging itself.
        in_memory: Accept a cache in memory, although this process has just made it, and it ends
            with this process.
        prints: The module's stdout is the command's. Otherwise it is stderr, because stdout is for
            the result.

    Raises:
        Mistake: There is no such worker, or its cache is not that of any other process.
    """
    from change_events._worker import Worker

    is_new = name.partition(":")[0] not in sys.modules
    worker = load(name, level=level, prints=prints)
    if isinstance(worker, Worker):
        if is_new and not in_memory and _is_in_memory(worker.sink):
            raise Mistake(
                f"the cache of {name} is in memory, so each process has its own, and this command "
                "would work on an empty one. Use a sink that keeps it, like "
                'SQLiteSink("products.db")'
            )
        return worker
    what = f"the class {worker.__name__}" if isinstance(worker, type) else type(worker).__name__
    raise Mistake(f"{name} must be a change_events.Worker, and is {_article(what)}")


def load(
    name: str, *, what: str = "APP", level: int = logging.WARNING, prints: bool = False
) -> object:
    """Import what `module:attribute` names; see `load_app`. `what`: The argument's name."""
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise Mistake(f"{what} must be module:attribute, {LIKE}, not {name!r}")
    with nullcontext() if prints else redirect_stdout(sys.stderr):
        module = _imported(module_name)
    show_logs(level)
    if not hasattr(module, attribute):
        raise Mistake(f"{module_name} has no {attribute!r}{_near(module, attribute)}")
    found: object = getattr(module, attribute)
    return found


def show_logs(level: int) -> None:
    """Show what the library logs on stderr, unless somebody has set up logging."""
    if not log.hasHandlers():
        handler = Echo()
        handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(level)


class Echo(logging.Handler):
    """Prints to what stderr is at the time: beside a progress bar that is another one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record."""
        try:
            click.echo(self.format(record), err=True)
        except Exception:
            self.handleError(record)


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with _no_run(name):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise Mistake(
                f"there is no module {error.name!r}, neither in {here} nor installed"
            ) from None
        raise Mistake(f"{name} can't be imported: {_shown(error)}") from None
    except (KeyboardInterrupt, Mistake):
        raise
    except BaseException as error:  # a module can call sys.exit()
        raise Mistake(f"{name} can't be imported: {_shown(error)}") from None


@contextmanager
def _no_run(name: str) -> Iterator[None]:
    """Refuse to run a worker while its module is imported: the command would get no further."""
    from change_events._worker import Worker

    def refuse(_: object) -> None:
        raise Mistake(
            f"{name} runs a worker when it is imported: call run() below "
            'if __name__ == "__main__", or leave it to `change-events worker`'
        )

    run = Worker.run
    setattr(Worker, "run", refuse)  # noqa: B010  # to a type checker, methods are constants
    try:
        yield
    finally:
        setattr(Worker, "run", run)  # noqa: B010


def _shown(error: BaseException) -> str:
    """Return the last line of the error's traceback, and where the user's code raised it."""
    return f"{with_type(error)}{_place(error)}"


def _place(error: BaseException) -> str:
    """Return the line of the innermost file that is neither installed nor the import system's."""
    place, traceback = "", error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if Path(file).is_relative_to(Path.cwd()):
            place = f" ({os.path.relpath(file)}, line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    return place


def _is_in_memory(sink: object) -> bool:
    from change_events.sinks.memory import MemorySink
    from change_events.sinks.sqlite import SQLiteSink

    return isinstance(sink, MemorySink) or (isinstance(sink, SQLiteSink) and sink.in_memory)


def _near(module: ModuleType, attribute: str) -> str:
    """Return what the user can have meant: the module's workers, or what is written alike."""
    from change_events._worker import Worker

    workers = [name for name, value in vars(module).items() if isinstance(value, Worker)]
    names = workers or difflib.get_close_matches(attribute, dir(module))
    return f"; did you mean {' or '.join(f'{module.__name__}:{each}' for each in names)}?" * bool(
        names
    )


def _article(what: str) -> str:
    if what.startswith("the "):
        return what
    return f"{'an' if what[:1].lower() in 'aeiou' else 'a'} {what}"


def split_app(
    ctx: click.Context, arguments: Sequence[str], *, least: int
) -> tuple[str, Sequence[str]]:
    """
    Return APP and the ids that follow it.

    If the environment names APP, the first argument is APP only if it is written so.

    Raises:
        click.UsageError: APP is missing, or there are less than `least` ids.
    """
    app = os.environ.get("CHANGE_EVENTS_APP")
    if arguments and (not app or NAME.fullmatch(arguments[0])):
        app, *arguments = arguments
    if not app:
        raise click.UsageError("Missing argument 'APP'.", ctx)
    if len(arguments) < least:
        raise click.UsageError(
            f"Missing argument 'ID'. {app!r} is APP, because it is written module:attribute; if it "
            "is an id, name APP first.",
            ctx,
        )
    return app, arguments
