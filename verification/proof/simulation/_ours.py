"""
The production code, at home in virtual time: a service that saves, and a worker whose threads are
tasks.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from change_events import PublishError, SNSPublisher, broadcasting
from change_events._producer.batches import send_in_one_call
from change_events._producer.renewals import Renewals
from change_events._producer.sharing import SharedCalls
from change_events._producer.threads import Senders
from verification.proof.simulation._aws import SAVE, TOPIC_ARN, SNSClient
from verification.proof.simulation._ghost import SAVE_NAME
from verification.proof.simulation._kernel import Alarm, Killed
from verification.proof.simulation._threads import Lock
from verification.proof.simulation._world import SaveFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from change_events._event import Phase
    from verification.proof.simulation._books import Save
    from verification.proof.simulation._world import World


CANCELLED_FOR = 60.0
"""Seconds after which a cancelled save has been broadcast for the last time, or is unsettled."""


def _of_save() -> dict[str, str]:
    """Tell the ghost, although saves share calls, which of them an event belongs to."""
    save = SAVE.get()
    assert save is not None
    return {SAVE_NAME: save.name}


class Cancelled(BaseException):
    """A save is cancelled."""


class Publisher(SNSPublisher):
    """The production publisher, whose threads are the tasks of a process."""

    def __init__(self, world: World) -> None:
        super().__init__(TOPIC_ARN, client=SNSClient(world), attributes=_of_save)
        self._kernel = world.kernel
        self._shared_calls: dict[Phase | None, SharedCalls] = {}

    def _shared(self, client: Any, topic_arn: str, phase: Phase | None) -> SharedCalls:
        kernel = self._kernel
        if phase not in self._shared_calls:
            self._shared_calls[phase] = SharedCalls(
                partial(send_in_one_call, client, topic_arn),
                clock=lambda: kernel.now,
                lock=lambda: cast(Any, Lock(kernel)),
                ident=lambda: id(kernel.current),
            )
        return self._shared_calls[phase]


class Service:
    """A process that saves, inside the production `broadcasting`."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        kernel = world.kernel
        self.process = kernel.process(name)
        offset = world.random() * 1e4  # no two machines have the same monotonic clock
        self._renewals = Renewals(
            clocks=lambda: (
                kernel.now + offset - self.process.suspended,
                kernel.now + offset,
            ),
            sleep=kernel.pause,
            in_thread=self._in_thread,
            senders=Senders(lambda job: cast(None, kernel.spawn(self.process, job))),
            condition=lambda lock: cast(Any, Alarm(kernel, lock)),
        )
        self._publisher = Publisher(world)

    def _in_thread(self, target: Callable[[], None]) -> None:
        if not self._world.setup.renewals:
            raise RuntimeError("can't start a thread")
        self._world.kernel.spawn(self.process, target)

    def save(self, save: Save) -> None:
        """Broadcast and save. A task of the process calls this."""
        world = self._world
        SAVE.set(save)
        how = "returned"
        confirm = world.setup.confirm > 0 and world.random() < world.setup.confirm
        cancelled = world.faults.save_cancelled if world.setup.renewals else 0.0
        cancelled = cancelled > 0 and world.random() < cancelled
        try:
            with broadcasting(
                self._publisher,
                *save.ids,
                settle=world.setup.settle,
                confirm=confirm,
                on_unsettled=partial(self._unsettled, save),
                renewals=self._renewals,
            ):
                if cancelled:
                    world.kernel.spawn(self.process, partial(self._commit_in_thread, save))
                    raise Cancelled
                world.commit_all(save)
        except Cancelled:
            how = "was cancelled"  # and its thread goes on
        except (PublishError, SaveFailed) as error:
            how = f"raised {type(error).__name__}"
        except Killed:
            how = "crashed"
            raise
        finally:
            if how != "was cancelled":
                world.over(save, how)

    def _commit_in_thread(self, save: Save) -> None:
        how = "was cancelled"
        try:
            self._world.commit_in_thread(save)
            self._world.kernel.pause(CANCELLED_FOR)
        except Killed:
            how = "crashed"
            raise
        finally:
            self._world.over(save, how)

    def _unsettled(self, save: Save, ids: Sequence[str], _: Exception) -> None:
        """Do what a user does here: keep the ids, and broadcast them when that is possible."""
        save.unsettled = True
        self._world.repair(ids)
