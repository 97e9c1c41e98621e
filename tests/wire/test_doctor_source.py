"""Each fault of a source, a list, a cache or a clock is planted, and `doctor` names it."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time

import pytest

from change_events import (
    DynamoDBSink,
    Found,
    HTTPFetcher,
    HTTPListing,
    MemorySink,
    RedisSink,
    SQLiteSink,
    Worker,
)
from change_events._operations.checkup import Case, Finding, SkippedError
from change_events._operations.doctor import OF_A_CACHE, Check, doctor
from change_events._operations.source_checks import stranger
from conftest import make_table
from verification.harness.source import answer_of
from verification.harness.wire import Answer

HTML = {"Content-Type": "text/html"}


def examine(case: Case, *names: str) -> Finding:
    """Make the checks in this order; return what the last one says."""
    for name in names:
        try:
            finding = OF_A_CACHE[name](case)
        except SkippedError as error:
            finding = Finding("skipped", str(error))
    return finding


@pytest.fixture
def case(source) -> Case:
    source.entities["p1"] = {"id": "p1", "name": "Anvil"}
    return Case(fetcher=HTTPFetcher(source.url + "/products/{id}"), known_id="p1")


# The source


def test_a_known_id_is_asked_for(case, source):
    assert examine(case, "source") == Finding("ok", "knows 'p1'")
    assert source.ids() == ["p1"]


def test_the_known_id_is_one_that_the_cache_has(case, sink):
    case.known_id, case.sink = None, sink
    sink.apply("p1", Found({"id": "p1"}), if_version=0)

    assert examine(case, "sink", "source") == Finding("ok", "knows 'p1'")


def test_a_cached_id_that_was_deleted_is_not_a_problem(case, source, sink):
    case.known_id, case.sink = None, sink
    source.entities["p0"] = None
    for id in "p0", "p1":
        sink.apply(id, Found({"id": id}), if_version=0)

    assert examine(case, "sink", "source").status == "ok"


def test_a_source_that_knows_no_cached_id_is_a_problem(case, source, sink):
    case.known_id, case.sink = None, sink
    for id in "abcd":
        sink.apply(id, Found({"id": id}), if_version=0)

    finding = examine(case, "sink", "source")

    assert (finding.status, finding.seen) == ("problem", "does not know 'a', 'b', 'c'")


def test_without_an_id_the_source_is_not_asked(case, source):
    case.known_id = None

    assert examine(case, "source").status == "skipped"
    assert source.asked == []


@pytest.mark.parametrize(
    ("answer", "seen", "advice"),
    [
        (Answer(200, b'{"id": "p2"}'), "another entity, 'p2'", "Correct the URL"),
        (Answer(404, b"<html>", HTML), "a 404 as text/html is not believed", "Correct the URL"),
        (Answer(401), "answered 401", "Send a token that is allowed to read: HTTPFetcher(auth=)"),
        (Answer(0), "", "Is there a way"),
    ],
)
def test_an_answer_that_is_not_the_entity_is_a_problem(case, source, answer, seen, advice):
    source.answer = lambda id: answer

    finding = examine(case, "source")

    assert finding.status == "problem"
    assert seen in finding.seen
    assert finding.advice.startswith(advice)


def test_an_id_that_nobody_has_is_gone(case, source):
    assert examine(case, "source", "deleted entity").status == "ok"
    assert source.ids()[0] == "p1"
    assert len(source.ids()[1]) == 36  # a UUID


@pytest.mark.parametrize(
    ("answer", "status", "advice"),
    [
        (Answer(404, b"<html>", HTML), "problem", "A deletion would decide nothing"),
        (Answer(500), "problem", "A deletion would decide nothing"),
        (Answer(422), "warning", "The source refuses the id itself"),
        (Answer(403), "problem", "Send a token that is allowed to read: HTTPFetcher(auth=)"),
        (Answer(0), "problem", "Is there a way"),
        (None, "problem", "The source answers 200 to everything"),
    ],
)
def test_a_source_must_say_that_an_entity_is_gone(case, source, answer, status, advice):
    def respond(id):
        other = answer or Answer(200, json.dumps({"id": id}).encode())
        return None if id == "p1" else other

    source.answer = respond

    finding = examine(case, "source", "deleted entity")

    assert finding.status == status
    assert finding.advice.startswith(advice)


def test_the_owner_of_a_source_is_told_of_the_contract(case, source):
    source.answer = lambda id: Answer(404, b"<html>", HTML)

    assert "change_events.testing.SourceContract" in examine(case, "deleted entity").advice


def test_a_404_proves_little_while_no_id_is_known(case):
    case.known_id = None

    finding = examine(case, "source", "deleted entity")

    assert finding.status == "warning"
    assert "--id" in finding.advice


@pytest.mark.parametrize(
    ("known", "form"),
    [
        (None, r"[0-9a-f-]{36}"),
        ("p1", r"[0-9a-f-]{36}"),
        ("7", r"2[01]\d{8}"),
        ("71234567890123", r"9\d{13}"),
        ("6f1c2a34-9f6b-4a55-8a53-0242ac120002", r"6f1c2a34-9f6b-4a55-8a53-[0-9a-f]{12}"),
        ("6F1C2A349F6B4A558A530242AC120002", r"[0-9A-F]{32}"),
        ("prod_9KJ2mmQvXz41", r"prod_\d[A-Z]{2}\d[a-z]{2}[A-Z][a-z][A-Z][a-z]\d{2}"),
    ],
)
def test_an_id_that_nobody_has_looks_like_those_that_are_known(known, form):
    ids = {stranger(known) for _ in range(5)}

    assert known not in ids
    assert all(re.fullmatch(form, id) for id in ids), ids


# ETags

NGINX = '"67406a1b-1a4"'
WEAK = 'W/"27-3sHG"'
HASH = '"9e107d9d372bb6826bd81d3542a419d6"'


@pytest.mark.parametrize(
    ("tag", "trusted", "status", "seen"),
    [
        (None, False, "ok", "none"),
        (NGINX, False, "ok", "not relied on"),
        (NGINX, True, "problem", "a file's time and size"),
        (WEAK, False, "ok", "not relied on"),
        (WEAK, True, "warning", "weak"),
        (HASH, False, "ok", "looks like a hash"),
        (HASH, True, "ok", "relied on"),
        ('"v7"', True, "ok", "relied on"),
    ],
)
def test_an_etag_that_can_miss_a_change_must_not_be_trusted(
    case, source, tag, trusted, status, seen
):
    case.fetcher = HTTPFetcher(source.url + "/products/{id}", trust_etags=trusted)
    tags = {} if tag is None else {"ETag": tag}
    source.answer = lambda id: Answer(
        200, b'{"id": "p1"}', {"Content-Type": "application/json"} | tags
    )

    finding = examine(case, "source", "ETag")

    assert finding.status == status
    assert seen in finding.seen


def test_without_an_entity_nothing_is_said_about_etags(case, source):
    source.entities.clear()

    assert examine(case, "source", "ETag").status == "skipped"


# The list


@pytest.fixture
def listed(case, source):
    """Let the source list these ids; return the case."""

    def make(*ids, **body):
        def respond(asked):
            if asked.path == "/products":
                return Answer(200, json.dumps({"products": ids} | body).encode())
            return answer_of(source.entities, asked.path.rpartition("/")[2])

        source.respond = respond
        case.listing = HTTPListing(source.url + "/products", total="total")
        return case

    return make


def test_the_first_page_of_the_list_is_read_and_its_first_id_looked_for(listed):
    finding = examine(listed("p1", "p2", total=5000), "listing")

    assert finding == Finding("ok", "2 of 5,000 ids on its first page, like 'p1'")


def test_a_round_number_of_ids_without_a_next_page_is_warned_of(listed, source):
    source.entities |= {f"p{n}": {"id": f"p{n}"} for n in range(100)}

    finding = examine(listed(*(f"p{n}" for n in range(100))), "listing")

    assert finding.status == "warning"
    assert finding.seen == "100 ids on its first page, like 'p0', and no next page"
    assert "cursor=" in finding.advice
    assert examine(listed(*(f"p{n}" for n in range(99))), "listing").status == "ok"


def test_a_round_number_of_ids_with_a_next_page_is_not(listed, source):
    source.entities |= {f"p{n}": {"id": f"p{n}"} for n in range(100)}
    case = listed(*(f"p{n}" for n in range(100)))
    case.listing = HTTPListing(source.url + "/products", cursor="after")

    assert examine(case, "listing").status == "ok"


def test_a_round_number_in_a_list_of_ones_own_is_not(case, source):
    source.entities |= {f"p{n}": {"id": f"p{n}"} for n in range(10)}
    case.listing = [f"p{n}" for n in range(10)]

    assert examine(case, "listing").status == "ok"


def test_the_known_id_is_one_that_is_listed(listed):
    case = listed("p1")
    case.known_id = None

    assert examine(case, "listing", "source").status == "ok"


def test_a_list_of_something_else_is_a_problem(listed):
    finding = examine(listed(17), "listing")

    assert finding.status == "problem"
    assert "'17', which the source does not know" in finding.seen


def test_an_empty_list_is_warned_of(listed):
    assert examine(listed(), "listing").status == "warning"


def test_what_is_not_a_list_is_a_problem(case, source):
    source.answer = lambda id: Answer(200, b'"no"')
    case.listing = HTTPListing(source.url + "/products")

    (check,) = (each for each in doctor(case) if each.name == "listing")

    assert (check.status, "not a list" in check.seen) == ("problem", True)


def test_a_list_that_can_not_be_reached_is_a_problem_of_the_way_to_it(case, free_port):
    case.listing = HTTPListing(f"http://127.0.0.1:{free_port}/products")

    finding = examine(case, "listing")

    assert (finding.status, "a security group" in finding.advice) == ("problem", True)


def test_without_a_list_nothing_is_said_about_it(case):
    assert examine(case, "listing").status == "skipped"


# The cache


def test_a_sink_and_its_state_are_used(case, tmp_path):
    with SQLiteSink(tmp_path / "cache.db") as case.sink:
        assert examine(case, "sink") == Finding("ok", "SQLiteSink, empty so far")
        case.sink.apply("p1", Found({"id": "p1"}), if_version=0)
        assert examine(case, "sink") == Finding("ok", "SQLiteSink, has 'p1', for example")
        assert examine(case, "state") == Finding("ok", "stored and read")
        assert case.sink.state("doctor") == ""
        assert examine(case, "state") == Finding("ok", "stored and read")


def test_a_file_that_can_not_be_written_is_a_problem(case, tmp_path):
    file = tmp_path / "cache.db"
    with SQLiteSink(file, timeout=0.1) as case.sink, sqlite3.connect(file) as other:
        other.execute("BEGIN EXCLUSIVE")
        checks = {check.name: check for check in doctor(case)}
        other.rollback()
    other.close()

    assert checks["state"].status == "problem"
    assert "locked" in checks["state"].seen


def test_a_table_whose_entities_can_not_be_read_is_a_problem(case, line):
    case.sink = DynamoDBSink(make_table())
    body, headers = b'{"message": "no"}', {"x-amzn-ErrorType": "AccessDeniedException"}
    line.fault = lambda asked: (
        Answer(400, body, headers)
        if asked.headers["X-Amz-Target"].endswith("BatchGetItem")
        else None
    )

    (check,) = (each for each in doctor(case) if each.name == "sink")

    assert (check.status, "BatchGetItem" in check.seen) == ("problem", True)


def test_a_server_that_loses_entities_is_warned_of(case, make_redis):
    with make_redis() as server, server.client as client, RedisSink(server.url) as case.sink:
        finding = examine(case, "sink's server")
        assert finding.status == "warning"
        assert re.match(r"(Redis|Valkey) \d+\.\d+\.\d+: it has no append-only file", finding.seen)
        assert finding.advice.startswith("Set appendonly yes.")

        client.config_set("maxmemory-policy", "allkeys-lru")
        finding = examine(case, "sink's server")
        assert finding.status == "warning"
        assert "its maxmemory-policy is 'allkeys-lru'" in finding.seen
        assert finding.advice.startswith("Set maxmemory-policy noeviction. Set appendonly yes.")

        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
        assert examine(case, "sink's server").status == "ok"


def test_a_sink_without_a_server_is_not_examined(case):
    case.sink = MemorySink()

    assert examine(case, "sink's server") == Finding("skipped", "MemorySink says nothing about it")


class Plain:
    """A sink that can do only what every sink must."""

    def __init__(self) -> None:
        self.memory = MemorySink()
        self.entry, self.apply = self.memory.entry, self.memory.apply


def test_a_plain_sink_is_warned_of(case):
    case.sink = Plain()

    assert examine(case, "sink").seen == "Plain can't name its ids"
    assert examine(case, "state").seen == "Plain keeps none"


class Forgetful(MemorySink):
    """Stores states where they are not read."""

    def state(self, name: str, /) -> str | None:
        return None


class Contended(MemorySink):
    """Refuses states as if another process had changed them."""

    def set_state(self, name: str, text: str, /, *, if_state: str | None) -> bool:
        return False


def test_a_state_that_is_not_read_again_is_a_problem(case):
    case.sink = Forgetful()

    assert examine(case, "state").status == "problem"


def test_a_state_that_others_change_at_once_says_nothing(case):
    case.sink = Contended()

    assert examine(case, "state").status == "skipped"


# The clock


@pytest.mark.parametrize(
    ("ahead", "status", "seen"),
    [
        (0, "ok", "within 1 s of SQS and the source"),
        (400, "warning", "ahead of"),
        (-400, "warning", "behind"),
    ],
)
def test_a_clock_that_is_wrong_is_warned_of(case, ahead, status, seen):
    case.now = lambda: time.time() + ahead
    case.compare_clock("SQS", formatted(time.time()))

    finding = examine(case, "clock")

    assert finding.status == status
    assert seen in finding.seen


def formatted(seconds: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))


def test_a_date_that_is_not_one_is_not_compared(case, source):
    source.answer = lambda id: Answer(0)
    case.compare_clock("SQS", None)
    case.compare_clock("SQS", "yesterday")
    case.compare_clock("SQS", "Thu, 99999999999999999999 Jan 1970 00:00:00 GMT")

    assert examine(case, "clock") == Finding("skipped", "nobody told the time")


def test_a_fetcher_of_another_kind_tells_no_time(case):
    case.fetcher = None

    assert examine(case, "clock").status == "skipped"


# All of them


def test_without_a_queue_the_rest_is_checked(case):
    checks = list(doctor(case))

    assert checks[0] == Check("queue", "skipped", "no queue was given")
    assert [check.name for check in checks[1:]] == list(OF_A_CACHE)
    assert {check.name: check.status for check in checks[1:]} == dict.fromkeys(
        OF_A_CACHE, "skipped"
    ) | {"source": "ok", "deleted entity": "ok", "ETag": "ok", "clock": "ok"}


class Hanging(MemorySink):
    """Does not answer until the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def entry(self, id: str, /):
        assert self.over.wait(30)
        return super().entry(id)


