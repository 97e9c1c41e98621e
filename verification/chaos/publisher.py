"""
A publisher as a process: `python -m verification.chaos.publisher SETTINGS`.

SETTINGS is a JSON object. The process prints JSON lines; the last one has its counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

import urllib3

from change_events import (
    ChangeEvent,
    Found,
    SNSPublisher,
    SQLiteSink,
    broadcast_stats,
    broadcasting,
)

LONGEST_LIFE = 90
"""Seconds after which a child is killed: it waits for something that never comes."""


def say(action: str, **more: Any) -> None:
    """Print a line, in one write: children of a fork print to the same file."""
    os.write(1, (json.dumps({"action": action, **more}) + "\n").encode())


def commit(commit_url: str, id: str) -> None:
    """Change the entity at its source."""
    answer = urllib3.request("POST", f"{commit_url}/{id}", retries=False)
    if answer.status != 200:
        raise OSError(f"the source answered {answer.status}")


def frozen(topic_arn: str, commit_url: str, id: str, settle: float, *, dies: bool) -> None:
    """Stand still between broadcast and commit. `dies`: be killed right after the commit."""
    commit(commit_url, "warm-up")  # which imports what a commit needs
    with broadcasting(SNSPublisher(topic_arn), id, settle=settle):
        say("freeze")
        os.kill(os.getpid(), signal.SIGSTOP)
        commit(commit_url, id)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
    say("stats", **asdict(broadcast_stats()))


async def cancelled(topic_arn: str, commit_url: str, settle: float, delays: list[float]) -> None:
    """Cancel saves whose commits go on in threads, and come after so many seconds."""
    publisher = SNSPublisher(topic_arn)
    begun = threading.Barrier(len(delays) + 1)

    def commit_later(number: int) -> None:
        begun.wait()
        time.sleep(delays[number])  # a slow commit
        commit(commit_url, f"p{number}")

    async def save(number: int) -> None:
        async with broadcasting(publisher, f"p{number}", settle=settle):
            await asyncio.to_thread(commit_later, number)

    tasks = [asyncio.create_task(save(number)) for number in range(len(delays))]
    await asyncio.get_running_loop().run_in_executor(None, begun.wait)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    say("cancelled", number=sum(isinstance(each, asyncio.CancelledError) for each in results))


def forking(topic_arn: str, path: str, children: int, works: int) -> None:
    """Fork, while threads on both sides publish and store; end before the children do."""
    publisher, sink = SNSPublisher(topic_arn), SQLiteSink(path, timeout=60.0)  # many write
    work = Work("parent", publisher, sink, works)
    for number in range(children):
        if os.fork() == 0:
            signal.alarm(LONGEST_LIFE)
            Work(f"child-{number}", publisher, sink, 2 * works).end()
            sink.close()
            os._exit(0)
    work.end()
    sink.close()


class Work:
    """Two threads that each store and publish so many ids; and what was acknowledged to them."""

    def __init__(self, name: str, publisher: SNSPublisher, sink: SQLiteSink, works: int) -> None:
        self._name, self._publisher, self._sink = name, publisher, sink
        self._stored: list[str] = []
        self._published: list[str] = []
        self._threads = [
            threading.Thread(target=self._do, args=(f"{name}-{thread}", works))
            for thread in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def _do(self, name: str, works: int) -> None:
        for number in range(works):
            id = f"{name}-{number}"
            if self._sink.apply(id, Found({"id": id}), if_version=0):
                self._stored.append(id)
            self._publisher.publish([ChangeEvent(id)])
            self._published.append(id)

    def end(self) -> None:
        """Wait for the threads, and say what was acknowledged."""
        for thread in self._threads:
            thread.join()
        say("done", name=self._name, stored=self._stored, published=self._published)


def main(mode: str, **settings: Any) -> None:
    """Do what the mode says."""
    if mode == "frozen":
        frozen(**settings)
    elif mode == "cancelled":
        asyncio.run(cancelled(**settings))  # its end waits for the threads
        say("stats", **asdict(broadcast_stats()))
    else:
        forking(**settings)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
