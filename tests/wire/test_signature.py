"""
SNS's signatures. A real HTTPS server stands in for SNS's endpoint with the certificates; only the
name look-up is changed.
"""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
import time
import uuid
from types import SimpleNamespace

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from change_events import (
    ConfigurationError,
    DecodeError,
    FetchError,
    HTTPFetcher,
    MemorySink,
    Worker,
)
from change_events._codec import decode
from change_events._consumer import signature as signature_module
from change_events._consumer.signature import SignatureVerifier
from change_events.testing import FakeQueue, FakeSource
from conftest import DAY, NOW, Source, certificate, running, serving, wait_until
from verification.harness.wire import HANG_UP, Answer

HOST = "sns.eu-west-1.amazonaws.com"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"
NAME = f"SimpleNotificationService-{'0a' * 16}.pem"
URL = f"https://{HOST}/{NAME}"
BODY = '{"id": "p1"}'


@pytest.fixture(scope="session")
def key():
    """SNS's private key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def another_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(certificate):
    return Answer(
        body=certificate.public_bytes(serialization.Encoding.PEM),
        headers={"Content-Type": "application/x-pem-file"},
    )


@pytest.fixture(scope="session")
def server_context(authority):
    return authority[1](HOST)


@pytest.fixture
def sns_endpoint(authority, server_context, look_up, monkeypatch, key):
    """SNS's endpoint in eu-west-1. It answers with its `certificates`, by name."""
    endpoint = Source()
    endpoint.certificates = {NAME: pem(certificate(key))}
    endpoint.answer = endpoint.certificates.get
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    with serving(endpoint, server_context):
        look_up[HOST] = int(endpoint.url.rpartition(":")[2])
        yield endpoint


@pytest.fixture
def verifier(sns_endpoint):
    made = SignatureVerifier(TOPIC)
    yield made
    made._pool.clear()


def envelope(key, *, version="2", url=URL, message=BODY, **fields):
    """A message in SNS's envelope, signed."""
    content = {
        "Type": "Notification",
        "MessageId": str(uuid.uuid4()),
        "TopicArn": TOPIC,
        "Message": message,
        "Timestamp": timestamp(NOW),
        "SignatureVersion": version,
        "SigningCertURL": url,
        "UnsubscribeURL": f"https://{HOST}/?Action=Unsubscribe&SubscriptionArn={TOPIC}:c9135db0",
        **fields,
    }
    return content | {"Signature": signature(key, content)}


def timestamp(time):
    """Write a time as SNS does."""
    return f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z"


def signature(key, content):
    subject = f"Subject\n{content['Subject']}\n" if "Subject" in content else ""
    text = (
        f"Message\n{content['Message']}\nMessageId\n{content['MessageId']}\n{subject}"
        f"Timestamp\n{content['Timestamp']}\nTopicArn\n{content['TopicArn']}\n"
        f"Type\n{content['Type']}\n"
    )
    algorithm = hashes.SHA256() if content["SignatureVersion"] == "2" else hashes.SHA1()
    return base64.b64encode(key.sign(text.encode(), padding.PKCS1v15(), algorithm)).decode()


# Envelopes


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"Subject": "Hello"}, {"Message": '{"id": "Öl\\n\\ud83d\\ude00"}'}, {"Message": "Ö\n😀"}],
)
def test_an_envelope_that_sns_signed_is_accepted(verifier, key, version, fields):
    verifier.verify(envelope(key, version=version, **fields))


def test_a_null_subject_counts_as_absent(verifier, key):
    verifier.verify(envelope(key) | {"Subject": None})


SIGNED = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("name", SIGNED)
def test_an_altered_field_is_refused(verifier, key, version, name):
    content = envelope(key, version=version, Subject="Hello")

    with pytest.raises(DecodeError, match="its signature is wrong"):
        verifier.verify(content | {name: content[name] + " "})


