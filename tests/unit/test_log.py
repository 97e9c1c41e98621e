"""What a worker logs about failures: each thing once, and no flood."""

from __future__ import annotations

import logging

import pytest
from botocore.exceptions import ClientError

from change_events import DecodeError, FetchError
from change_events._consumer import log as log_module
from change_events._consumer.log import MalformedLog, ThrottledLog, log_failed_look, log_outage

FORGED = "503\n2026-05-02 CRITICAL all is lost \x1b[2J"
SHOWN = "503\\n2026-05-02 CRITICAL all is lost \\x1b[2J"


def lines(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


# Malformed messages


def test_two_thousand_malformed_messages_that_keep_coming_back_are_a_hundred_lines(caplog):
    clock = Clock()
    log = MalformedLog(clock)
    for _ in range(10):
        for number in range(2000):
            log.add(f"m{number}", DecodeError("the body is not JSON"))
        clock.now += 30

    assert len(lines(caplog)) == 100
    assert lines(caplog)[0] == (
        "message m0 is not a change event and is left to the redrive policy: the body is not JSON"
    )
    assert lines(caplog)[-1].endswith("(too many: for an hour, further ones are only counted)")


def test_after_an_hour_malformed_messages_are_logged_again_and_those_between_are_counted(caplog):
    clock = Clock()
    log = MalformedLog(clock)
    for number in range(150):
        log.add(f"m{number}", DecodeError("bad"))
    caplog.clear()
    clock.now += 3600
    log.add("m0", DecodeError("bad"))  # seen before
    log.add("m149", DecodeError("bad"))
    log.add("new", DecodeError("bad"))

    assert lines(caplog) == [
        "50 further messages that are not change events were not logged",
        "message new is not a change event and is left to the redrive policy: bad",
    ]
    assert caplog.records[0].count == 50


def test_any_number_of_malformed_messages_needs_little_memory(caplog, monkeypatch):
    monkeypatch.setattr(log_module, "REMEMBERED", 10)
    log = MalformedLog(Clock())
    for number in range(1000):
        log.add(f"m{number}", DecodeError("bad"))

    assert len(log._seen) == 10
    assert len(lines(caplog)) == 100


# Calls that fail


def test_each_kind_of_call_that_fails_is_logged_once_in_thirty_seconds(caplog):
    caplog.set_level(logging.DEBUG, "change_events")
    clock = Clock()
    throttled = ThrottledLog(clock)
    for _ in range(3):
        throttled.warn("acknowledging failed: %s", ConnectionError("reset"), action="acknowledge")
        throttled.warn("changing visibility failed: %s", TimeoutError(), action="change_visibility")
        clock.now += 10
    assert lines(caplog) == [
        "acknowledging failed: reset",
        "changing visibility failed: TimeoutError",
    ]
    assert len(lines(caplog, logging.DEBUG)) == 6

    throttled.warn("acknowledging failed: %s", ConnectionError("reset"), action="acknowledge")
    assert len(lines(caplog)) == 3


@pytest.mark.parametrize("code", ["AccessDenied", "AccessDeniedException", "KMS.AccessDenied"])
@pytest.mark.parametrize(
    ("action", "needed"),
    [("change_visibility", "sqs:ChangeMessageVisibility"), ("acknowledge", "sqs:DeleteMessage")],
)
def test_a_call_that_is_denied_is_an_error_that_names_the_permission(caplog, code, action, needed):
    error = ClientError({"Error": {"Code": code, "Message": "not authorized"}}, "Operation")

    ThrottledLog().warn("it failed: %s", error, action=action)

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "not authorized" in record.getMessage()
    assert f"The worker's role must allow {needed}" in record.getMessage()


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "ServiceUnavailable"}}, "Operation"),
        ClientError({}, "Operation"),
        FetchError("the source answered AccessDenied", status=403),
    ],
)
def test_other_failures_are_warnings(caplog, error):
    ThrottledLog().warn("it failed: %s", error, action="change_visibility")

    assert [record.levelno for record in caplog.records] == [logging.WARNING]


# Text of others


def test_what_a_source_or_a_sender_writes_stays_within_its_line(caplog):
    MalformedLog().add("m1\n", DecodeError(FORGED))
    ThrottledLog().warn("acknowledging failed: %s", ValueError(FORGED), action="acknowledge")
    log_failed_look("p\u202e1", FetchError(FORGED), 1.0)
    log_outage(FetchError(FORGED), 1.0, begins=True)

    assert len(lines(caplog)) == 4
    for line in lines(caplog):
        assert line.isprintable()
        assert SHOWN in line
