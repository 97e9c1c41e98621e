"""Checked by mypy and pyright, never run: the Lambda handler, and its fetcher and sink."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import assert_type

from change_events import HTTPFetcher, MemorySink
from change_events.integrations.aws_lambda import make_handler

products: MemorySink[dict[str, Any]] = MemorySink()
numbers: MemorySink[int] = MemorySink()
fetcher = HTTPFetcher("https://products.example.com/products/{id}")

handler = make_handler(fetcher=fetcher, sink=products)
assert_type(handler, Callable[[Mapping[str, Any], object], dict[str, list[dict[str, str]]]])
assert_type(handler({"Records": []}, None)["batchItemFailures"], list[dict[str, str]])

make_handler(fetcher=fetcher, sink=numbers)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]  # numbers are not objects
