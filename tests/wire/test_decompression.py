"""A body that is small on the wire and huge when it is decompressed."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest

from change_events import FetchError, HTTPFetcher
from verification.harness.wire import Answer

HUGE = 200 * 2**20


@pytest.fixture(scope="module")
def bomb():
    return gzip.compress(bytes(HUGE), 6)


def test_a_decompression_bomb_is_refused_before_it_fills_the_memory(source, bomb):
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    source.answer = lambda id: Answer(200, bomb, headers)
    fetcher = HTTPFetcher(source.url + "/products/{id}", max_bytes=2**20)
    tracemalloc.start()
    try:
        with pytest.raises(FetchError, match="longer than 1048576 bytes"):
            fetcher.fetch("p1")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 * 2**20
