"""The usual ways, in a few lines each."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from change_events import FetchError, Found
from verification.proof.simulation._aws import (
    QUEUE_URL,
    SAVE,
    TOPIC_ARN,
    Refused,
    SNSClient,
    SQSClient,
)
from verification.proof.simulation._database import SaveFailed
from verification.proof.simulation._kernel import Killed
from verification.proof.simulation._source import PlainTable

if TYPE_CHECKING:
    from verification.proof.simulation._books import Save
    from verification.proof.simulation._world import World

JSON = dict[str, Any]

PUBLISH_ATTEMPTS = 3


class _Service(ABC):
    """A process that saves, and publishes before or after the save."""

    def __init__(self, world: World, name: str, book: dict[str, Save]) -> None:
        self._world = world
        self._book = book
        self._client = SNSClient(world)
        self.process = world.kernel.process(name)

    def save(self, save: Save) -> None:
        SAVE.set(save)
        how = "returned"
        try:
            self._save(save)
        except (Refused, SaveFailed) as error:
            how = f"raised {type(error).__name__}"
        except Killed:
            how = "crashed"
            raise
        finally:
            self._world.over(save, how)

    @abstractmethod
    def _save(self, save: Save) -> None: ...

    def _publish(self, id: str, **more: object) -> None:
        self._client.publish(TopicArn=TOPIC_ARN, Message=json.dumps({"id": id, **more}))

    def _publish_payload(self, save: Save, id: str) -> None:
        self._book[save.name] = save
        self._publish(id, state=save.states[id], save=save.name)


class PayloadAfter(_Service):
    def _save(self, save: Save) -> None:
        self._world.commit_all(save)
        for id in save.ids:
            for attempt in range(PUBLISH_ATTEMPTS):
                try:
                    self._publish_payload(save, id)
                    break
                except Refused:
                    self._world.kernel.pause(0.2 * 2**attempt)


class PayloadBefore(_Service):
    def _save(self, save: Save) -> None:
        for id in save.ids:
            self._publish_payload(save, id)
        self._world.commit_all(save)


class IdBefore(_Service):
    def _save(self, save: Save) -> None:
        for id in save.ids:
            self._publish(id)
        self._world.commit_all(save)


class _Worker(ABC):
    """
    A process with threads.

    Each thread receives ten messages, handles them in turn, and deletes what it has handled.
    """

    def __init__(self, world: World, name: str, book: dict[str, Save]) -> None:
        self._world = world
        self._book = book
        self._client = SQSClient(world, strict=False)
        self._table = PlainTable(world)
        self._running = world.setup.threads
        self._stopping = False
        self.process = world.kernel.process(name)

    def start(self) -> None:
        for _ in range(self._running):
            self._world.kernel.spawn(self.process, self._work)

    def stop(self) -> None:
        self._stopping = True

    def _work(self) -> None:
        while not self._stopping:
            try:
                self._handle_batch()
            except Refused:
                self._world.kernel.pause(1.0)
        self._running -= 1
        if not self._running:
            self._world.ended(self)

    def _handle_batch(self) -> None:
        visibility = self._world.setup.visibility
        answer = self._client.receive_message(
            QueueUrl=QUEUE_URL,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            VisibilityTimeout=visibility,
        )
        handled = [
            message["ReceiptHandle"]
            for message in answer["Messages"]
            if self._handled(json.loads(message["Body"]))
        ]
        if handled:
            entries = [
                {"Id": str(position), "ReceiptHandle": handle}
                for position, handle in enumerate(handled)
            ]
            self._client.delete_message_batch(QueueUrl=QUEUE_URL, Entries=entries)

    def _handled(self, body: JSON) -> bool:
        try:
            if self._world.random() < self._world.faults.sink_fails:
                return False  # the message comes back after its visibility timeout
            self._handle(body)
        except FetchError:
            return False
        return True

    @abstractmethod
    def _handle(self, body: JSON) -> None: ...


class PayloadWorker(_Worker):
    def _handle(self, body: JSON) -> None:
        self._table.write(
            body["id"], body["state"], lambda: self._book[body["save"]].commits.get(body["id"])
        )


class GetWorker(_Worker):
    def _handle(self, body: JSON) -> None:
        answer = self._world.source.fetch(body["id"])
        commit = self._world.kernel.current.commits[body["id"]]
        self._table.write(
            body["id"], answer.value if isinstance(answer, Found) else None, lambda: commit
        )


class Peers:
    """
    A peer's protocol.

    Args:
        service: How it saves.
        worker: How it follows.
    """

    def __init__(self, service: type[_Service], worker: type[_Worker]) -> None:
        self._service = service
        self._worker = worker
        self._book: dict[str, Save] = {}  # for the ghost: the save of each payload

    def service(self, world: World, name: str) -> _Service:
        return self._service(world, name, self._book)

    def worker(self, world: World, name: str) -> _Worker:
        return self._worker(world, name, self._book)