@given(name=st.sampled_from(SIGNED), text=st.text(st.characters()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_text_in_a_field_is_refused(verifier, key, name, text):
    content = envelope(key, Subject="Hello")

    if text != content[name]:
        with pytest.raises(DecodeError, match="its signature is wrong"):
            verifier.verify(content | {name: text})


def test_an_added_or_removed_subject_is_refused(verifier, key):
    with pytest.raises(DecodeError, match="its signature is wrong"):
        verifier.verify(envelope(key) | {"Subject": "Hello"})
    with pytest.raises(DecodeError, match="its signature is wrong"):
        verifier.verify(envelope(key, Subject="Hello") | {"Subject": None})


@pytest.mark.parametrize("odd", [None, 1, ["1"], {"1": "1"}])
@pytest.mark.parametrize("name", [*SIGNED, "Signature", "SignatureVersion", "SigningCertURL"])
def test_a_field_that_is_not_text_is_refused(verifier, key, name, odd):
    content = envelope(key, Subject="Hello") | {name: odd}

    with pytest.raises(DecodeError):
        verifier.verify(content)


@pytest.mark.parametrize("forged", ["", "AAAA", "no base64!", "\ud800", "=", "A" * 344])
def test_a_malformed_signature_is_refused(verifier, key, forged):
    with pytest.raises(DecodeError, match="its signature is wrong"):
        verifier.verify(envelope(key) | {"Signature": forged})


def test_a_signature_with_one_more_character_is_refused(verifier, key):
    content = envelope(key)

    with pytest.raises(DecodeError, match="its signature is wrong"):
        verifier.verify(content | {"Signature": "!" + content["Signature"]})


@pytest.mark.parametrize("version", ["", "0", "3", "2 ", "x" * 1000])
def test_an_unknown_signature_version_is_refused(verifier, key, version):
    with pytest.raises(DecodeError, match=r"known are 1 and 2$") as caught:
        verifier.verify(envelope(key, version=version))
    assert len(str(caught.value)) < 120


def test_a_signature_of_version_1_is_refused_as_version_2(verifier, key):
    with pytest.raises(DecodeError, match="its signature is wrong"):
        verifier.verify(envelope(key, version="1") | {"SignatureVersion": "2"})


def test_the_error_says_if_the_system_refuses_sha_1(verifier, key, monkeypatch):
    class Key:
        def verify(self, *_):
            raise UnsupportedAlgorithm("sha1 is not supported")

    monkeypatch.setattr(
        verifier,
        "_certificate",
        lambda _: signature_module._Certificate(Key(), 0.0, time.time() + 1),
    )

    with pytest.raises(DecodeError, match="version 1 can't be checked on this system: sha1"):
        verifier.verify(envelope(key, version="1"))


def test_a_signature_by_another_key_is_refused(verifier, another_key):
    with pytest.raises(DecodeError, match="its signature is wrong"):
        verifier.verify(envelope(another_key))


# Certificates


@pytest.mark.parametrize(
    "url",
    [
        "",
        f"http://{HOST}/{NAME}",
        f"HTTPS://{HOST}/{NAME}",
        f"//{HOST}/{NAME}",
        f"https://{HOST}.evil.example/{NAME}",
        f"https://evil.example/{HOST}/{NAME}",
        f"https://evil.s3.amazonaws.com/{NAME}",
        f"https://sns.s3-eu-west-1.amazonaws.com/{NAME}",  # a bucket named sns
        f"https://sns.us-east-1.amazonaws.com/{NAME}",  # of another Region
        f"https://{HOST}.cn/{NAME}",
        f"https://snsxeu-west-1.amazonaws.com/{NAME}",
        f"https://{HOST}:443/{NAME}",
        f"https://{HOST}:8443/{NAME}",
        f"https://{HOST}@evil.example/{NAME}",
        f"https://user:secret@{HOST}/{NAME}",
        f"https://{HOST}\\@evil.example/{NAME}",
        f"https://{HOST}/{NAME}?x=y",
        f"https://{HOST}/{NAME}#x",
        f"https://{HOST}/?Action=GetTopicAttributes&TopicArn=x&{NAME}",
        f"https://{HOST}/x/{NAME}",
        f"https://{HOST}/../{NAME}",
        f"https://{HOST}//{NAME}",
        f"https://{HOST}/SimpleNotificationService-.pem",
        f"https://{HOST}/SimpleNotificationService-{'g' * 32}.pem",
        f"https://{HOST}/SimpleNotificationService-{'a' * 65}.pem",
        f"https://{HOST}/SimpleNotificationService-%61aaaaaaaaaa.pem",
        f"https://{HOST}/SimpleNotificationService-aaaaaaaa.pem.exe",
        f"https://{HOST}/SimpleNotificationService-aaaaaaaa.pem\n",
        f" https://{HOST}/{NAME}",
    ],
)
def test_a_certificate_at_another_url_is_never_fetched(verifier, sns_endpoint, key, url):
    with pytest.raises(DecodeError, match="its SigningCertURL is not a certificate of sns"):
        verifier.verify(envelope(key, url=url))
    assert sns_endpoint.asked == []


@pytest.mark.parametrize(
    ("topic_arn", "host"),
    [
        ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:p", "sns.us-gov-west-1.amazonaws.com"),
        ("arn:aws-cn:sns:cn-north-1:123456789012:p.fifo", "sns.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_each_partition_has_its_own_endpoints(
    authority, sns_endpoint, look_up, key, topic_arn, host
):
    sns_endpoint.certificates["SimpleNotificationService-0123abcd.pem"] = sns_endpoint.certificates[
        NAME
    ]
    url = f"https://{host}/SimpleNotificationService-0123abcd.pem"
    with serving(sns_endpoint, authority[1](host)):
        look_up[host] = int(sns_endpoint.url.rpartition(":")[2])
        verifier = SignatureVerifier(topic_arn)

        verifier.verify(envelope(key, url=url, TopicArn=topic_arn))

        verifier._pool.clear()


@pytest.mark.parametrize("days_ago", [0, 1, 30, 59])
def test_an_envelope_that_is_older_than_the_end_of_its_certificate_is_accepted(
    verifier, sns_endpoint, key, days_ago
):
    ends = NOW - days_ago * DAY
    sns_endpoint.certificates[NAME] = pem(certificate(key, begins=ends - 365 * DAY, ends=ends))

    verifier.verify(envelope(key, Timestamp=timestamp(ends - DAY / 100)))


@pytest.mark.parametrize("signed", [NOW - 3 * DAY, NOW - DAY / 2, NOW + DAY])
def test_an_envelope_that_was_signed_when_its_certificate_was_not_valid_is_refused(
    verifier, sns_endpoint, key, signed
):
    certified = certificate(key, begins=NOW - 2 * DAY, ends=NOW - DAY)
    sns_endpoint.certificates[NAME] = pem(certified)

    with pytest.raises(DecodeError, match="was not valid when the envelope was signed"):
        verifier.verify(envelope(key, Timestamp=timestamp(signed)))


def test_a_certificate_that_expired_long_ago_is_refused(verifier, sns_endpoint, key):
    ends = NOW - 61 * DAY
    sns_endpoint.certificates[NAME] = pem(certificate(key, begins=ends - 365 * DAY, ends=ends))

    with pytest.raises(DecodeError, match="expired more than 60 days ago"):
        verifier.verify(envelope(key, Timestamp=timestamp(ends - DAY)))


def test_a_kept_certificate_is_refused_once_it_expired_long_ago(sns_endpoint, key):
    now = time.time()
    verifier = SignatureVerifier(TOPIC, clock=lambda: now)
    verifier.verify(envelope(key))
    now += 62 * DAY.total_seconds()

    with pytest.raises(DecodeError, match="expired more than 60 days ago"):
        verifier.verify(envelope(key))
    assert len(sns_endpoint.asked) == 1
    verifier._pool.clear()


@pytest.mark.parametrize(
    "text", ["", "today", "2026-13-02T00:54:06.655Z", "2026-05-02T00:54:06+02:00", "9" * 1000]
)
def test_a_signed_timestamp_that_is_not_a_time_is_refused(verifier, key, text):
    with pytest.raises(DecodeError, match="its Timestamp is not a time") as caught:
        verifier.verify(envelope(key, Timestamp=text))
    assert len(str(caught.value)) < 120


def test_a_timestamp_needs_no_fraction(verifier, key):
    verifier.verify(envelope(key, Timestamp=f"{NOW:%Y-%m-%dT%H:%M:%S}Z"))


def test_a_certificate_is_fetched_once(verifier, sns_endpoint, key, another_key):
    for version in "12" * 50:
        verifier.verify(envelope(key, version=version))
    with pytest.raises(DecodeError):
        verifier.verify(envelope(another_key))

    assert [asked.path for asked in sns_endpoint.asked] == [f"/{NAME}"]


def test_a_new_certificate_is_fetched_and_the_old_one_kept(
    verifier, sns_endpoint, key, another_key
):
    new = f"SimpleNotificationService-{'1b' * 16}.pem"
    sns_endpoint.certificates[new] = pem(certificate(another_key))

    for _ in range(2):
        verifier.verify(envelope(key))
        verifier.verify(envelope(another_key, url=f"https://{HOST}/{new}"))

    assert len(sns_endpoint.asked) == 2


def test_the_number_of_kept_certificates_is_limited(verifier, sns_endpoint, key):
    sns_endpoint.answer = lambda name: sns_endpoint.certificates[NAME]
    for number in range(signature_module.MAX_CERTIFICATES + 1):
        verifier.verify(
            envelope(key, url=f"https://{HOST}/SimpleNotificationService-{number:032}.pem")
        )

    assert verifier._certificate.cache_info().currsize == signature_module.MAX_CERTIFICATES


# Certificates that can't be fetched


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(404), "answered 404"),
        (Answer(500), "answered 500"),
        (Answer(302, headers={"Location": f"https://{HOST}/{NAME}"}), "answered 302"),
        (HANG_UP, "Connection aborted"),
        (Answer(body=b"<html>"), "not a certificate"),
        (Answer(body=b"x" * 70_000), "longer than 65536 bytes"),
        (Answer(body=b"-----BEGIN CERTIFICATE", length=1000), "broke off"),
        (Answer(length=1000, chunks=[(0.2, b"x")] * 10), "took longer|broke off"),
        (pem(certificate(ec.generate_private_key(ec.SECP256R1()))), "not an RSA key"),
    ],
)
def test_a_failed_fetch_decides_nothing_and_is_tried_again_after_a_pause(
    verifier, sns_endpoint, key, monkeypatch, answer, message
):
    monkeypatch.setattr(signature_module, "TIMEOUT", 1.0)
    genuine = sns_endpoint.certificates[NAME]
    sns_endpoint.certificates[NAME] = answer
    with pytest.raises(FetchError, match=message) as caught:
        verifier.verify(envelope(key))
    assert caught.value.retry_after == signature_module.PAUSE

    sns_endpoint.certificates[NAME] = genuine
    with pytest.raises(FetchError, match="a fetch has just failed"):
        verifier.verify(envelope(key))
    assert len(sns_endpoint.asked) == 1

    monkeypatch.setattr(verifier, "_next_fetch", time.monotonic())
    verifier.verify(envelope(key))
    assert len(sns_endpoint.asked) == 2


def test_kept_certificates_still_count_after_a_failed_fetch(verifier, key):
    verifier.verify(envelope(key))
    with pytest.raises(FetchError, match="404"):
        verifier.verify(
            envelope(key, url=f"https://{HOST}/SimpleNotificationService-{'2c' * 16}.pem")
        )

    verifier.verify(envelope(key))


def test_a_refused_connection_to_sns_decides_nothing(look_up, free_port, key):
    look_up[HOST] = free_port

    with pytest.raises(FetchError, match="refused"):
        SignatureVerifier(TOPIC).verify(envelope(key))


def test_a_server_with_an_untrusted_certificate_decides_nothing(verifier, monkeypatch, key):
    monkeypatch.delenv("SSL_CERT_FILE")

    with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED"):
        verifier.verify(envelope(key))


def test_a_server_with_the_certificate_of_another_name_decides_nothing(
    sns_endpoint, authority, look_up, key
):
    with serving(sns_endpoint, authority[1]("sns.us-east-1.amazonaws.com")):
        look_up[HOST] = int(sns_endpoint.url.rpartition(":")[2])

        with pytest.raises(FetchError, match="CERTIFICATE_VERIFY_FAILED"):
            SignatureVerifier(TOPIC).verify(envelope(key))


# With `decode`


def test_a_signed_event_is_decoded(verifier, key):
    body = json.dumps(envelope(key, MessageAttributes={"settle": {"Type": "String", "Value": "9"}}))

    event = decode(body, topic_arn=TOPIC, verify=verifier.verify)

    assert (event.id, event.settle) == ("p1", 9.0)


def test_an_envelope_from_another_topic_is_refused_although_sns_signed_it(verifier, key):
    body = json.dumps(envelope(key, TopicArn="arn:aws:sns:eu-west-1:666666666666:products"))

    with pytest.raises(
        DecodeError, match="comes from the topic 'arn:aws:sns:eu-west-1:666666666666:products'"
    ):
        decode(body, topic_arn=TOPIC, verify=verifier.verify)


def test_message_attributes_are_not_signed():
    """A known limit, which the how-to names: forged attributes look like SNS's own."""
    assert "MessageAttributes" not in signature_module._SIGNED


# With a worker


def make_worker(queue, **settings):
    given = {
        "fetcher": FakeSource({"p1": {"id": "p1"}}),
        "sink": MemorySink(),
        "settle": 0.0,
        "wait_time": 1,
    }
    given |= {"client": queue.client, "topic_arn": TOPIC, "verify_signatures": True}
    return Worker(queue.url, **(given | settings))


def test_a_worker_settles_signed_events_and_leaves_others_to_the_redrive_policy(
    sns_endpoint, key, another_key, caplog
):
    queue = FakeQueue(max_receive_count=2)
    worker = make_worker(queue)
    forged, raw = json.dumps(envelope(another_key)), '{"id": "p2"}'
    for body in (forged, raw, json.dumps(envelope(key)), json.dumps(envelope(key, version="1"))):
        queue.send(body)

    with running(worker):
        wait_until(lambda: worker.stats().acknowledged == 2)
        for _ in range(2):
            wait_until(lambda: worker.stats().held == 0)
            queue.advance(60)  # the visibility timeout
            wait_until(lambda: len(queue.dead_letters) == 2 or worker.stats().malformed == 4)
        wait_until(lambda: len(queue.dead_letters) == 2)

    assert sorted(queue.dead_letters) == sorted([forged, raw])
    stats = worker.stats()
    assert (stats.malformed, stats.unverified, stats.acknowledged, stats.created) == (4, 0, 2, 1)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len({record.message_id for record in errors}) == len(errors) == 2
    assert "its signature is wrong" in caplog.text
    assert "switch off raw message delivery" in caplog.text
    assert len(sns_endpoint.asked) == 1


def test_a_backlog_whose_certificate_has_expired_meanwhile_is_settled(sns_endpoint, key):
    ends = NOW - 13 * DAY
    sns_endpoint.certificates[NAME] = pem(certificate(key, begins=NOW - 400 * DAY, ends=ends))
    queue = FakeQueue(max_receive_count=1)
    worker = make_worker(queue)
    for number in range(20):
        signed = timestamp(ends - DAY / 24)
        message = json.dumps({"id": f"p{number}"})
        queue.send(json.dumps(envelope(key, Timestamp=signed, message=message)))

    assert worker.drain() == 20

    assert worker.stats().malformed == 0
    assert queue.dead_letters == []


def test_messages_go_back_until_the_certificate_can_be_fetched(
    channel, source, sns_endpoint, key, monkeypatch, caplog
):
    """With a real queue, source and SNS endpoint."""
    monkeypatch.setattr(signature_module, "PAUSE", 1.0)
    source.entities["p1"] = {"id": "p1"}
    sink = MemorySink()
    queue = SimpleNamespace(url=channel.queue_url, client=channel.sqs)
    worker = make_worker(queue, fetcher=HTTPFetcher(source.url + "/{id}"), sink=sink)
    sns_endpoint.certificates[NAME], genuine = Answer(503), sns_endpoint.certificates[NAME]
    for _ in range(3):
        channel.send(json.dumps(envelope(key)))

    assert worker.drain() == 0
    assert channel.count() == {"held": 3}
    assert worker.stats().malformed == 0
    assert worker.stats().unverified >= 3
    assert len(sns_endpoint.asked) < 3
    assert source.asked == []
    assert "can't be verified yet, again in" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    sns_endpoint.certificates[NAME] = genuine
    deadline = time.monotonic() + 30
    while channel.count():  # no event tells when a message becomes visible again
        assert time.monotonic() < deadline
        worker.drain()

    assert worker.stats().acknowledged == 3
    assert dict(sink.items()) == source.entities


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topic_arn": None}, "needs topic_arn=, too"),
        ({"topic_arn": "products"}, "not a topic's ARN"),
        # A subscription's ARN:
        ({"topic_arn": f"{TOPIC}:c9135db0-26c4-47ec-8998-413945fb5a96"}, "not a topic's ARN"),
        ({"topic_arn": "arn:aws-iso:sns:us-iso-east-1:123456789012:p"}, "not in aws-iso"),
        ({"topic_arn": "products", "verify_signatures": False}, "not a topic's ARN"),
    ],
)
def test_a_worker_that_could_not_verify_signatures_is_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        make_worker(FakeQueue(), **settings)


