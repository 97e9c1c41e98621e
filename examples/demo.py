"""See change-events at work, over the wire, in under a minute: `python examples/demo.py --help`."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DESCRIPTION = """\
See change-events at work, over the wire, in under a minute.

Starts, on loopback and free ports, each as a process of its own:

  - an emulator of AWS (moto), and in it the topic and the queues of this
    package's CloudFormation templates;
  - a product service, which broadcasts a product's id before it saves. It has
    products already: their events were sent before anybody had a queue;
  - two downstream services, each with a cache of the products. Its worker fills
    the cache from the service's list of products, and keeps it in step.
    'early look' has a queue without delay: it looks at a product as soon as an
    event arrives, and again when the save must be over. 'one look' has a queue
    with a delay, and looks only then.

At once it changes products from several threads. Some changes are invalid: they
must broadcast nothing. Some saves fail after their broadcast. Some take so long
that an early look still finds the old state. The caches must come out right.

In the end it audits both caches: it compares them with the source, product by
product.
"""

EPILOG = """\
exit status: 0 if both caches equal the source and all other findings are right,
1 if not, 130 if stopped. Ctrl-C leaves no process behind.
"""


def main() -> int:
    """Run the demo; return the exit status."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    arguments = _parser().parse_args()

    # Not imported above: it takes a second, and Ctrl-C should already work then.
    from rich.console import Console

    from demo_parts.processes import Children
    from demo_parts.screen import Screen
    from demo_parts.story import Settings, Story

    screen = Screen(Console())
    screen.say(f"seed {arguments.seed}: --seed {arguments.seed} draws the same changes again")
    with tempfile.TemporaryDirectory(prefix="change-events-demo-") as directory:
        children = Children(Path(directory), path=Path(__file__).parent)
        story = Story(Settings(**vars(arguments)), children, Path(directory))
        # The story has its own thread; signals and the screen are here. So a signal interrupts no
        # step of the story.
        threading.Thread(target=story.run, daemon=True).start()
        try:
            screen.follow(story, stop)
            return screen.end(story)
        finally:
            children.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--changes",
        type=_whole(8, 5000),
        default=250,
        help="how many changes to make (default: %(default)s)",
    )
    parser.add_argument(
        "--settle",
        type=_whole(1, 60),
        default=4,
        help="the settle window in seconds (default: %(default)s)",
    )
    seed = random.randrange(10**6)  # noqa: S311  # no secret
    parser.add_argument(
        "--seed", type=int, default=seed, help="what to draw the changes from (default: random)"
    )
    return parser


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"from {least} to {most}, not {text}")
        return int(text)

    return number


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # At once: after a stop, the story's threads can still wait for answers that never come.
    os._exit(status)
