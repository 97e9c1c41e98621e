"""`change-events publish` broadcasts ids, and says from where to go on."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys

import pytest

from change_events import PublishError, SNSPublisher
from change_events._cli.publish import MAX_LINE, PORTION, _read
from command_line import run


def test_the_ids_that_are_given_are_broadcast(channel):
    result = run("publish", channel.topic_arn, "p1", "p2")

    assert (result.exit_code, result.output) == (0, "2 ids published\n")
    assert sorted(channel.ids()) == ["p1", "p2"]


def test_ids_come_from_stdin_one_a_line(channel):
    result = run("publish", channel.topic_arn, "--json", input="p1\n\nproduct é 2\r\np3")

    assert json.loads(result.stdout) == {"topic_arn": channel.topic_arn, "published": 3}
    assert sorted(channel.ids()) == ["p1", "p3", "product é 2"]


def test_a_byte_order_mark_is_not_part_of_the_first_id(channel):
    assert run("publish", channel.topic_arn, input=b"\xef\xbb\xbfp1\np2\n").exit_code == 0

    assert sorted(channel.ids()) == ["p1", "p2"]


def test_a_closed_stdin_does_not_matter_if_ids_are_given(channel, monkeypatch):
    """Python's stdin is None then."""

    def publish(*ids):
        words = [sys.executable, "-m", "change_events", "publish", channel.topic_arn, *ids]
        return subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *words],
            capture_output=True,
            text=True,
            check=False,
        )

    given, none = publish("p1"), publish()

    assert (given.returncode, given.stdout) == (0, "1 ids published\n"), given.stderr
    assert channel.ids() == ["p1"]
    assert none.returncode == 2
    assert "Name ids, or send them through stdin" in none.stderr


def test_nothing_from_stdin_is_nothing(channel):
    assert run("publish", channel.topic_arn, input="").output == "0 ids published\n"


def test_a_fifo_topic_gets_each_id_in_its_group(make_channel):
    channel = make_channel(fifo=True)

    assert run("publish", channel.topic_arn, "p1", "p1", "p2").exit_code == 0

    groups = [each["Attributes"]["MessageGroupId"] for each in channel.messages()]
    assert sorted(groups) == ["p1", "p1", "p2"]


def test_the_environment_names_the_topic(channel, monkeypatch):
    monkeypatch.setenv("CHANGE_EVENTS_TOPIC_ARN", channel.topic_arn)

    assert run("publish", "p1").exit_code == 0
    assert run("publish", input="p2\n").exit_code == 0
    assert run("publish", channel.topic_arn, "p3").exit_code == 0
    assert sorted(channel.ids()) == ["p1", "p2", "p3"]


@pytest.fixture
def published(monkeypatch):
    """The ids that a publisher was given, in portions. Nothing is sent."""
    portions = []
    monkeypatch.setattr(
        SNSPublisher, "publish", lambda _, events: portions.append([each.id for each in events])
    )
    return portions


TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"


def test_very_many_ids_are_read_and_published_in_portions(published):
    count = 2 * PORTION + 1

    result = run("publish", TOPIC, input="".join(f"p{n}\n" for n in range(count)))

    assert result.output == "2,001 ids published\n"
    assert [len(each) for each in published] == [PORTION, PORTION, 1]
    assert [id for portion in published for id in portion] == [f"p{n}" for n in range(count)]


def test_very_many_arguments_are_published_in_portions(published):
    run("publish", TOPIC, *[f"p{n}" for n in range(PORTION + 2)])

    assert [len(each) for each in published] == [PORTION, 2]


