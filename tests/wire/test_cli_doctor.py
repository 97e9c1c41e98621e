"""What `change-events doctor` and `change-events template` print, and their exit statuses."""

from __future__ import annotations

import json
import sys
from importlib.resources import files

import pytest
from click.testing import CliRunner

from change_events._cli.group import group
from change_events._cli.template import FILES
from change_events._operations.doctor import OF_A_CACHE, OF_A_QUEUE

APP = """
from change_events import HTTPFetcher, MemorySink, Worker

sink = MemorySink()
worker = Worker("{queue_url}", fetcher=HTTPFetcher("{url}/products/{{id}}"), sink=sink)
"""


@pytest.fixture
def app(channel, source, tmp_path, monkeypatch):
    """The name of a worker's module in the current directory."""
    source.entities["p1"] = {"id": "p1", "name": "Anvil"}
    text = APP.format(queue_url=channel.queue_url, url=source.url)
    (tmp_path / "shop_cache.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "shop_cache"
    sys.modules.pop("shop_cache", None)


def run(*arguments, **environment):
    return CliRunner().invoke(group, arguments, env=environment)


def test_a_worker_is_examined_line_by_line(app, channel):
    result = run("doctor", f"{app}:worker", "--id", "p1", CHANGE_EVENTS_TOPIC_ARN=channel.topic_arn)

    lines = result.stdout.splitlines()
    assert result.exit_code == 1  # the queue has neither a redrive policy nor a policy
    assert f"ok       subscription: to {channel.topic_arn}" in lines
    assert "ok       source: knows 'p1'" in lines
    at = lines.index("problem  redrive policy: there is none")
    assert lines[at + 1].startswith("         -> What is not an event")
    assert lines[-1] == "2 problem(s), 1 warning(s), 4 check(s) skipped"


def test_the_checks_can_be_read_by_machines(app):
    result = run("doctor", f"{app}:worker", "--json")

    checks = json.loads(result.stdout)
    assert [check["name"] for check in checks] == [*OF_A_QUEUE, *OF_A_CACHE]
    assert checks[6] == {
        "name": "redrive policy",
        "status": "problem",
        "seen": "there is none",
        "advice": checks[6]["advice"],
    }


def test_without_a_problem_the_exit_status_is_0(app, source):
    result = run("doctor", "--url", source.url + "/products/{id}", "--sink", f"{app}:sink")

    assert result.exit_code == 0, result.output
    assert "ok       state: stored and read" in result.stdout


def test_a_queue_alone_is_examined(channel):
    result = run("doctor", "--queue-url", channel.queue_url, CHANGE_EVENTS_APP="elsewhere:worker")

    assert "ok       sqs:DeleteMessage: allowed" in result.stdout
    assert "skipped  source: no fetcher was given" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name APP"),
        (["shop:worker", "--url", "http://127.0.0.1/{id}"], "APP has a queue"),
        (["--queue-url", "products"], "'products' is not a queue's URL"),
        (["--url", "http://127.0.0.1/"], "has no {id}"),
        (["--sink", "products.db"], "--sink must be module:attribute"),
        (["--sink", "json:loads"], "sink needs entry and apply"),
    ],
)
def test_a_mistake_is_explained(arguments, message):
    result = run("doctor", *arguments)

    assert (result.exit_code, message in result.stderr) == (2, True), result.output


@pytest.mark.parametrize("name", FILES)
def test_a_template_is_printed_as_the_package_has_it(name):
    result = run("template", name)

    assert result.exit_code == 0
    assert result.stdout == (files("change_events") / FILES[name]).read_text(encoding="utf-8")


def test_every_file_of_infrastructure_can_be_printed():
    shipped = {
        f"{directory}/{file.name}"
        for directory in ("cloudformation", "kubernetes")
        for file in (files("change_events") / directory).iterdir()
    }

    assert shipped == set(FILES.values())


def test_a_problem_is_an_exit_status_for_machines_too(app):
    assert run("doctor", f"{app}:worker", "--json").exit_code == 1


def test_an_id_without_an_app_is_used(source):
    source.entities["p1"] = {"id": "p1"}

    result = run("doctor", "--url", source.url + "/products/{id}", "--id", "p1", "--json")

    (check,) = [each for each in json.loads(result.stdout) if each["name"] == "source"]
    assert check["status"] == "ok"