def test_a_check_that_hangs_does_not_stop_the_others(case):
    case.sink = Hanging()

    checks = {check.name: check for check in doctor(case, bound=5.0)}

    case.sink.over.set()
    assert checks["sink"].seen == "no answer within 5 s"
    assert (checks["state"].status, checks["source"].status) == ("ok", "ok")


class Broken(MemorySink):
    """Fails as a user's own sink can."""

    def entry(self, id: str, /):
        raise KeyError(id)


def test_what_a_check_raises_is_shown_with_its_type(case):
    case.sink = Broken()

    checks = {check.name: check for check in doctor(case)}

    assert (checks["sink"].status, checks["sink"].seen) == ("problem", "KeyError: 'p1'")
    assert checks["source"].status == "ok"


class FindsAll:
    """A fetcher that finds every id."""

    def fetch(self, id, /, *, etag=None):
        return Found({"id": id})


def test_a_source_that_finds_everything_is_a_problem_although_no_id_is_known(case):
    case.fetcher, case.known_id = FindsAll(), None

    assert examine(case, "deleted entity").status == "problem"


def test_the_clock_that_is_farthest_off_counts(case):
    case.fetcher, case.offsets = FindsAll(), {"SQS": -400.0, "the source": 2.0}

    assert examine(case, "clock").status == "warning"


def test_a_topic_that_is_named_comes_before_the_worker_s():
    one, other = (f"arn:aws:sns:eu-west-1:123456789012:{name}" for name in ("one", "other"))
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"
    worker = Worker(url, fetcher=FindsAll(), sink=MemorySink(), topic_arn=one)

    assert Case.of(worker, topic_arn=other).topic_arn == other
