"""
Compares the page of settings with the code: all settings of all public names, with their real
defaults and ranges, and no others.
"""

from __future__ import annotations

import enum
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy.orm import sessionmaker

import change_events
import change_events.integrations.aws_lambda
import change_events.integrations.django
import change_events.integrations.sqlalchemy
import change_events.metrics
import change_events.traces
from change_events.testing import FakeQueue
from shop import Product

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"

MODULES = [
    change_events,
    change_events.integrations.aws_lambda,
    change_events.integrations.sqlalchemy,
    change_events.integrations.django,
    change_events.metrics,
    change_events.traces,
]
"""
Modules whose public names have settings. The page must describe every name in their `__all__`.
"""

SEAMS = {
    name
    for name in dir(change_events)
    if getattr(getattr(change_events, name), "_is_protocol", False)
}

HEADING = re.compile(r"^#+ `([\w.]+)`$")
SETTING = re.compile(
    r"^- \*\*`\*{0,2}(?P<name>\w+)`\*\* "
    r"\((?P<unit>[^;]+); "
    r"(?:required|default `(?P<default>[^`]+)`[^;]*); "
    r"(?P<range>[^;]+?)\): "
    r"(?P<rest>.+)$"
)


@dataclass(frozen=True)
class Row:
    unit: str
    default: str | None
    range: str
    text: str


def on_the_page() -> dict[str, dict[str, Row]]:
    """Read the page: a heading for each callable, and below it a paragraph for each setting."""
    sections: dict[str, dict[str, Row]] = {}
    section: dict[str, Row] = {}
    for paragraph in re.split(r"\n(?=#|- |\n)", PAGE.read_text()):
        line = " ".join(paragraph.split())
        if heading := HEADING.match(line):
            assert heading[1] not in sections, f"the page has {heading[1]} twice"
            section = sections[heading[1]] = {}
        elif line.startswith("- "):
            row = SETTING.match(line)
            assert row, f"not of the form - **`name`** (unit; default `x`; range): text\n{line}"
            section[row["name"]] = Row(row["unit"], row["default"], row["range"], row["rest"])
    return sections


def in_the_code() -> dict[str, dict[str, str | None]]:
    """
    Return what can be set: all parameters of functions and constructors, and the keyword-only
    parameters of methods.
    """
    found: dict[str, dict[str, str | None]] = {}
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if (
                not (inspect.isclass(value) or inspect.isfunction(value))
                or is_value(value)
                or name in SEAMS
            ):
                continue
            if hasattr(change_events.integrations.sqlalchemy, name) and "django" in module.__name__:
                name = f"django.{name}"  # noqa: PLW2901  # the page tells the two apart so, too
            found[name] = settings(value)
            for method, function in inspect.getmembers(value, inspect.isroutine):
                if not method.startswith("_") and method not in methods_of_seams():
                    whole = inspect.ismethod(function)  # a class method is another constructor
                    found[f"{name}.{method}"] = settings(function, keyword_only=not whole)
    return {name: its for name, its in found.items() if its}


def is_value(value: object) -> bool:
    """Say whether the library makes objects of this class, so that users set nothing."""
    return "__dataclass_fields__" in getattr(value, "__dict__", {}) or (
        inspect.isclass(value) and issubclass(value, (Exception, enum.Enum))
    )


def methods_of_seams() -> set[str]:
    """Return the names of the methods that a look calls, with arguments of its own."""
    return {method for name in SEAMS for method in vars(getattr(change_events, name))}


def settings(function: object, *, keyword_only: bool = False) -> dict[str, str | None]:
    parameters = inspect.signature(function).parameters.values()
    return {
        parameter.name: default(parameter)
        for parameter in parameters
        if parameter.name != "self"
        and (not keyword_only or parameter.kind is parameter.KEYWORD_ONLY)
    }


def default(parameter: inspect.Parameter) -> str | None:
    """Return the default as the page shows it; None where a value is required."""
    if parameter.default is parameter.empty:
        return "()" if parameter.kind is parameter.VAR_POSITIONAL else None
    if callable(parameter.default):
        return f"{parameter.default.__module__}.{parameter.default.__qualname__}"
    return repr(parameter.default)


CODE = in_the_code()


def test_the_page_describes_everything_that_can_be_set_and_nothing_else():
    assert sorted(on_the_page()) == sorted(CODE)


@pytest.mark.parametrize("name", CODE)
def test_the_page_has_every_setting_with_its_real_default(name):
    assert {setting: row.default for setting, row in on_the_page().get(name, {}).items()} == CODE[
        name
    ]


