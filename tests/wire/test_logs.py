"""The page of logs lists the action and the fields of every record, and no record has a secret."""

from __future__ import annotations

import ast
import functools
import json
import logging
import re
from pathlib import Path

import change_events
from change_events import HTTPFetcher, MemorySink, Worker
from conftest import failing
from verification.harness.wire import Answer

PACKAGE = Path(change_events.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "logs.md"

LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}

SECRETS = {
    "body",
    "receipt_handle",
    "receipt_handles",
    "handle",
    "handles",
    "headers",
    "token",
    "entity",
    "event",
}
"""Names whose values must not be logged."""


@functools.cache
def calls():
    """Return the package's calls of a logger, by where they are."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name("log"), attr=level)) if (
                    level in LEVELS
                ):
                    found[f"{path.relative_to(PACKAGE)}:{node.lineno}"] = node
    return found


def fields(call):
    """Return what `extra` holds, by name."""
    (extra,) = [keyword.value for keyword in call.keywords if keyword.arg == "extra"]
    assert isinstance(extra, ast.Dict)
    return {key.value: value for key, value in zip(extra.keys, extra.values, strict=True)}


def on_the_page():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .*? \| (.*?) ?\|$", PAGE.read_text(), re.MULTILINE)
    return {action: (levels, set(re.findall(r"`(\w+)`", names))) for action, levels, names in rows}


def test_the_calls_of_the_logger_are_found():
    assert len(calls()) >= 25


def test_there_is_one_logger_and_nothing_is_printed():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert set(re.findall(r"(\w+) = logging\.getLogger\((.*?)\)", text)) <= {
            ("log", '"change_events"')
        }, path
        assert not re.search(r"logging\.(debug|info|warning|error|critical|exception)\(", text), (
            path
        )


def test_the_page_has_the_action_and_the_fields_of_every_record():
    page = on_the_page()
    for place, call in calls().items():
        extra = fields(call)
        action = extra.pop("action")
        level = {"exception": "error"}.get(call.func.attr, call.func.attr)
        if isinstance(action, ast.Name):  # the caller names it
            assert action.id == "action", place
            assert extra.keys() == {"code"}, place
        else:
            levels, names = page[action.value]
            assert level in levels, place
            assert extra.keys() <= names, place


def test_the_page_has_no_action_that_is_never_logged():
    actions = [fields(call)["action"] for call in calls().values()]

    constant = {action.value for action in actions if isinstance(action, ast.Constant)}
    named_by_callers = {"acknowledge", "change_visibility", "look_together"}
    assert constant | named_by_callers == set(on_the_page())


def test_no_call_of_the_logger_mentions_a_secret():
    for place, call in calls().items():
        named = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
        named |= {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}

        assert not named & SECRETS, place


OURS = {"REASONS[why]", "action", "role", "self._name"}
"""Texts that the library or its user has written."""


def test_every_text_in_a_record_is_made_printable():
    for place, call in calls().items():
        text, *values = call.args
        assert isinstance(text, ast.Constant), place
        kinds = re.findall(r"%[\d.]*([a-z])", text.value)
        if len(values) < len(kinds):
            assert isinstance(values[0], ast.Starred), place  # a host and a port
            continue

        for kind, value in zip(kinds, values, strict=True):
            if kind == "s" and not _is_constant(value):
                shown = ast.unparse(value)
                # A repr is printable, and ids have a limit.
                safe = shown.startswith(("printable(", "', '.join(map(repr, ")) or shown in OURS
                assert safe, place


def _is_constant(node):
    if isinstance(node, ast.IfExp):
        return _is_constant(node.body) and _is_constant(node.orelse)
    return isinstance(node, ast.Constant)


def test_what_others_send_stays_within_its_line(make_channel, source, caplog):
    """A source, and somebody who can send to the queue, try to write lines of their own."""
    forgery = "\x1b[2J\r\n2026-05-02 CRITICAL all is lost\u2028"
    channel = make_channel(raw=False)
    source.answer = lambda id: Answer(302, headers={"Location": "https://x.example/\x1b[2J\x85y"})
    channel.announce("p1", "p\u202e2")
    for body in (
        {"Type": "Notification", "Message": "{}", "TopicArn": forgery * 100},
        {"id": forgery},
        {"id": "p3", "TopicArn": channel.topic_arn},
    ):
        channel.send(json.dumps(body))

    Worker(
        channel.queue_url,
        fetcher=HTTPFetcher(source.url + "/{id}"),
        sink=MemorySink(),
        topic_arn=channel.topic_arn,
        settle=0.0,
        wait_time=1,
    ).drain()

    lines = [record.getMessage() for record in caplog.records if record.name == "change_events"]
    assert len([line for line in lines if "is not a change event" in line]) == 3
    assert len([line for line in lines if "https://x.example/\\x1b[2J\\x85y" in line]) == 2
    assert all(line.isprintable() and len(line) < 1500 for line in lines)


def test_no_record_tells_a_body_a_token_or_a_receipt_handle(channel, source, caplog):
    """At the lowest level, while much goes wrong."""
    caplog.set_level(logging.DEBUG, "change_events")
    source.entities["good"] = {"id": "good", "name": "SECRET-BODY"}
    source.answer = {
        "down": Answer(503, b"SECRET-BODY"),
        "login": Answer(200, b"SECRET-BODY", {"Content-Type": "text/html"}),
        "broken": Answer(200, b'{"name": "SECRET-BODY'),
        "list": Answer(200, b'["SECRET-BODY"]'),
    }.get
    channel.announce("good", "down", "login", "broken", "list")
    channel.send("SECRET-BODY")
    channel.send('{"name": "SECRET-BODY"}')
    refused = {
        "Failed": [
            {
                "Id": "0",
                "SenderFault": True,
                "Code": "ReceiptHandleIsInvalid",
                "Message": "SECRET-HANDLE",
            }
        ]
    }
    client, left = failing("DeleteMessageBatch", refused)
    handles = []
    client.meta.events.register(
        "after-call.sqs.ReceiveMessage",
        lambda parsed, **_: handles.extend(
            message["ReceiptHandle"] for message in parsed.get("Messages", [])
        ),
    )
    fetcher = HTTPFetcher(source.url + "/{id}", headers={"Authorization": "Bearer SECRET-TOKEN"})

    Worker(
        channel.queue_url,
        fetcher=fetcher,
        sink=MemorySink(),
        client=client,
        settle=0.0,
        wait_time=1,
    ).drain()

    records = [record for record in caplog.records if record.name == "change_events"]
    formatter = logging.Formatter()
    text = "\n".join(f"{formatter.format(record)} {vars(record)}" for record in records)
    assert left == []
    assert {record.action for record in records} == {
        "start",
        "stop",
        "look",
        "decode",
        "acknowledge",
    }
    assert "SECRET" not in text
    assert len(handles) >= 7
    assert not any(handle in text for handle in handles)
