from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from change_events import ChangeEvent, ConfigurationError, DecodeError
from change_events._codec import attributes, decode, encode, parsed_arn
from id_samples import USABLE


def envelope(message, **attributes):
    said = {
        "MessageAttributes": {
            name: {"Type": "String", "Value": value} for name, value in attributes.items()
        }
    }
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:eu-west-1:123456789012:products",
            "Message": message,
            "Timestamp": "2012-05-02T00:54:06.655Z",
            "SignatureVersion": "1",
            "Signature": "EXAMPLEw6JRN",
        }
        | (said if attributes else {})
    )


def test_the_body_is_the_id_and_nothing_else():
    assert encode(ChangeEvent("abc")) == '{"id": "abc"}'


@given(USABLE)
def test_every_id_survives_both_deliveries(id):
    body = encode(ChangeEvent(id))

    assert decode(body) == ChangeEvent(id)
    assert decode(envelope(body)) == ChangeEvent(id)


@pytest.mark.parametrize(
    "body",
    [
        '{"id": 7}',
        '{"id": "7"}',
        ' { "id" : "7", "type": "product" } ',
        '{"id": "7", "Type": "Notification", "Message": "not an envelope, because it has an id"}',
        envelope('{"id": 7}'),
    ],
)
def test_a_body_can_have_an_integer_id_and_more_keys(body):
    assert decode(body) == ChangeEvent("7")


MALFORMED = {
    "nothing": "",
    "no JSON": "p1",
    "text": '"p1"',
    "list": '["p1"]',
    "empty object": "{}",
    "another key": '{"productId": "p1"}',
    "null": '{"id": null}',
    "float": '{"id": 1.5}',
    "bool": '{"id": true}',
    "object": '{"id": {"id": "p1"}}',
    "empty id": '{"id": ""}',
    "dots": '{"id": ".."}',
    "control character": '{"id": "a\\u0000b"}',
    "lone surrogate": '{"id": "\\ud800"}',
    "too long": json.dumps({"id": "x" * 513}),
    "enormous integer": '{"id": 1' + "0" * 5000 + "}",
    "very deep": "[" * 100_000,
    "half an envelope": '{"Type": "Notification"}',
    "an envelope around nothing": envelope(""),
    "an envelope around text": envelope("p1"),
    "an envelope around an envelope": envelope(envelope('{"id": "p1"}')),
    "an envelope around an object": json.dumps({"Type": "Notification", "Message": {"id": "p1"}}),
    "another kind of envelope": json.dumps(
        {"Type": "SubscriptionConfirmation", "Message": '{"id": "p1"}'}
    ),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_body_without_a_valid_id_is_malformed(body):
    with pytest.raises(DecodeError):
        decode(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("p1", "the body is not JSON"),
        ("[]", "the body is not a JSON object"),
        ("{}", 'the body is not {"id": text or integer}'),
    ],
)
def test_the_error_says_what_is_wrong_with_the_body(body, reason):
    with pytest.raises(DecodeError) as caught:
        decode(body)

    assert str(caught.value) == reason


TOPIC = "arn:aws:sns:eu-west-1:123456789012:products"


def test_an_envelope_of_the_topic_is_decoded():
    assert decode(envelope('{"id": "p1"}'), topic_arn=TOPIC) == ChangeEvent("p1")


@pytest.mark.parametrize(
    "topic_arn",
    [
        TOPIC + "-dev",
        TOPIC + ".fifo",
        TOPIC[:-1],
        TOPIC.upper(),
        TOPIC.replace("eu-west-1", "us-east-1"),
    ],
)
def test_an_envelope_of_another_topic_is_malformed(topic_arn):
    with pytest.raises(
        DecodeError, match=f"it comes from the topic '{TOPIC}', not from {topic_arn}"
    ):
        decode(envelope('{"id": "p1"}'), topic_arn=topic_arn)


