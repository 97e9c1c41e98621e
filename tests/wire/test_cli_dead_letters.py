"""`change-events dead-letters` finds the worker's dead letters, and touches no others."""

from __future__ import annotations

import json
import sys

import boto3
import pytest

from change_events import FetchError
from command_line import run
from verification.harness.wire import Answer


def arn_of(sqs, url):
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return answer["Attributes"]["QueueArn"]


def policy(sqs, url):
    return json.dumps({"deadLetterTargetArn": arn_of(sqs, url), "maxReceiveCount": "5"})


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    """A long poll asks all servers of SQS. The emulator is only one."""
    monkeypatch.setattr("change_events._operations.letters.WAIT", 0)


@pytest.fixture
def dead(make_channel):
    """The dead-letter queue of the worker's queue."""
    return make_channel()


@pytest.fixture
def letters(dead, channel, sqs):
    """Put letters of these ids into the dead-letter queue of the worker's queue."""
    sqs.set_queue_attributes(
        QueueUrl=channel.queue_url, Attributes={"RedrivePolicy": policy(sqs, dead.queue_url)}
    )

    def send(*ids):
        for id in ids:
            dead.send(json.dumps({"id": id}))

    return send


# list


def test_letters_are_counted_and_stay(app, dead, letters, source):
    letters("p1", "p1", "p2")
    dead.send("no event")

    result = run("dead-letters", "list", app)

    assert result.exit_code == 1
    counts, _, reasons = result.output.partition("4 letters of 2 ids")
    assert counts.splitlines() == ["p1: 2", "p2: 1"]
    assert "letters that are not change events: 1" in reasons
    assert dead.count() == {"visible": 4}
    assert source.asked == []


def test_no_letters_are_status_0(app, letters):
    result = run("dead-letters", "list", app)

    assert result.exit_code == 0
    assert result.output.startswith("0 letters of 0 ids")


def test_the_list_is_json(app, letters):
    letters("p1")

    told = json.loads(run("dead-letters", "list", app, "--json").stdout)

    assert (told["letters"], told["ids"], told["dry_run"], told["stopped"]) == (
        1,
        {"p1": 1},
        True,
        None,
    )


def test_a_limit_holds(app, letters):
    letters("p1", "p2", "p3")

    assert "1 letters of 1 ids" in run("dead-letters", "list", app, "--limit", "1").output


# redrive


def test_without_yes_a_redrive_only_says_what_it_would_do(app, dead, letters, source, sink):
    letters("p1", "p1")

    result = run("dead-letters", "redrive", app)

    assert result.exit_code == 1
    assert "It would look at 1 ids. To do so, add --yes." in result.output
    assert dead.count() == {"visible": 2}
    assert source.asked == []


def test_a_redrive_looks_and_deletes_what_it_settles(app, dead, letters, source, sink):
    letters("p1", "p1")
    source.entities = {"p1": {"id": "p1"}}

    result = run("dead-letters", "redrive", app, "--yes")

    assert result.exit_code == 0
    assert "1 looks, 2 letters deleted, 0 kept" in result.output
    assert sink.get("p1") == {"id": "p1"}
    assert dead.count() == {}


