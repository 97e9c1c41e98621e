"""DynamoDBSink over the wire, against the emulator."""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
from functools import partial
from types import SimpleNamespace

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from change_events import ConfigurationError, DynamoDBSink, Entry, Found, Gone, Unchanged
from change_events.sinks import dynamodb as dynamodb_sink
from change_events.testing import SinkContract

DAY = 24 * 3600.0
FOUND = Found({"id": "p1", "name": "Anvil"}, '"one"')


@pytest.fixture(scope="session")
def dynamodb(aws):
    return boto3.client("dynamodb")


@pytest.fixture
def make_table(dynamodb):
    def make(*keys):
        name = uuid.uuid4().hex
        dynamodb.create_table(
            TableName=name,
            AttributeDefinitions=[
                {"AttributeName": key, "AttributeType": kind} for key, kind, _ in keys
            ],
            KeySchema=[{"AttributeName": key, "KeyType": role} for key, _, role in keys],
            BillingMode="PAY_PER_REQUEST",
        )
        return name

    return make


@pytest.fixture
def table(make_table):
    return make_table(("id", "S", "HASH"))


class TestDynamoDBSink(SinkContract):
    @pytest.fixture
    def sink(self, table, clock):
        return DynamoDBSink(table, clock=clock)

    @pytest.fixture
    def open_again(self, table):
        return partial(DynamoDBSink, table)


def test_an_item_is_as_documented(table, dynamodb):
    sink = DynamoDBSink(table, revision="r1", clock=lambda: 7.5)
    sink.apply("p1", Found({"name": "Ü", "n": [1, None, True]}, '"one"', "d1"), if_version=0)
    sink.apply("p2", Gone(), if_version=0)

    items = {item["id"]["S"]: item for item in dynamodb.scan(TableName=table)["Items"]}
    assert items == {
        "p1": {
            "id": {"S": "p1"},
            "version": {"N": "7500000"},
            "present": {"BOOL": True},
            "body": {"S": json.dumps({"name": "Ü", "n": [1, None, True]})},
            "etag": {"S": '"one"'},
            "digest": {"S": "d1"},
            "revision": {"S": "r1"},
            "applied_at": {"N": "7.5"},
        },
        "p2": {
            "id": {"S": "p2"},
            "version": {"N": "7500000"},
            "present": {"BOOL": False},
            "applied_at": {"N": "7.5"},
        },
    }
    documented = re.findall(r"^ +(\w+) +(S|N|BOOL)\b", DynamoDBSink.__doc__, re.MULTILINE)
    assert [(name, *value) for name, value in sorted(items["p1"].items())] == sorted(documented)


def test_an_item_of_a_page_is_the_same_until_its_entity_is_gone(table, dynamodb):
    client, names = boto3.client("dynamodb"), []
    sink = DynamoDBSink(table, client=client, revision="r1", clock=lambda: 7.5)
    client.meta.events.register(
        "before-call.dynamodb.UpdateItem",
        lambda **_: names.append(threading.current_thread().name.rpartition("_")[0]),
    )
    assert sink.insert_many({"p1": Found({"n": 1}, '"one"', "d1")}) == {"p1"}

    assert dynamodb.scan(TableName=table)["Items"] == [
        {
            "id": {"S": "p1"},
            "version": {"N": "7500000"},
            "present": {"BOOL": True},
            "body": {"S": '{"n": 1}'},
            "etag": {"S": '"one"'},
            "digest": {"S": "d1"},
            "revision": {"S": "r1"},
            "applied_at": {"N": "7.5"},
        }
    ]
    assert names == ["change-events insert"]

    assert sink.apply("p1", Gone(), if_version=7500000)
    assert dynamodb.scan(TableName=table)["Items"] == [
        {
            "id": {"S": "p1"},
            "version": {"N": "7500001"},
            "present": {"BOOL": False},
            "applied_at": {"N": "7.5"},
        }
    ]


def test_without_a_revision_an_item_has_none(table, dynamodb):
    DynamoDBSink(table).apply("p1", FOUND, if_version=0)

    (item,) = dynamodb.scan(TableName=table)["Items"]
    assert "revision" not in item


def test_a_client_of_the_sink_gives_up_after_three_short_attempts(table):
    config = DynamoDBSink(table)._items._client.meta.config

    assert (config.connect_timeout, config.read_timeout) == (2, 5)
    assert (config.retries["mode"], config.retries["total_max_attempts"]) == ("standard", 3)
    assert config.max_pool_connections == 100