def test_of_very_many_arguments_the_one_to_go_on_with_is_named(monkeypatch):
    def publish(self, events):
        if len(events) < PORTION:
            raise PublishError("SNS is away")

    monkeypatch.setattr(SNSPublisher, "publish", publish)

    result = run("publish", TOPIC, *[f"p{n}" for n in range(PORTION + 2)])

    assert result.exit_code == 3
    assert result.stderr == (
        "Error: SNS is away. 1,000 ids were published. Go on with the id 'p1000'\n"
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"p2 \n", "'p2 ' has a space at an end"),
        (b"\xff\xfe\n", "the line is not UTF-8: b'\\xff\\xfe\\n'"),
        (b"p" * 513 + b"\n", "an id has 1 to 512 characters, not 513"),
        (b"p" * (MAX_LINE + 10), f"the line has more than {MAX_LINE} bytes"),
        (b"a\x00b\n", "an id has no control characters"),
        (b"..", "an id can't be '..'"),
    ],
)
def test_a_line_that_is_not_an_id_is_told_and_those_before_it_are_published(channel, line, says):
    result = run("publish", channel.topic_arn, input=b"p1\n\n" + line)

    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: line 3: {says}")
    assert result.stderr.endswith(". 1 ids were published. Go on with line 3: tail -n +3\n")
    assert channel.ids() == ["p1"]


def test_a_bad_line_at_the_start_of_a_portion_loses_nothing(published):
    lines = "".join(f"p{n}\n" for n in range(PORTION)) + " \n" + " bad\n" + "p\n"

    result = run("publish", TOPIC, input=lines)

    assert result.exit_code == 2
    assert f"line {PORTION + 2}: ' bad' has a space at an end" in result.stderr
    assert "1,000 ids were published" in result.stderr
    assert [len(each) for each in published] == [PORTION]


def test_an_argument_that_is_not_an_id_is_told_and_nothing_is_published(channel):
    result = run("publish", channel.topic_arn, "p1", "..")

    assert result.exit_code == 2
    assert "an id can't be '..'" in result.stderr
    assert result.stderr.endswith("Nothing was published\n")
    assert channel.ids() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing argument 'TOPIC_ARN'."),
        (["p1"], "TOPIC_ARN must be the ARN of a topic, not 'p1'."),
        (["arn:aws:sqs:eu-west-1:123456789012:q", "p1"], "arn:aws:sqs:eu-west-1:123456789012:q"),
    ],
)
def test_a_topic_that_is_none_is_told(arguments, says):
    result = run("publish", *arguments)

    assert result.exit_code == 2
    assert says in result.stderr


def test_at_a_terminal_it_does_not_wait_for_ids(channel):
    class Terminal(io.BytesIO):
        def isatty(self):
            return True

    result = run("publish", channel.topic_arn, input=Terminal())

    assert result.exit_code == 2
    assert "Name ids, or send them through stdin, one a line." in result.stderr


def test_a_topic_that_refuses_is_status_2_or_3_and_says_where_to_go_on(channel, sns, monkeypatch):
    gone = channel.topic_arn + "-gone"

    result = run("publish", gone, input="p1\np2\n")

    assert result.exit_code == 2
    assert "no broadcast of 'p1', 'p2'" in result.stderr
    assert result.stderr.endswith("0 ids were published. Go on with line 1: tail -n +1\n")

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    away = run("publish", channel.topic_arn, "p1")
    assert away.exit_code == 3
    assert away.stderr.endswith("0 ids were published. Go on with the id 'p1'\n")


def test_ctrl_c_says_where_to_go_on(monkeypatch):
    done = []

    def publish(self, events):
        if done:
            signal.raise_signal(signal.SIGINT)
        done.append(len(events))

    monkeypatch.setattr(SNSPublisher, "publish", publish)

    result = run("publish", TOPIC, input="p\n" * (PORTION + 5))

    assert result.exit_code == 130
    assert result.stderr == (
        "stopped. 1,000 ids were published. Go on with line 1001: tail -n +1001\n"
    )


def test_ctrl_c_while_it_waits_for_lines_says_where_to_go_on(published, monkeypatch):
    class Slow(io.BytesIO):
        def readline(self, size=-1):
            raise KeyboardInterrupt

    result = run("publish", TOPIC, input=Slow())

    assert result.exit_code == 130
    assert "Go on with the first one" in result.stderr


def test_a_thousand_empty_lines_do_not_end_what_is_read():
    portions = _read(io.BytesIO(b"\n" * PORTION + b"p1\n"))

    assert [list(each.ids) for each in portions] == [[], ["p1"]]
