"""An operator: redrives dead letters, and broadcasts again what was reported as unsettled."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from verification.proof.simulation._aws import SAVE, TOPIC_ARN, Refused, SNSClient
from verification.proof.simulation._books import Save

if TYPE_CHECKING:
    from collections.abc import Sequence

    from verification.proof.simulation._aws import Cloud

REDRIVES = 240.0
"""Virtual seconds between two redrives."""


class Operator:
    """
    An operator.

    Args:
        cloud: The world's AWS.
        settle: The publishers' settle window in seconds.
    """

    def __init__(self, cloud: Cloud, *, settle: float) -> None:
        self._cloud = cloud
        self._settle = {"settle": {"DataType": "String", "StringValue": str(settle)}}
        self._process = cloud.environment.kernel.process("operator")

    def start(self) -> None:
        """Schedule the first redrive."""
        kernel = self._cloud.environment.kernel
        kernel.at(kernel.now + REDRIVES, self._redrive)

    def repair(self, ids: Sequence[str]) -> None:
        """Broadcast ids until SNS accepts them, as an operator does after `on_unsettled`."""
        environment = self._cloud.environment
        environment.ghost.counts["unsettled"] += 1
        save = Save("repair", dict.fromkeys(ids))
        environment.ghost.begin(save)
        environment.kernel.spawn(self._process, partial(self._repair, save))

    def _repair(self, save: Save) -> None:
        SAVE.set(save)
        for id in save.ids:
            while True:
                try:
                    SNSClient(self._cloud).publish(
                        TopicArn=TOPIC_ARN,
                        Message=f'{{"id": "{id}"}}',
                        MessageAttributes=self._settle,
                    )
                    break
                except Refused:
                    self._cloud.environment.kernel.pause(10.0)
        self._cloud.environment.ghost.end(save, "returned")

    def _redrive(self) -> None:
        self._cloud.queue.redrive()
        self.start()