@pytest.mark.parametrize("odd", [None, 1, [TOPIC], {TOPIC: TOPIC}, "x" * 100_000])
def test_an_envelope_without_a_topic_is_malformed(odd):
    body = json.dumps(json.loads(envelope('{"id": "p1"}')) | {"TopicArn": odd})

    with pytest.raises(DecodeError, match="it comes from the topic ") as caught:
        decode(body, topic_arn=TOPIC)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "body",
    [
        '{"id": "p1"}',
        json.dumps(
            {"id": "p1", "Type": "Notification", "TopicArn": TOPIC, "Message": '{"id": "p1"}'}
        ),
        json.dumps({"TopicArn": TOPIC, "Message": '{"id": "p1"}'}),
    ],
)
def test_a_message_without_an_envelope_is_refused_if_the_topic_or_signature_matters(body):
    with pytest.raises(DecodeError) as caught:
        decode(body, topic_arn=TOPIC)
    assert str(caught.value) == (
        "it has no SNS envelope, so nothing says where it comes from: switch off raw message "
        "delivery of the queue's subscription, or set neither topic_arn= nor verify_signatures="
    )
    with pytest.raises(DecodeError, match="it has no SNS envelope"):
        decode(body, verify=lambda envelope: pytest.fail("there is nothing to verify"))


def test_verify_is_called_with_the_whole_envelope():
    verified = []

    decode(envelope('{"id": "p1"}'), verify=verified.append)

    assert verified == [json.loads(envelope('{"id": "p1"}'))]


@pytest.mark.parametrize("given", ["products", None, 7])
def test_an_invalid_topic_arn_is_named_in_the_error(given):
    with pytest.raises(
        ConfigurationError, match=rf"^{given!r} is not a topic's ARN; one looks like arn:aws:sns:"
    ):
        parsed_arn(given)


@given(
    st.text()
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
)
def test_no_body_raises_anything_but_a_decode_error(body):
    try:
        event = decode(body)
    except DecodeError:
        return
    assert event == decode(encode(event))


# Attributes

BODY = '{"id": "p1"}'

SAYING = st.builds(
    ChangeEvent,
    id=USABLE,
    settle=st.none() | st.floats(0, 3600, exclude_min=True) | st.integers(1, 3600),
    phase=st.none() | st.sampled_from(["saving", "saved"]),
    save=st.none() | st.text(min_size=1),
)


def test_a_plain_event_has_no_attributes():
    assert attributes(ChangeEvent("p1")) == {}


@given(SAYING)
def test_every_event_survives_both_deliveries(event):
    said = attributes(event)

    assert decode(encode(event), said) == event
    assert decode(envelope(encode(event), **said)) == event
    assert all(isinstance(value, str) and value for value in said.values())  # SNS refuses others


def test_the_attributes_of_an_envelope_replace_those_of_the_message():
    assert decode(envelope(BODY), {"phase": "saved", "settle": "9"}) == ChangeEvent("p1")


@pytest.mark.parametrize("phase", ["", "Saved", "SAVING", "deleted", "saved "])
def test_an_unknown_phase_is_ignored(phase):
    assert decode(BODY, {"phase": phase, "save": "s1"}) == ChangeEvent("p1", save="s1")
    assert decode(envelope(BODY, phase=phase)) == ChangeEvent("p1")


def test_unknown_attributes_are_ignored():
    assert decode(BODY, {"tenant": "t1", "Settle": "x"}) == ChangeEvent("p1")
    assert decode(envelope(BODY, tenant="t1")) == ChangeEvent("p1")


@pytest.mark.parametrize(
    "settle", ["0", "-1", "3600.5", "nan", "inf", "1e9", "", "5 s", "x" * 1000]
)
def test_a_settle_window_out_of_its_range_is_malformed(settle):
    for body, said in ((BODY, {"settle": settle}), (envelope(BODY, settle=settle), None)):
        with pytest.raises(
            DecodeError, match="the attribute settle must be seconds, up to 3600, not "
        ) as caught:
            decode(body, said)
        assert len(str(caught.value)) < 120


def test_the_longest_settle_window_is_an_hour():
    assert decode(BODY, {"settle": "3600"}).settle == 3600.0


@pytest.mark.parametrize(
    "odd", [None, [], "text", {"phase": "saved"}, {"phase": {"Type": "String"}}, {"phase": None}]
)
def test_invalid_attributes_of_an_envelope_are_ignored(odd):
    assert decode(
        json.dumps({"Type": "Notification", "Message": BODY, "MessageAttributes": odd})
    ) == ChangeEvent("p1")


def test_an_id_that_can_not_be_one_is_refused_with_the_reason():
    with pytest.raises(DecodeError, match="512"):
        decode(json.dumps({"id": "x" * 513}))