def test_attributes_of_the_user_are_kept(table, dynamodb):
    sink = DynamoDBSink(table)
    sink.apply("p1", FOUND, if_version=0)
    dynamodb.update_item(
        TableName=table,
        Key={"id": {"S": "p1"}},
        UpdateExpression="SET shelf = :shelf",
        ExpressionAttributeValues={":shelf": {"N": "7"}},
    )

    for change in (Unchanged(), Gone(), FOUND):
        assert sink.apply("p1", change, if_version=sink.entry("p1").version)

    assert dynamodb.get_item(TableName=table, Key={"id": {"S": "p1"}})["Item"]["shelf"] == {
        "N": "7"
    }


def test_an_item_of_the_user_can_exist_before_the_entity(table, dynamodb):
    dynamodb.put_item(TableName=table, Item={"id": {"S": "p1"}, "shelf": {"N": "7"}})
    sink = DynamoDBSink(table)

    assert sink.entry("p1") == Entry()
    assert sink.apply("p1", FOUND, if_version=0)
    assert sink.get("p1") == FOUND.value


def test_all_pages_are_read(table):
    now = 0.0
    sink = DynamoDBSink(table, clock=lambda: now)
    large = {"text": "x" * 300_000}  # a page has at most 1 MB
    for n in range(8):
        sink.apply(f"p{n}", Found(large), if_version=0)
        sink.apply(f"gone{n}", Gone(), if_version=0)

    assert {id for id, _ in sink.items()} == {f"p{n}" for n in range(8)}
    assert len(sink) == 8
    now = 15 * DAY
    assert sink.purge() == 8


def test_entities_that_an_answer_has_no_room_for_are_asked_for_again(table):
    calls = []
    client = boto3.client("dynamodb")
    client.meta.events.register(
        "provide-client-params.dynamodb.BatchGetItem",
        lambda params, **_: calls.append(params["RequestItems"][table]),
    )
    sink = DynamoDBSink(table, client=client)
    large = {"text": "x" * 390_000}  # an answer has at most 16 MB
    ids = [f"p{n}" for n in range(44)]
    sink.insert_many({id: Found(large) for id in ids})

    assert sink.get_many([*ids, "never seen"]) == dict.fromkeys(ids, large)
    assert len(calls) == 2
    assert all(each["ConsistentRead"] for each in calls)


def test_a_table_that_reads_nothing_is_an_error(table):
    def busy(params, **_):
        asked = json.loads(params["body"])["RequestItems"]
        return SimpleNamespace(status_code=200), {"Responses": {}, "UnprocessedKeys": asked}

    client = boto3.client("dynamodb")
    # The emulator itself is never busy.
    client.meta.events.register("before-call.dynamodb.BatchGetItem", busy)

    with pytest.raises(RuntimeError, match="too busy"):
        DynamoDBSink(table, client=client).get_many(["p1", "p2"])


def test_ids_are_named_beyond_many_tombstones_and_after_an_id_that_was_purged(table):
    now = 0.0
    sink = DynamoDBSink(table, clock=lambda: now)
    for n in range(150):
        sink.apply(f"gone{n}", Gone(), if_version=0)
        if n % 60 == 0:
            sink.apply(f"p{n}", FOUND, if_version=0)
    first = sink.ids(limit=1)[0]
    sink.apply(first, Gone(), if_version=sink.entry(first).version)
    now = 15 * DAY
    sink.purge()

    assert sink.entry(first) == Entry()
    assert {first, *sink.ids(after=first)} == {"p0", "p60", "p120"}


def test_state_is_in_an_item_that_is_not_an_entity(table, dynamodb):
    DynamoDBSink(table).set_state("guard", "text", if_state=None)

    assert dynamodb.scan(TableName=table)["Items"] == [
        {"id": {"S": "\x1fguard"}, "state_text": {"S": "text"}}
    ]


def test_a_listing_does_not_go_on_in_a_fork(table, monkeypatch):
    sink = DynamoDBSink(table)
    for n in range(2):
        sink.apply(f"p{n}", FOUND, if_version=0)
    items = sink.items()
    next(items)
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)

    with pytest.raises(ConfigurationError, match="DynamoDBSink was made in process"):
        list(items)


