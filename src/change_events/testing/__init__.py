"""
Test doubles for a service, producer or consumer: no AWS, no network, no environment, milliseconds.

The doubles stand behind the production code, not in its place: it encodes, decodes, looks at and
acknowledges events as in production. pytest also has fixtures: `change_events_broadcasts`,
`change_events_queue` and `change_events_source`. `SinkContract` tests any sink, and
`SourceContract` a service.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from change_events.testing._queue import FakeQueue
from change_events.testing._recording import Broadcasts, recording
from change_events.testing._source import FakeSource

if TYPE_CHECKING:
    from change_events.testing._sinks import SinkContract
    from change_events.testing._source_contract import SourceContract

__all__ = [
    "Broadcasts",
    "FakeQueue",
    "FakeSource",
    "SinkContract",
    "SourceContract",
    "recording",
]

_CONTRACTS = {
    "SinkContract": ("_sinks", "_sink_extras", "_sink_under_test"),
    "SourceContract": ("_source_contract", "_source_lists", "_source_under_test"),
}
"""The modules of each contract; the first one has its class."""

for _value in (Broadcasts, FakeQueue, FakeSource, recording):
    _value.__module__ = __name__  # so that no traceback names a private module


def __getattr__(name: str) -> object:
    if name not in _CONTRACTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest  # not above: only the contracts need it

    modules = [f"{__name__}.{module}" for module in _CONTRACTS[name]]
    pytest.register_assert_rewrite(*modules)
    contract: type = getattr(importlib.import_module(modules[0]), name)
    contract.__module__ = __name__
    return contract
