"""What a user is told when something goes wrong, and the exit status."""

from __future__ import annotations

import signal
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from change_events._aws import could_be_credentials
from change_events._text import printable
from change_events.exceptions import (
    AlreadyRunningError,
    ChangeEventsError,
    FetchError,
    MassDeletionError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

FOUND, MISTAKE, UNFINISHED, BUG = 1, 2, 3, 70
"""Exit statuses. 70 is `EX_SOFTWARE` of BSD's sysexits.h."""

DATABASES = {"psycopg", "psycopg_pool", "redis", "sqlalchemy", "sqlite3"}
"""Packages whose errors come from a sink."""

ISSUES = "https://github.com/change-events/change-events/issues"


class Mistake(click.ClickException):
    """Something that the user can set right. Nothing was begun."""

    exit_code = MISTAKE


class Unfinished(click.ClickException):
    """What was begun could not be finished. Another try can succeed."""

    exit_code = UNFINISHED


class Terminated(KeyboardInterrupt):
    """SIGTERM came. It ends what Ctrl-C ends."""


@contextmanager
def explained(ctx: click.Context) -> Iterator[None]:
    """Turn errors of the block into a sentence and an exit status; show the traceback of a bug."""
    try:
        with _sigterm_interrupts():
            yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except BrokenPipeError:  # `head` has read enough; click ends quietly, with status 1
        raise
    except KeyboardInterrupt as error:
        ctx.exit(status_of(error))
    except Exception as error:
        if (problem := problem_of(error)) is not None:
            raise problem from None
        click.echo(traceback.format_exc(), nl=False, err=True)
        click.echo(f"This is a bug: please open an issue with the above at {ISSUES}", err=True)
        ctx.exit(BUG)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, unless somebody handles it."""
    theirs = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if theirs or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: object) -> None:
    del number, frame
    raise Terminated


def status_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status, as a shell counts it: 128 and the signal's number."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def problem_of(error: Exception) -> click.ClickException | None:
    """Return what to tell the user; None: the error is a bug."""
    if isinstance(error, (AlreadyRunningError, FetchError, MassDeletionError)):
        is_refusal = isinstance(error, MassDeletionError)
        hint = ". The command for that is `change-events resume`" if is_refusal else ""
        return Unfinished(f"{printable(error)}{hint}")
    if isinstance(error, ChangeEventsError):
        return Mistake(printable(error))
    if type(error).__module__.partition(".")[0] in DATABASES:
        return Unfinished(f"the sink's database: {printable(error)}")
    if is_aws(error):
        kind = Mistake if could_be_credentials(error) else Unfinished
        return kind(f"AWS: {printable(error)}")
    if isinstance(error, OSError):  # a full disk, behind stdout, for example
        return Unfinished(printable(error))
    return None


def is_aws(error: Exception) -> bool:
    """Return whether boto3 raised the error."""
    from botocore.exceptions import BotoCoreError, ClientError

    return isinstance(error, (BotoCoreError, ClientError))
