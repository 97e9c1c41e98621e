"""Messages: events, envelopes around them, and what is almost an event."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from verification.chaos.fuzz._ids import ids, integers, usable, values

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy


@dataclass(frozen=True)
class Body:
    """
    A message.

    Attributes:
        text: Its body.
        attributes: Its own message attributes.
        id: The id to look at; None: the message is not a change event.
    """

    text: str
    attributes: dict[str, str] = field(default_factory=dict)
    id: str | None = None


ACCEPTED = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
"""The bodies that SQS accepts (Amazon SQS API Reference, SendMessage)."""


def id_in(text: str) -> str | None:
    """
    Return the id that a body names, by the protocol; None if it is not a change event.

    Message attributes are not considered.
    """
    try:
        content = json.loads(text)
        if (
            isinstance(content, dict)
            and "id" not in content
            and content.get("Type") == "Notification"
        ):
            content = json.loads(content["Message"])
        id = content["id"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    return str(id) if type(id) in {str, int} and usable(str(id)) else None


def paired(text: str) -> str:
    """Return the text with each pair of surrogates replaced by its character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


@st.composite
def quoted(draw: DrawFn, text: str) -> str:
    """Draw one of several ways to write a text in JSON."""
    plain = json.dumps(text, ensure_ascii=False)
    everything = '"' + "".join(f"\\u{unit:04x}" for unit in _units(text)) + '"'
    return draw(
        st.sampled_from(
            [json.dumps(text), everything, *([plain] if ACCEPTED.fullmatch(plain) else [])]
        )
    )


def _units(text: str) -> list[int]:
    """Return the text's code units in UTF-16: JSON's escapes stand for these."""
    encoded = text.encode("utf-16-be", "surrogatepass")
    return [high * 256 + low for high, low in zip(encoded[::2], encoded[1::2], strict=True)]


@st.composite
def events(draw: DrawFn) -> Body:
    """
    Draw a body that names an id, which can be unusable.

    There can be other keys, a second id, and odd spellings.
    """
    if draw(st.integers(0, 5)):
        text = draw(ids)
        written, id = draw(quoted(text)), paired(text)
    else:
        number = draw(integers)
        written = id = str(number)
    key = draw(st.sampled_from(['"id"'] * 4 + ['"\\u0069d"', '"i\\u0064"']))
    gap = draw(st.sampled_from(["", " ", "\n", "\t \r\n"]))
    before, after = draw(others), draw(others)
    if draw(st.integers(0, 9)) == 0:  # the last one counts
        before = [f'"id":{json.dumps(draw(values))}', *before]
    body = f"{gap},{gap}".join([*before, f"{key}{gap}:{gap}{written}", *after])
    return Body(f"{gap}{{{body}}}{gap}", id=id if usable(id) else None)


others: SearchStrategy[list[str]] = st.one_of(
    st.just([]),
    st.lists(
        st.tuples(
            st.sampled_from(["ID", "Id", "id ", "", "type", "Type", "Message", "\x00id"]), values
        ).map(lambda item: f"{json.dumps(item[0])}:{json.dumps(item[1])}"),
        max_size=2,
    ),
)

SHORT_WINDOWS = ["0.01", "1e-2", ".05", "+0.1", "0.001"]
"""Settle windows that cost no time."""

INVALID_WINDOWS = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "-0.0",
    "1e999",
    "3600.1",
    "soon",
    "0x1",
    "1,5",
    "\u221e",
    "1" * 5000,
]

windows = st.sampled_from([None] * 40 + SHORT_WINDOWS + INVALID_WINDOWS)

labels = st.dictionaries(
    st.sampled_from(["phase", "save"]),
    st.sampled_from(["saving", "saved", "s1", "SAVED", "\u00e9", " "]),
)


@st.composite
def labelled(draw: DrawFn) -> Body:
    """Draw an event with message attributes. Some settle windows are invalid."""
    body, window, more = draw(events()), draw(windows), draw(labels)
    attributes = more if window is None else more | {"settle": window}
    return Body(body.text, attributes, None if window in INVALID_WINDOWS else body.id)


