"""The page of the command has all options of the code, and its examples print what they say."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import nullcontext

import pytest

from change_events import SQLiteSink
from command_line import run
from conftest import running, wait_until
from verification.harness import command_page

PAGE = command_page.PAGE.read_text()
NAMES = [context.command_path.strip() for context in command_page.contexts()]


def test_the_tables_are_those_of_the_code():
    assert command_page.rendered(PAGE) == PAGE, "run python -m verification.harness.command_page"


def test_every_command_has_a_heading_and_a_table():
    assert sorted(match["name"] for match in command_page.TABLE.finditer(PAGE)) == sorted(NAMES)
    headings = set(re.findall(r"^##+ `change-events (.+)`$", PAGE, re.MULTILINE))
    assert {name.removesuffix(" list") for name in NAMES} == headings


def test_the_page_is_written(monkeypatch, tmp_path, capsys):
    page = tmp_path / "command.md"
    page.write_text("<!-- look: start -->\nold\n<!-- look: end -->\n")
    monkeypatch.setattr(command_page, "PAGE", page)

    command_page.main()

    assert "| `--json` | `CHANGE_EVENTS_JSON` |  |" in page.read_text()
    assert "old" not in page.read_text()
    assert "written: " in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_an_environment_variable_with_a_help(name):
    (context,) = [each for each in command_page.contexts() if each.command_path.strip() == name]

    for row in command_page.table(context).splitlines()[2:]:
        _, option, variable, _, text, _ = row.replace(r"\|", "or").split("|")
        assert option.startswith(" `--")
        assert variable.startswith(" `CHANGE_EVENTS_")
        assert text.strip().endswith(".")


def test_each_status_of_the_help_is_on_the_page():
    statuses = re.findall(r"^ +(\d+) +", run("--help").output, re.MULTILINE)

    assert statuses
    assert [number for number in statuses if f"\n| {number} | " not in PAGE] == []


# The examples

EXAMPLES = [
    (command, output)
    for block in re.findall(r"^```\n(\$ .*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
]

CHANGING = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "MESSAGE"),
    (r"\b[\d.,]+ s\b", "SECONDS"),
    (r"\bget limit [\d.]+", "get limit"),
)
"""What is another one each time."""


def normal(text):
    for pattern, name in CHANGING:
        text = re.sub(pattern, name, text)
    return text


@pytest.fixture
def ours(channel, source, free_port):
    """Return a text of the page with the names of the test's world."""
    names = {
        "https://products.example.com": source.url,
        "https://sqs.eu-west-1.amazonaws.com/123456789012/products-cache": channel.queue_url,
        "arn:aws:sns:eu-west-1:123456789012:products": channel.topic_arn,
        "127.0.0.1:8080": f"127.0.0.1:{free_port}",
        "shop.cache:worker": "shop_cache:worker",
    }

    def ours(text):
        for name, other in names.items():
            text = text.replace(name, other)
        return text

    return ours


def test_the_examples_print_what_the_page_says(
    ours,
    make_channel,
    make_worker,
    name_app,
    channel,
    source,
    sqs,
    list_products,
    free_port,
    tmp_path,
):
    dead = make_channel()
    arn = dead.sqs.get_queue_attributes(QueueUrl=dead.queue_url, AttributeNames=["QueueArn"])
    policy = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": "5"}
    sqs.set_queue_attributes(
        QueueUrl=channel.queue_url, Attributes={"RedrivePolicy": json.dumps(policy)}
    )
    source.entities = {f"p{n}": {"id": f"p{n}", "price": 20} for n in range(1, 4)}
    assert list_products
    ran = 0
    with SQLiteSink(tmp_path / "products.db") as sink:
        worker = make_worker(sink=sink, health_address=("127.0.0.1", free_port))
        name_app(worker)
        for command, output in EXAMPLES:
            if "|" in command:  # it needs another program
                continue
            if " look " in command:
                source.entities["p1"] = {"id": "p1", "price": 21}
            if " list " in command:
                for body in ('{"id": "p1"}', '{"id": "p1"}', "{}"):
                    dead.send(body)
            arguments = shlex.split(ours(command))[1:]
            with running(worker) if " status " in command else nullcontext():
                if " status " in command:
                    wait_until(lambda: worker.health().ready)
                result = run(*arguments)
            assert normal(result.stdout) == normal(ours(output)), command
            ran += 1

    assert ran == len(EXAMPLES) - 1