@pytest.mark.parametrize("name", CODE)
def test_settings_are_in_the_order_of_the_signature(name):
    assert list(on_the_page().get(name, {})) == list(CODE[name])


def test_the_settings_in_the_code_are_found():
    """Otherwise the other tests in this module would compare nothing."""
    assert {
        "Worker",
        "SNSPublisher",
        "SNSPublisher.from_env",
        "broadcasting",
        "SQLiteSink",
        "SQLiteSink.purge",
    } <= CODE.keys()
    assert CODE["Worker"]["settle"] == "5.0"
    assert CODE["Worker"]["fetcher"] is None
    assert CODE["MemorySink"] == {"clock": "time.time"}
    assert not {"ChangeEvent", "FetchError", "Sink", "Worker.run", "SQLiteSink.apply"} & CODE.keys()


URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"
FETCHER = change_events.HTTPFetcher("https://products.example.com/{id}")


def purged(**settings: float) -> int:
    with change_events.SQLiteSink(":memory:") as sink:
        return sink.purge(**settings)


def redriven(**settings: float) -> change_events.RedriveReport:
    queue, sink = FakeQueue(), change_events.MemorySink()
    return change_events.redrive(
        queue.url, client=queue.client, fetcher=FETCHER, sink=sink, **settings
    )


# How to call what has numbers as settings, and with which other settings, so that the bounds of one
# setting don't collide with another's.
MADE = {
    "Audit": lambda **settings: change_events.Audit(
        [], fetcher=FETCHER, sink=change_events.MemorySink(), **settings
    ),
    "Audit.run": lambda **settings: change_events.Audit(
        [], fetcher=FETCHER, sink=change_events.MemorySink()
    ).run(**settings),
    "Worker": lambda **settings: change_events.Worker(
        URL, **{"fetcher": FETCHER, "sink": change_events.MemorySink(), "prefetch": 10, **settings}
    ),
    "make_handler": lambda **settings: change_events.integrations.aws_lambda.make_handler(
        **{"fetcher": FETCHER, "sink": change_events.MemorySink(), **settings}
    ),
    "Backfill": lambda **settings: change_events.Backfill(
        [], fetcher=FETCHER, sink=change_events.MemorySink(), **settings
    ),
    "redrive": redriven,
    "broadcasting": lambda **settings: change_events.broadcasting(
        change_events.NullPublisher(), **settings
    ),
    "broadcasts_before_save": lambda **settings: change_events.broadcasts_before_save(
        change_events.NullPublisher(), **settings
    ),
    "announce": lambda **settings: change_events.integrations.sqlalchemy.announce(
        sessionmaker(), change_events.NullPublisher(), {Product: "id"}, **settings
    ),
    "announced": lambda **settings: change_events.integrations.django.announced(
        change_events.NullPublisher(), **settings
    ),
    "MemorySink.purge": lambda **settings: change_events.MemorySink().purge(**settings),
    "SQLiteSink.purge": purged,
    "RedisSink": lambda **settings: change_events.RedisSink("redis://", **settings),
    "HTTPFetcher": lambda **settings: change_events.HTTPFetcher(
        "https://products.example.com/{id}", **settings
    ),
    "HTTPListing": lambda **settings: change_events.HTTPListing(
        "https://products.example.com/products", **settings
    ),
}

RANGE = re.compile(
    r"(?P<over>more than )?(?P<least>[\d,.]+)(?: (?:to|and up to) (?P<most>[\d,.]+)| or more)?"
)


def bounds() -> Iterator[object]:
    for name, rows in on_the_page().items():
        for setting, row in rows.items():
            if found := RANGE.fullmatch(row.range):
                least, most = (
                    text and float(text.replace(",", ""))
                    for text in (found["least"], found["most"])
                )
                yield pytest.param(
                    name, setting, least, most, bool(found["over"]), id=f"{name}.{setting}"
                )


@pytest.mark.parametrize(("name", "setting", "least", "most", "open_below"), list(bounds()))
def test_the_code_accepts_the_ends_of_each_range_and_refuses_more(
    name, setting, least, most, open_below
):
    number = int if CODE[name][setting].isdigit() else float
    step = 1 if number is int else 1e-6

    if not open_below:
        MADE[name](**{setting: number(least)})
    for outside in [
        least if open_below else least - step,
        *([] if most is None else [most + step]),
    ]:
        with pytest.raises(change_events.ConfigurationError, match=setting):
            MADE[name](**{setting: number(outside)})
    if most is not None:
        MADE[name](**{setting: number(most)})


def test_ranges_of_numbers_are_found():
    assert len(list(bounds())) >= 12