@st.composite
def enveloped(draw: DrawFn) -> Body:
    """Draw an event in SNS's envelope, with odd values beside it."""
    body, window = draw(events()), draw(windows)
    attributes: dict[str, Any] = {
        name: {"Type": "String", "Value": value} for name, value in draw(labels).items()
    }
    if window is not None:
        attributes["settle"] = {"Type": "String", "Value": window}
    elif draw(st.booleans()):
        attributes = draw(st.dictionaries(st.sampled_from(["phase", "save", "x", ""]), values))
    odd = draw(
        st.dictionaries(
            st.sampled_from(
                ["TopicArn", "Signature", "SigningCertURL", "Subject", "MessageId", ""]
            ),
            values,
        )
    )
    envelope = odd | {"Type": "Notification", "Message": body.text, "MessageAttributes": attributes}
    # The envelope's attributes count. The message's own do not.
    return Body(json.dumps(envelope), draw(labels), None if window in INVALID_WINDOWS else body.id)


@st.composite
def almost_enveloped(draw: DrawFn) -> Body:
    """Draw what is almost an envelope, around an event."""
    message = draw(events()).text
    odd = draw(
        st.sampled_from(
            [
                {"Type": "SubscriptionConfirmation", "Message": message},
                {"Type": "notification", "Message": message},
                {"Message": message},
                {"Type": "Notification"},
                {"Type": "Notification", "message": message},
                {"Type": "Notification", "Message": {"id": "p1"}},
                {"Type": "Notification", "Message": [message]},
                {"Type": "Notification", "Message": json.dumps(message)},
                {
                    "Type": "Notification",
                    "Message": json.dumps({"Type": "Notification", "Message": message}),
                },
                {"Type": ["Notification"], "Message": message},
                {"Type": "Notification", "Message": None, "id": None},
            ]
        )
    )
    return Body(json.dumps(odd))


@st.composite
def damaged(draw: DrawFn) -> Body:
    """Draw an event whose JSON is damaged: a piece is missing, repeated or replaced."""
    text = draw(events()).text
    if draw(st.booleans()):  # without attributes, because `id_in` does not read them
        text = json.dumps({"Type": "Notification", "Message": text})
    at = draw(st.integers(0, len(text) - 1))
    end = at + draw(st.integers(0, 3))
    piece = draw(
        st.sampled_from(
            ["", text[at:end] * 2, *'{}[]",:\\0 -.eE+', "null", "NaN", "\ufeff", "'", "//"]
        )
    )
    return _meaning(
        draw(st.sampled_from([text[:at] + piece + text[end:], text[:at], text[at:], text + piece]))
    )


def _meaning(text: str) -> Body:
    return Body(text, id=id_in(text))


deep = st.sampled_from(
    [
        Body("[" * 100_000),
        Body('{"id":' * 20_000),
        Body('{"id": "p1", "x": ' + "[" * 50_000 + "]" * 50_000 + "}"),
        Body('{"id": "p1", "x": ' + "[" * 100 + "]" * 100 + "}", id="p1"),
        Body('{"id": ' + "[" * 100 + '"p1"' + "]" * 100 + "}"),
        Body('{"id": 1' + "0" * 5000 + "}"),
        Body(json.dumps({"Type": "Notification", "Message": "[" * 100_000})),
    ]
)

odd_values = values.filter(lambda value: type(value) not in {str, int}).map(
    lambda value: Body(json.dumps({"id": value}))
)

plain = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.sampled_from('{}[]":,id01 \\'), min_size=1),
    values.map(json.dumps),
).map(_meaning)

bodies_of_all_kinds = st.one_of(
    # Mostly events: each of the others is received several times, until it is a dead letter.
    *(events() for _ in range(12)),
    *(labelled() for _ in range(3)),
    *(enveloped() for _ in range(6)),
    *(almost_enveloped(), damaged(), damaged(), odd_values, plain),
)

messages = (
    st.integers(0, 99)
    .flatmap(lambda number: deep if number == 99 else bodies_of_all_kinds)
    .filter(lambda body: ACCEPTED.fullmatch(body.text) is not None)
)