def test_without_cryptography_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "change_events._consumer.signature")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)

    with pytest.raises(
        ConfigurationError, match=r"needs cryptography .*pip install 'change-events\[verify\]'"
    ):
        make_worker(FakeQueue())


def test_a_worker_that_verifies_no_signatures_does_not_import_cryptography():
    program = f"""
import sys
from change_events import MemorySink, Worker
from change_events.testing import FakeSource
queue_url = "https://sqs.eu-west-1.amazonaws.com/1/q"
Worker(queue_url, fetcher=FakeSource(), sink=MemorySink(), topic_arn="{TOPIC}")
assert not {{"cryptography", "change_events._consumer.signature"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# What the errors say, word for word


def said(verifier, envelope, error=DecodeError):
    with pytest.raises(error) as caught:
        verifier.verify(envelope)
    return str(caught.value)


def test_the_errors_for_an_envelope_say_what_is_wrong_with_it(verifier, key):
    content = envelope(key)

    assert said(verifier, content | {"SignatureVersion": "3"}) == (
        "its signature has the version '3'; known are 1 and 2"
    )
    assert said(verifier, content | {"SigningCertURL": "http://a"}) == (
        f"its SigningCertURL is not a certificate of {HOST}: 'http://a'"
    )
    assert said(verifier, content | {"Signature": "AAAA"}) == "its signature is wrong"
    assert said(verifier, content | {"Message": None}) == "its envelope has no Message"
    assert said(verifier, envelope(key, Timestamp="today")) == (
        "its Timestamp is not a time: 'today'"
    )


def test_the_error_for_an_algorithm_names_the_version(verifier, key, monkeypatch):
    class Key:
        def verify(self, *_):
            raise UnsupportedAlgorithm("sha1 is not supported")

    kept = signature_module._Certificate(Key(), 0.0, time.time() + 1)
    monkeypatch.setattr(verifier, "_certificate", lambda _: kept)

    assert said(verifier, envelope(key, version="1")) == (
        "signatures of version 1 can't be checked on this system: sha1 is not supported"
    )


def test_a_certificate_counts_from_its_first_to_its_last_second_and_60_days_more(sns_endpoint, key):
    begins, ends = NOW.replace(microsecond=0) - 2 * DAY, NOW.replace(microsecond=0) - DAY
    sns_endpoint.certificates[NAME] = pem(certificate(key, begins=begins, ends=ends))
    now = ends.timestamp() + 60 * DAY.total_seconds()
    verifier = SignatureVerifier(TOPIC, clock=lambda: now)
    second = DAY / 86_400

    for signed in (begins, ends):
        verifier.verify(envelope(key, Timestamp=timestamp(signed)))
    for signed in (begins - second, ends + second):
        assert said(verifier, envelope(key, Timestamp=timestamp(signed))) == (
            f"the certificate {URL} was not valid when the envelope was signed"
        )
    now += 1
    assert said(verifier, envelope(key, Timestamp=timestamp(ends))) == (
        f"the certificate {URL} expired more than 60 days ago"
    )
    verifier._pool.clear()


def test_the_errors_of_a_fetch_name_the_certificate(verifier, sns_endpoint, key):
    sns_endpoint.certificates[NAME] = Answer(404)
    with pytest.raises(FetchError) as caught:
        verifier.verify(envelope(key))
    assert str(caught.value) == f"the certificate {URL}: GET answered 404"
    assert (caught.value.status, caught.value.retry_after) == (404, 10.0)

    with pytest.raises(FetchError) as caught:
        verifier.verify(envelope(key))
    assert str(caught.value) == (
        f"the certificate {URL} is not fetched yet: a fetch has just failed"
    )
    assert (caught.value.status, caught.value.retry_after) == (None, 10.0)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(body=b"<html>"), "the answer is not a certificate: "),
        (pem(certificate(ec.generate_private_key(ec.SECP256R1()))), "its key is not an RSA key"),
        (Answer(body=b"x" * 65_537), "the body is longer than 65536 bytes"),
    ],
)
def test_the_error_for_what_is_no_certificate_says_why(verifier, sns_endpoint, key, answer, text):
    sns_endpoint.certificates[NAME] = answer

    says = said(verifier, envelope(key), FetchError)

    assert says.startswith(f"the certificate {URL}: {text}")
    assert not says.endswith("None")


def test_the_error_for_a_partition_names_those_that_are_known():
    with pytest.raises(ConfigurationError) as caught:
        SignatureVerifier("arn:aws-iso:sns:us-iso-east-1:123456789012:p")

    assert str(caught.value) == (
        "verify_signatures=True works in aws, aws-us-gov, aws-cn, and not in aws-iso"
    )


def test_a_fetch_that_fails_is_tried_again_after_just_ten_seconds(
    verifier, sns_endpoint, key, monkeypatch
):
    genuine, sns_endpoint.certificates[NAME] = sns_endpoint.certificates[NAME], Answer(404)
    before = time.monotonic()
    said(verifier, envelope(key), FetchError)
    assert before + 10 <= verifier._next_fetch <= time.monotonic() + 10

    sns_endpoint.certificates[NAME] = genuine
    monkeypatch.setattr(time, "monotonic", lambda: verifier._next_fetch)
    verifier.verify(envelope(key))


def test_an_endpoint_that_does_not_answer_is_given_up(verifier, sns_endpoint, key, monkeypatch):
    monkeypatch.setattr(signature_module, "TIMEOUT", 0.2)
    sns_endpoint.gate.clear()

    assert "timed out" in said(verifier, envelope(key), FetchError)

    sns_endpoint.gate.set()
