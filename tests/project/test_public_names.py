from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest

import change_events
import change_events.testing
from change_events import exceptions

PACKAGE = Path(change_events.__file__).parent

# What a module may import from this package, from the bottom up. The two sides meet in the seams
# and values only.
BOTTOM = {"exceptions", "_event", "typing"}
PRODUCER = {"_ids", "_codec", "_meter", "_publishers", "_renewal", "_decorator"}
CONSUMER = {
    "_ids",
    "_codec",
    "_meter",
    "_health",
    "_probe",
    "_http",
    "_fetch",
    "_signature",
    "sinks",
    "sinks.dynamodb",
    "sinks.memory",
    "sinks.postgres",
    "sinks.sqlite",
    "_reconcile",
    "_inbox",
    "_breaker",
    "_guard",
    "_sqs",
    "_consumer",
    "_worker",
    "aws_lambda",
}
MAY_IMPORT = {
    "exceptions": set(),
    "_event": set(),
    "typing": {"_event"},
    "_ids": BOTTOM,
    "_codec": BOTTOM | {"_ids"},
    "_publishers": BOTTOM | {"_ids", "_codec"},
    "_meter": BOTTOM,
    "_renewal": BOTTOM | {"_meter"},
    "_decorator": BOTTOM | {"_ids", "_codec", "_publishers", "_renewal"},
    "_http": BOTTOM,
    "_fetch": BOTTOM | {"_http", "_ids"},
    "_signature": BOTTOM | {"_codec", "_http"},
    "sinks": BOTTOM,
    "sinks.dynamodb": BOTTOM | {"sinks"},
    "sinks.memory": BOTTOM | {"sinks"},
    "sinks.postgres": BOTTOM | {"sinks"},
    "sinks.sqlite": BOTTOM | {"sinks"},
    "_reconcile": BOTTOM,
    "_inbox": BOTTOM,
    "_breaker": BOTTOM,
    "_guard": BOTTOM,
    "_sqs": BOTTOM,
    "_health": BOTTOM | {"_meter"},
    "_probe": BOTTOM | {"_health"},
    "_consumer": BOTTOM
    | {"_breaker", "_codec", "_guard", "_health", "_inbox", "_meter", "_reconcile", "_sqs"},
    "_worker": BOTTOM | CONSUMER - {"aws_lambda"},
    "aws_lambda": BOTTOM | {"_codec", "_consumer", "_reconcile", "_sqs"},
    "metrics": BOTTOM,
    # What tests are made of may stand on both sides.
    "testing": {"testing._queue", "testing._recording", "testing._sinks", "testing._source"},
    "testing._queue": BOTTOM | {"_publishers"},
    "testing._recording": BOTTOM | {"_publishers"},
    "testing._source": BOTTOM | {"_fetch"},
    "pytest_plugin": {"testing"},
    "testing._sinks": BOTTOM,
}

TEST_KIT = {"change_events.testing", "change_events.pytest_plugin", "pytest"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {
        name.removeprefix("change_events.")
        for name in found
        if name.split(".")[0] == "change_events"
    }


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_imports_point_down_only(path):
    name = module_name(path)

    if name:  # the package itself re-exports everything
        assert imports(path) <= MAY_IMPORT[name]


def test_producer_and_consumer_never_import_each_other():
    for one, other in ((PRODUCER, CONSUMER), (CONSUMER, PRODUCER)):
        for name in one - other:
            assert not MAY_IMPORT[name] & (other - one)


def test_the_public_names_are_sorted_and_all_there():
    assert change_events.__all__ == sorted(change_events.__all__)
    assert dir(change_events) == change_events.__all__
    for name in change_events.__all__:
        assert getattr(change_events, name).__module__ == "change_events"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Wroker'"):
        change_events.Wroker  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'SinkContrat'"):
        change_events.testing.SinkContrat  # noqa: B018


def test_every_error_stands_in_the_drawn_tree():
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
def test_errors_survive_the_way_between_processes(error):
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


def test_the_distribution_is_typed_and_needs_nothing_but_boto3_and_its_http_library():
    needed = {
        need.split(">")[0] for need in requires("change-events") or [] if "extra ==" not in need
    }

    assert needed == {"boto3", "urllib3"}
    assert distribution("change-events").metadata["License-Expression"] == "MIT"
    assert (PACKAGE / "py.typed").exists()
