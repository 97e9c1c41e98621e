"""What our commands have in common: Ctrl-C, stories in the help, some options."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def status_of(work: Callable[[], int]) -> int:
    """
    Do a command's work; return its exit status, or 130 after Ctrl-C, as shells do.

    SIGINT is heeded even if it was ignored at the start, as it is in a shell's background job.
    SIGTERM does the same, because children would outlive a command that it ended at once.
    """
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return work()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    finally:  # for tests, which call a command in their own process
        for number, handler in before.items():
            signal.signal(number, handler)


def story_of(function: Callable[..., object]) -> str:
    """Return a function's docstring on one line."""
    return " ".join((function.__doc__ or "").split())


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the option `--processes`."""
    parser.add_argument(
        "--processes", type=int, default=2, help="how many processes to use (default: 2)"
    )


def add_worlds(parser: argparse.ArgumentParser, *, writes: int) -> None:
    """Add the options that say which worlds to play; `writes` is the default for one world."""
    parser.add_argument(
        "--first-seed", type=int, default=0, metavar="N", help="the first world's seed (default: 0)"
    )
    parser.add_argument(
        "--world",
        type=int,
        default=writes,
        metavar="WRITES",
        help=f"writes in one world (default: {writes:_})",
    )