def test_reads_are_consistent(table):
    client = boto3.client("dynamodb")
    calls = []
    for operation in ("GetItem", "Scan"):
        client.meta.events.register(
            f"provide-client-params.dynamodb.{operation}", lambda params, **_: calls.append(params)
        )
    sink = DynamoDBSink(table, client=client)
    sink.entry("p1")
    sink.get("p1")
    list(sink.items())
    len(sink)
    sink.ids()
    sink.state("guard")
    sink.purge()

    assert len(calls) == 8
    assert all(call["ConsistentRead"] is True for call in calls)


def test_a_scan_reads_and_transfers_no_more_than_it_needs(table):
    client = boto3.client("dynamodb")
    limits, answers = [], []
    events = client.meta.events
    events.register(
        "provide-client-params.dynamodb.Scan",
        lambda params, **_: limits.append(params.get("Limit")),
    )
    events.register("after-call.dynamodb.Scan", lambda parsed, **_: answers.append(parsed))
    sink = DynamoDBSink(table, client=client)
    sink.apply("p1", FOUND, if_version=0)

    assert sink.ids(limit=1) == sink.ids(limit=101) == sink.ids() == ["p1"]
    assert limits == [100, 101, 1000]
    assert len(sink) == 1
    assert [answer.get("Items") for answer in answers] == [[{"id": {"S": "p1"}}]] * 3 + [None]


def test_a_purge_keeps_a_tombstone_that_gets_a_look_meanwhile(table):
    now = 0.0
    sink = DynamoDBSink(table, clock=lambda: now)
    for id in ("p1", "p2"):
        sink.apply(id, Gone(), if_version=0)
    now = 15 * DAY
    client = boto3.client("dynamodb")
    purging = DynamoDBSink(table, client=client, clock=lambda: now)

    def look(**_):
        sink.apply("p1", Gone(), if_version=sink.entry("p1").version)

    client.meta.events.register_first("before-call.dynamodb.DeleteItem", look)

    assert purging.purge() == 1
    assert sink.entry("p1") != Entry()
    assert sink.entry("p2") == Entry()


def test_a_write_whose_answer_is_lost_counts_as_a_lost_compare_and_set(table):
    client = boto3.client(
        "dynamodb", config=Config(retries={"mode": "standard", "total_max_attempts": 2})
    )
    sink = DynamoDBSink(table, client=client)
    lost = []

    def lose_the_first(**_):
        if lost:
            return None
        lost.append(True)
        return 0  # seconds until boto3 asks again

    client.meta.events.register_first("needs-retry.dynamodb.UpdateItem", lose_the_first)

    assert sink.apply("p1", FOUND, if_version=0) is False
    assert sink.get("p1") == FOUND.value
    assert sink.apply("p1", FOUND, if_version=sink.entry("p1").version)


PAGE = {f"p{n}": Found({"n": n}, None, f"d{n}") for n in range(30)}


def test_a_page_is_stored_by_ten_writes_at_a_time(table):
    client = boto3.client("dynamodb")
    sink = DynamoDBSink(table, client=client)
    meet = threading.Barrier(10, timeout=60)

    def wait_for_nine_others(**_):
        meet.wait()

    client.meta.events.register("before-call.dynamodb.UpdateItem", wait_for_nine_others)

    assert sink.insert_many(PAGE) == set(PAGE)
    assert dict(sink.items()) == {id: found.value for id, found in PAGE.items()}


def test_of_a_page_an_entity_whose_answer_is_lost_does_not_count_as_stored(table):
    client = boto3.client(
        "dynamodb", config=Config(retries={"mode": "standard", "total_max_attempts": 2})
    )
    sink = DynamoDBSink(table, client=client)
    lost = []

    def lose_that_of_p7(request_dict, attempts, **_):
        if b'"p7"' not in request_dict["body"] or attempts > 1:
            return None
        lost.append(request_dict)
        return 0  # seconds until boto3 asks again

    client.meta.events.register_first("needs-retry.dynamodb.UpdateItem", lose_that_of_p7)

    assert sink.insert_many(PAGE) == PAGE.keys() - {"p7"}
    assert sink.get("p7") == PAGE["p7"].value
    assert len(lost) == 1


