"""Passes measurements to a `Metrics`, if there is one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from change_events.typing import Metrics

log = logging.getLogger("change_events")


class Meter:
    """
    Passes measurements on. What a `Metrics` raises is logged once, and changes nothing else.

    Args:
        metrics: Gets the measurements. None: nobody does, and a measurement costs next to nothing.
        labels: Labels of every measurement.

    Attributes:
        on: True if there is a `Metrics`. Check it before measuring what is expensive to find out.
    """

    def __init__(self, metrics: Metrics | None = None, **labels: str) -> None:
        self.on = metrics is not None
        self._metrics = metrics
        self._labels = labels
        self._failed = False

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        if self._metrics is not None:
            self._tell(self._metrics.count, name, value, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        if self._metrics is not None:
            self._tell(self._metrics.observe, name, value, labels)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        if self._metrics is not None:
            self._tell(self._metrics.gauge, name, value, labels)

    def _tell(
        self, method: Callable[..., object], name: str, value: float, labels: dict[str, str]
    ) -> None:
        try:
            method(name, value, **self._labels, **labels)
        except Exception:  # the user's; what was measured has happened
            if not self._failed:
                self._failed = True
                log.exception(
                    "metrics failed; this is logged once",
                    extra={"action": "measure", "metric": name},
                )
