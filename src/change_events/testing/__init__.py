"""
Test doubles for a service, producer or consumer: no AWS, no network, no environment, milliseconds.

The doubles stand behind the production code, not in its place: it encodes, decodes, looks at and
acknowledges events as in production. pytest also has fixtures: `change_events_broadcasts`,
`change_events_queue` and `change_events_source`. `SinkContract` tests any sink.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from change_events.testing._queue import FakeQueue
from change_events.testing._recording import Broadcasts, recording
from change_events.testing._source import FakeSource

if TYPE_CHECKING:
    from change_events.testing._sinks import SinkContract

__all__ = ["Broadcasts", "FakeQueue", "FakeSource", "SinkContract", "recording"]

for _value in (Broadcasts, FakeQueue, FakeSource, recording):
    _value.__module__ = __name__  # so that no traceback names a private module


def __getattr__(name: str) -> object:
    if name != "SinkContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest  # not above: only the contract needs it

    modules = ("_sinks", "_sink_extras", "_sink_under_test")
    pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in modules))
    from change_events.testing._sinks import SinkContract

    SinkContract.__module__ = __name__
    return SinkContract