def test_no_letter_is_deleted_for_a_cache_in_memory(
    dead, letters, channel, source, tmp_path, monkeypatch
):
    """The look would be stored in a cache that ends with the command, and the worker's stay old."""
    letters("p1")
    source.entities = {"p1": {"id": "p1"}}
    (tmp_path / "forgetful_cache.py").write_text(
        "from change_events import HTTPFetcher, MemorySink, Worker\n"
        f"fetcher = HTTPFetcher('{source.url}/products/{{id}}')\n"
        f"worker = Worker('{channel.queue_url}', fetcher=fetcher, sink=MemorySink())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    listed = run("dead-letters", "list", "forgetful_cache:worker")
    monkeypatch.delitem(sys.modules, "forgetful_cache")

    result = run("dead-letters", "redrive", "forgetful_cache:worker", "--yes")

    monkeypatch.delitem(sys.modules, "forgetful_cache")
    assert listed.stdout.startswith("p1: 1\n")
    assert result.exit_code == 2
    assert "is in memory" in result.stderr
    assert dead.count() == {"visible": 1}
    assert source.asked == []


def test_letters_that_are_kept_are_status_1(app, dead, letters, source):
    letters("p1", "p2")
    source.answer = lambda id: Answer(500) if id == "p1" else None

    result = run("dead-letters", "redrive", app, "--yes")

    assert result.exit_code == 1
    assert "p1: GET " in result.output
    assert dead.count() == {"visible": 1}


def test_a_redrive_that_stops_early_is_status_3(app, dead, letters, source, monkeypatch):
    ids = [f"p{n}" for n in range(8)]
    letters(*ids)
    source.answer = lambda id: Answer(503)
    monkeypatch.setenv("CHANGE_EVENTS_DEAD_LETTERS_REDRIVE_YES", "true")

    result = run("dead-letters", "redrive", app, "--json")

    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert "answered 503" in told["stopped"]
    assert (told["deleted"], told["kept"]) == (0, 8)
    assert "stopped early: GET " in result.stderr
    assert dead.count() == {"visible": 8}


def test_a_redrive_shows_its_progress(app, letters, monkeypatch):
    letters("p1")
    monkeypatch.setattr("change_events._operations.dead_letters.TELL_EVERY", 0.0)
    monkeypatch.setattr("change_events._cli.progress.LINE_EVERY", 0.0)

    result = run("dead-letters", "redrive", app, "--yes")

    assert "redrive: 1 letters of 1 ids" in result.stderr


# drop


def test_without_yes_nothing_is_dropped(app, dead, letters):
    letters("p1")
    dead.send("no event")

    result = run("dead-letters", "drop", app)

    assert result.exit_code == 1
    named, counted = result.output.splitlines()
    assert named.startswith("message ")
    assert "the body is not" in named
    assert counted == "2 letters: 1 would be dropped; to drop them, add --yes"
    assert dead.count() == {"visible": 2}


def test_only_what_is_not_an_event_is_dropped_by_default(app, dead, letters, source):
    letters("p1")
    dead.send("no event")

    result = run("dead-letters", "drop", app, "--yes")

    assert result.exit_code == 0
    assert result.output.endswith("2 letters: 1 dropped\n")
    assert dead.ids() == ["p1"]
    assert source.asked == []


def test_the_letters_of_ids_are_dropped(app, dead, letters):
    letters("p1", "p2", "p2")
    dead.send("no event")

    result = run("dead-letters", "drop", app, "p2", "--yes", "--json")

    told = json.loads(result.stdout)
    assert (told["dropped"], told["ids"], told["reasons"]) == (2, {"p2": 2}, {})
    assert dead.count() == {"visible": 2}


def test_all_letters_are_dropped_if_that_is_said(app, dead, letters):
    letters("p1", "p2")
    dead.send("no event")

    assert "3 letters: 3 dropped" in run("dead-letters", "drop", app, "--all", "--yes").output
    assert dead.count() == {}


def test_ids_and_all_are_a_mistake(app, dead, letters):
    letters("p1")

    result = run("dead-letters", "drop", app, "p1", "--all", "--yes")

    assert result.exit_code == 2
    assert "Give ids or --all, not both." in result.stderr
    assert dead.count() == {"visible": 1}


def test_very_many_letters_are_not_all_named(app, dead, letters, monkeypatch):
    monkeypatch.setattr("change_events._cli.dead_letters.SHOWN", 2)
    letters("p1", "p2", "p3")

    assert "p2: 1 letters\nand 1 more\n" in run("dead-letters", "drop", app, "--all").output


def test_a_letter_whose_signature_cannot_be_verified_now_is_kept(
    make_worker, name_app, dead, letters, monkeypatch
):
    def verify(envelope):
        raise FetchError("the certificate can't be fetched")

    monkeypatch.setattr("change_events._operations.dropping.make_verifier", lambda _: verify)
    dead.send(json.dumps({"Type": "Notification", "Message": '{"id": "p1"}', "TopicArn": "x"}))

    result = run("dead-letters", "drop", name_app(make_worker()), "--yes")
    everything = run("dead-letters", "drop", name_app(make_worker()), "--all")

    assert result.output == "1 letters: 0 dropped\n"
    assert everything.output.startswith("message ")
    assert ": its signature can't be verified now\n1 letters: 1 would be" in everything.output
    assert dead.count() == {"visible": 1}


# Which queue


def test_a_queue_without_a_redrive_policy_has_no_letters(app, channel):
    result = run("dead-letters", "list", app)

    assert result.exit_code == 2
    assert f"{channel.queue_url} has no redrive policy" in result.stderr
    assert "--queue URL" in result.stderr


@pytest.mark.parametrize("named", [True, False], ids=["topic_arn", "no topic_arn"])
def test_the_dead_letter_queue_of_the_subscription_can_be_named(
    make_worker, name_app, make_channel, channel, sns, sqs, named
):
    dead = make_channel()
    (subscription,) = sns.list_subscriptions_by_topic(TopicArn=channel.topic_arn)["Subscriptions"]
    sns.set_subscription_attributes(
        SubscriptionArn=subscription["SubscriptionArn"],
        AttributeName="RedrivePolicy",
        AttributeValue=json.dumps({"deadLetterTargetArn": arn_of(sqs, dead.queue_url)}),
    )
    app = name_app(make_worker(topic_arn=channel.topic_arn if named else None))

    result = run("dead-letters", "list", app, "--queue", dead.queue_url)

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", ["list", "redrive", "drop"])
def test_the_queue_of_another_cache_is_refused_and_stays_as_it_is(
    app, letters, make_channel, source, command, monkeypatch
):
    other = make_channel()
    other.send('{"id": "p1"}')
    monkeypatch.setenv("CHANGE_EVENTS_DEAD_LETTERS_QUEUE", other.queue_url)
    options = [] if command == "list" else ["--yes"]

    result = run("dead-letters", command, app, *options)

    assert result.exit_code == 2
    assert f"{other.queue_url} is neither the dead-letter queue of " in result.stderr
    assert other.count() == {"visible": 1}
    assert source.asked == []


def test_the_workers_own_queue_is_refused(app, channel):
    channel.announce("p1")

    result = run("dead-letters", "redrive", app, "--queue", channel.queue_url, "--yes")

    assert result.exit_code == 2
    assert "is the worker's own queue, not a dead-letter queue" in result.stderr
    assert channel.count() == {"visible": 1}


def test_the_workers_dead_letter_queue_can_be_named(app, dead, letters):
    letters("p1")

    assert "p1: 1" in run("dead-letters", "list", app, "--queue", dead.queue_url).output


def test_a_queue_that_does_not_exist_is_told(app, channel, make_worker, name_app):
    gone = channel.queue_url + "-gone"

    for result in (
        run("dead-letters", "list", app, "--queue", gone),
        run("dead-letters", "list", name_app(make_worker(gone))),
        run("dead-letters", "list", app, "--queue", "nonsense"),
    ):
        assert result.exit_code == 2
        assert "gone can't be read" in result.stderr or "is not a queue's URL" in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_if_sns_does_not_say_whose_queue_it_is_nothing_is_done(
    app, letters, make_channel, monkeypatch
):
    other = make_channel()
    monkeypatch.setattr(
        "change_events._cli.queues.make_client",
        lambda service, **_: boto3.client(service, endpoint_url="http://127.0.0.1:1"),
    )
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    result = run("dead-letters", "list", app, "--queue", other.queue_url)

    assert result.exit_code == 2
    assert "whose dead-letter queue it is can't be checked: Could not connect" in result.stderr
    assert "sns:ListSubscriptions" in result.stderr
