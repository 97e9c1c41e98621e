from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from change_events import ChangeEvent, DecodeError
from change_events._codec import decode, encode
from test_ids import USABLE


def envelope(message):
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
        '{"id": "7", "Type": "Notification", "Message": "no envelope, as it has an id"}',
        envelope('{"id": 7}'),
    ],
)
def test_other_publishers_may_write_integers_and_more_keys(body):
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
    "another kind of envelope": json.dumps({"Type": "SubscriptionConfirmation", "Message": '{"id": "p1"}'}),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_anything_else_is_malformed(body):
    with pytest.raises(DecodeError):
        decode(body)


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_body_raises_anything_but_a_decode_error(body):
    try:
        event = decode(body)
    except DecodeError:
        return
    assert event == decode(encode(event))
