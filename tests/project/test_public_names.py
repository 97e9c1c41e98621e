from __future__ import annotations

import pickle
import re
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest

import change_events
import change_events.testing
from change_events import exceptions
from verification.harness import rooms

PACKAGE = Path(change_events.__file__).parent

TEST_KIT = {"change_events.testing", "change_events.pytest_plugin", "pytest"}


@pytest.fixture
def graph():
    return rooms.imports_of("change_events")


def test_imports_point_down_only(graph):
    assert rooms.broken_rules(graph) == []


def test_no_modules_import_each_other_in_a_circle(graph):
    assert rooms.circles(graph) == []


def test_every_module_is_in_a_room(graph):
    known = {room for layer in rooms.LAYERS if layer is not rooms.VALUES for room in layer}

    assert rooms.modules_by_room(graph).keys() <= known | {"values"}


def test_no_module_imports_the_package_itself(graph):
    assert graph.find_modules_that_directly_import("change_events") == set()


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("_event", "_ids"),
        ("_producer.publishers", "_codec"),
        ("_worker", "_source.http"),
        ("sinks.memory", "sinks"),
        ("integrations.aws_lambda", "_consumer.look"),
        ("testing._queue", "_producer.publishers"),
        ("testing._source", "_source.fetcher"),
        ("pytest_plugin", "testing"),
    ],
)
def test_imports_that_point_down_are_allowed(graph, importer, imported):
    graph.add_import(importer=f"change_events.{importer}", imported=f"change_events.{imported}")

    assert rooms.broken_rules(graph) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("_event", "_source.http"),
        ("_codec", "_consumer.consumer"),
        ("_producer.publishers", "_consumer.queue"),
        ("_consumer.queue", "_producer.publishers"),
        ("_producer.publishers", "_source.http"),
        ("_source.fetcher", "sinks.memory"),
        ("sinks.memory", "_source.http"),
        ("sinks.memory", "sinks.sqlite"),
        ("sinks.memory", "_consumer.inbox"),
        ("_consumer.run", "integrations.aws_lambda"),
        ("integrations.aws_lambda", "testing._queue"),
        ("testing", "pytest_plugin"),
    ],
)
def test_imports_that_point_elsewhere_are_found(graph, importer, imported):
    graph.add_import(importer=f"change_events.{importer}", imported=f"change_events.{imported}")

    assert any(
        line.endswith(f"change_events.{importer} -> change_events.{imported}")
        for line in rooms.broken_rules(graph)
    )


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_are_absolute(path):
    assert not re.search(r"^\s*from \.", path.read_text(), re.MULTILINE)


def test_the_public_names_are_sorted_and_exist():
    assert change_events.__all__ == sorted(change_events.__all__)
    assert dir(change_events) == change_events.__all__
    for name in change_events.__all__:
        assert getattr(change_events, name).__module__ == "change_events"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Wroker'"):
        change_events.Wroker  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'SinkContrat'"):
        change_events.testing.SinkContrat  # noqa: B018


def test_every_error_is_in_the_drawn_tree():
    tree = {
        name: value
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }

    assert set(tree) <= set(change_events.__all__)
    assert all(name in exceptions.__doc__ for name in tree)
    assert all(issubclass(value, change_events.ChangeEventsError) for value in tree.values())


@pytest.mark.parametrize(
    "error",
    [
        change_events.PublishError("no broadcast of 'a'", ids=["a"]),
        change_events.FetchError("503", status=503, retry_after=2.0),
    ],
)
def test_errors_can_be_sent_between_processes(error):
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), copy.args, vars(copy)) == (type(error), error.args, vars(error))


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        (
            "import change_events",
            {"boto3", "botocore", "urllib3", "sqlite3", "asyncio", "inspect"} | TEST_KIT,
        ),
        (
            "from change_events import SNSPublisher, broadcasts_before_save",
            {"boto3", "urllib3", "sqlite3", "asyncio"},
        ),
        (
            "from change_events import *",
            {
                "boto3",
                "botocore",
                "cryptography",
                "psycopg",
                "psycopg_pool",
                "asyncio",
                "http.server",
            }
            | TEST_KIT,
        ),
        (
            "import change_events.integrations.aws_lambda",
            {"boto3", "botocore", "urllib3", "sqlite3"} | TEST_KIT,
        ),
        (
            "import change_events.integrations.sqlalchemy",
            {"boto3", "urllib3", "sqlite3", "sqlalchemy.ext.asyncio", "aiosqlite"} | TEST_KIT,
        ),
        (
            "import change_events.integrations.django",
            {"boto3", "urllib3", "sqlite3", "psycopg", "django.contrib"} | TEST_KIT,
        ),
        (
            "import change_events.metrics",
            {"boto3", "urllib3", "prometheus_client", "opentelemetry"} | TEST_KIT,
        ),
        ("import change_events.testing", {"boto3", "botocore", "psycopg", "sqlite3", "pytest"}),
        (
            "import change_events.pytest_plugin",
            {"change_events.testing", "boto3", "urllib3", "sqlite3"},
        ),
    ],
)
def test_an_import_brings_only_what_it_needs(statement, unwanted):
    loaded = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()

    assert "change_events" in loaded
    assert not unwanted & set(loaded)


def test_the_distribution_is_typed_and_has_three_dependencies():
    needed = {
        need.split(">")[0] for need in requires("change-events") or [] if "extra ==" not in need
    }

    assert needed == {"boto3", "typing-extensions", "urllib3"}
    assert distribution("change-events").metadata["License-Expression"] == "MIT"
    assert (PACKAGE / "py.typed").exists()