def test_a_page_of_which_dynamodb_refuses_one_entity_raises_and_can_be_repeated(table):
    client = boto3.client("dynamodb")
    sink = DynamoDBSink(table, client=client)
    refused = []

    def refuse_p7_once(params, **_):
        if b'"p7"' in params["body"] and not refused:
            refused.append(params)
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, "UpdateItem")

    client.meta.events.register("before-call.dynamodb.UpdateItem", refuse_p7_once)

    with pytest.raises(ClientError, match="Throttling"):
        sink.insert_many(PAGE)
    before = {id for id, _ in sink.items()}
    assert "p7" not in before
    assert sink.insert_many(PAGE) == PAGE.keys() - before
    assert len(sink) == len(PAGE)


@pytest.mark.parametrize("value", [object(), float("nan"), "x" * dynamodb_sink.MAX_BODY])
def test_a_page_with_an_entity_that_no_item_can_hold_stores_nothing(table, value):
    sink = DynamoDBSink(table)
    with pytest.raises((TypeError, ValueError), match="JSON"):
        sink.insert_many({**PAGE, "bad": Found({"value": value})})

    assert len(sink) == 0


@pytest.mark.parametrize("value", [object(), float("inf"), float("nan")])
def test_an_entity_that_json_can_not_hold_is_not_written(table, value):
    sink = DynamoDBSink(table)
    with pytest.raises((TypeError, ValueError), match="JSON"):
        sink.apply("p1", Found({"value": value}), if_version=0)

    assert sink.entry("p1") == Entry()


def test_of_a_page_the_entity_that_is_too_large_is_named(table):
    with pytest.raises(ValueError, match=r"^'large' has .*, or choose another sink$"):
        DynamoDBSink(table).insert_many({"large": Found({"n": "x" * dynamodb_sink.MAX_BODY})})


def test_an_entity_can_be_as_large_as_an_item_but_not_larger(table):
    sink = DynamoDBSink(table)
    room = dynamodb_sink.MAX_BODY - len('{"text": ""}')
    id = "\U0001f40d" * 512
    assert sink.apply(id, Found({"text": "x" * room}, "e" * 1000), if_version=0)

    with pytest.raises(
        ValueError, match=r"^'p1' has 401409 bytes as JSON.*let the fetcher leave out"
    ):
        sink.apply("p1", Found({"text": "x" * (room + 1)}), if_version=0)
    assert sink.entry("p1") == Entry()


# Errors at the start


def test_a_missing_table_is_an_error_at_the_start(aws):
    with pytest.raises(
        ConfigurationError,
        match=r"'nowhere' can't be used: .*not found.*dynamodb:GetItem and UpdateItem",
    ):
        DynamoDBSink("nowhere")


def test_the_error_at_the_start_says_what_to_check(aws):
    with pytest.raises(ConfigurationError) as caught:
        DynamoDBSink("nowhere")

    assert str(caught.value).endswith(
        ". Check that it exists, that its key is 'id', a string, alone, and that the credentials "
        "and region that boto3 finds allow dynamodb:GetItem and UpdateItem on it"
    )


@pytest.mark.parametrize(
    "keys",
    [
        [("product", "S", "HASH")],
        [("id", "S", "HASH"), ("sort", "S", "RANGE")],
    ],
    ids=["another name", "two keys"],  # the emulator does not check the key's type
)
def test_a_table_with_another_key_is_an_error_at_the_start(make_table, keys):
    with pytest.raises(ConfigurationError, match=r"Check .* that its key is 'id', a string, alone"):
        DynamoDBSink(make_table(*keys))


@pytest.mark.parametrize("operation", ["GetItem", "UpdateItem"])
def test_a_missing_permission_is_an_error_at_the_start(table, operation):
    client = boto3.client("dynamodb")
    denied = {
        "Error": {
            "Code": "AccessDeniedException",
            "Message": f"not authorized to perform dynamodb:{operation}",
        }
    }

    def deny(**_):
        raise ClientError(denied, operation)

    # The emulator itself permits everything.
    client.meta.events.register(f"before-call.dynamodb.{operation}", deny)

    with pytest.raises(ConfigurationError, match=f"not authorized to perform dynamodb:{operation}"):
        DynamoDBSink(table, client=client)


def test_a_missing_region_is_an_error_at_the_start(monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    with pytest.raises(ConfigurationError, match="specify a region"):
        DynamoDBSink("products")
