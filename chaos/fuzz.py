"""
A fuzzer's bodies, ids and answers.

Each comes with what it means, known from how it was made. Where it was made by damaging another, nobody knows; then a few
lines below say it once more, beside the library's own decoder. Both take Python's word for what is JSON: of a key that stands
twice the last counts (RFC 8259, 4, leaves that open), and `NaN` beside an id does no harm. How deep JSON may be nested is the
interpreter's business, so that the fuzzer nests a hundred deep, or a hundred thousand.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import signal
import sys
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from change_events import FetchError, Found, HTTPFetcher, SQLiteSink
from change_events._reconcile import look
from chaos.figures import Figure, exactly, none
from chaos.stage import Stage, wait_until
from chaos.wire import Raw, RawServer
from proof._parallel import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn, SearchStrategy

    from chaos.stage import Process

Example = TypeVar("Example")

PATIENCE = 120.0
"""Seconds until a queue must be empty again."""

MOST_WAITING = 150
"""Messages in the queue, so that the emulator, which searches them all many times at each call, stays quick."""

SHOWN = 5
"""So many surprises of a kind are printed."""


FRESH = 10
"""So many examples are drawn at a time: once it has drawn ten, hypothesis makes most of them by changing the one before."""

HEALTH_CHECKS = [HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.large_base_example]
"""Examples may be large, slow and thrown away."""


def fuzz(seed: int, *, bodies: int, answers: int) -> list[Figure]:
    """A fuzzer writes bodies and ids to the queue of a worker, and answers the GETs of a fetcher."""
    return [*_fuzz_bodies(seed, bodies), *_fuzz_answers(seed, answers)]


def for_each(strategy: SearchStrategy[Example], use: Callable[[Example], object], *, seed: int, examples: int) -> None:
    """Draw so many examples, always the same for a seed, and use each once: a surprise is counted, not shrunk."""
    for start in range(0, examples, FRESH):

        @hypothesis.seed(seed * 10**6 + start)
        @settings(
            max_examples=min(FRESH, examples - start),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=HEALTH_CHECKS,
        )
        @given(strategy)
        def draw(example: Example) -> None:
            use(example)

        draw()


class Surprises(Counter[str]):
    """Counts what must not be, and prints the first few of each kind."""

    def see(self, what: str, *how: object) -> None:
        self[what] += 1
        if self[what] <= SHOWN:
            print(f"{what}: {' '.join(f'{part!r:.2000}' for part in how)}", file=sys.stderr, flush=True)


# Bodies and ids


@dataclass(frozen=True)
class Body:
    """
    A message.

    Attributes:
        attributes: The message's own.
        id: What to look at; None: it is no change event.
    """

    text: str
    attributes: dict[str, str] = field(default_factory=dict)
    id: str | None = None


ACCEPTED = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
"""What SQS accepts as a body (Amazon SQS API Reference, SendMessage)."""

AWKWARD = "./\\%?#;:@&=+~ 2eE'\"<>{}|^`\t\n\r\x00\x7f\x85\u00a0\u0301\u202e\u2028\ufeff\uff0e\uff0f\u00e9\U0001f600\ud83d\ude00"

NASTY = [
    *(
        ".",
        "..",
        "...",
        "./",
        "../",
        "/",
        "//",
        "//elsewhere/",
        "/..",
        "%",
        "%2",
        "%zz",
        "%2e",
        "%2e%2e",
        "%252e%252e",
        "..%2f",
    ),
    *("../../admin", "a/../b", "\\..\\x", "..;/admin", "?a=b", "#", "a#b", "a?b#c", "http://elsewhere/", "@elsewhere/", "{id}"),
    *(
        "x HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
        "\r\n",
        "a\nb",
        "a\x00b",
        "\x00",
        " ",
        "\u00a0",
        "\u2028",
        "e\u0301",
        "\u00e9",
        "",
    ),
    *("\ud800", "\udc00x", "\ud83d\ude00", "\uff0e\uff0e\uff0fadmin", "\u202egnp.1p", "null", "0", "-0", "00", "1e5", "nan"),
    *("x" * 512, "x" * 513, "\u00e9" * 512, "\U0001f600" * 512, "\U0001f600" * 513, "." * 512, "/" * 512, "%" * 512),
]


def usable(id: str) -> bool:
    """Say what an id is once more, beside `change_events._ids`."""
    return 1 <= len(id) <= 512 and id not in {".", ".."} and not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", id)


def said_by(text: str) -> str | None:
    """Return the id that a body names, by the protocol; None if it is no change event. Its attributes are another matter."""
    try:
        content = json.loads(text)
        if isinstance(content, dict) and "id" not in content and content.get("Type") == "Notification":
            content = json.loads(content["Message"])
        id = content["id"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    return str(id) if type(id) in {str, int} and usable(str(id)) else None


def paired(text: str) -> str:
    """Return the text with each two surrogates that make a pair as the one character that they are."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


odd_pieces = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.sampled_from(AWKWARD), max_size=12),
    st.text(st.characters(), max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co", "Mn", "Zs"]) | st.sampled_from("aZ%/."), max_size=6),
)

usable_pieces = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30) | st.text(
    st.sampled_from([letter for letter in AWKWARD if usable(letter + "x")]), max_size=12
)

ids = st.one_of(
    odd_pieces,
    # Around a number, as a fuzzer is fond of what it had before.
    *[st.builds("{}{}{}".format, usable_pieces, st.integers(0, 10**6), usable_pieces)] * 3,
)

integers = st.one_of(
    st.integers(), st.integers(-(10**520), 10**520), st.sampled_from([10**511, 10**512, -(10**510), -(10**511)])
)

values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | ids,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(ids | st.sampled_from(["id", "Type", "Message"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def quoted(draw: DrawFn, text: str) -> str:
    """JSON text, written in one of several ways."""
    plain = json.dumps(text, ensure_ascii=False)
    everything = '"' + "".join(f"\\u{unit:04x}" for unit in _units(text)) + '"'
    return draw(st.sampled_from([json.dumps(text), everything, *([plain] if ACCEPTED.fullmatch(plain) else [])]))


def _units(text: str) -> list[int]:
    """Return the text's code units in UTF-16, which JSON escapes."""
    encoded = text.encode("utf-16-be", "surrogatepass")
    return [high * 256 + low for high, low in zip(encoded[::2], encoded[1::2], strict=True)]


@st.composite
def events(draw: DrawFn) -> Body:
    """Bodies that name an id, whether it can be one or not: among other keys, twice, in odd spellings."""
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
        st.tuples(st.sampled_from(["ID", "Id", "id ", "", "type", "Type", "Message", "\x00id"]), values).map(
            lambda item: f"{json.dumps(item[0])}:{json.dumps(item[1])}"
        ),
        max_size=2,
    ),
)

SHORT = ["0.01", "1e-2", ".05", "+0.1", "0.001"]
"""Settle windows that nobody has to wait for."""

NO_WINDOW = ["nan", "inf", "-inf", "-1", "0", "-0.0", "1e999", "3600.1", "soon", "0x1", "1,5", "\u221e", "1" * 5000]

windows = st.sampled_from([None] * 40 + SHORT + NO_WINDOW)

labels = st.dictionaries(st.sampled_from(["phase", "save"]), st.sampled_from(["saving", "saved", "s1", "SAVED", "\u00e9", " "]))


@st.composite
def labelled(draw: DrawFn) -> Body:
    """Events with attributes, among them settle windows that are none."""
    body, window, more = draw(events()), draw(windows), draw(labels)
    said = more if window is None else more | {"settle": window}
    return Body(body.text, said, None if window in NO_WINDOW else body.id)


@st.composite
def enveloped(draw: DrawFn) -> Body:
    """Events in SNS's envelope; what that says beside them is odd."""
    body, window = draw(events()), draw(windows)
    said: dict[str, Any] = {name: {"Type": "String", "Value": value} for name, value in draw(labels).items()}
    if window is not None:
        said["settle"] = {"Type": "String", "Value": window}
    elif draw(st.booleans()):
        said = draw(st.dictionaries(st.sampled_from(["phase", "save", "x", ""]), values))
    odd = draw(
        st.dictionaries(st.sampled_from(["TopicArn", "Signature", "SigningCertURL", "Subject", "MessageId", ""]), values)
    )
    envelope = odd | {"Type": "Notification", "Message": body.text, "MessageAttributes": said}
    # The message's own attributes are not the envelope's, which count.
    return Body(json.dumps(envelope), draw(labels), None if window in NO_WINDOW else body.id)


@st.composite
def no_envelopes(draw: DrawFn) -> Body:
    """Almost envelopes, around what would be an event."""
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
                {"Type": "Notification", "Message": json.dumps({"Type": "Notification", "Message": message})},
                {"Type": ["Notification"], "Message": message},
                {"Type": "Notification", "Message": None, "id": None},
            ]
        )
    )
    return Body(json.dumps(odd))


@st.composite
def damaged(draw: DrawFn) -> Body:
    """Almost JSON: of an event a piece is missing, there twice, or another."""
    text = draw(events()).text
    if draw(st.booleans()):  # with no attributes: of these `said_by` knows nothing
        text = json.dumps({"Type": "Notification", "Message": text})
    at = draw(st.integers(0, len(text) - 1))
    end = at + draw(st.integers(0, 3))
    piece = draw(st.sampled_from(["", text[at:end] * 2, *'{}[]",:\\0 -.eE+', "null", "NaN", "\ufeff", "'", "//"]))
    return _meaning(draw(st.sampled_from([text[:at] + piece + text[end:], text[:at], text[at:], text + piece])))


def _meaning(text: str) -> Body:
    return Body(text, id=said_by(text))


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

odd_values = values.filter(lambda value: type(value) not in {str, int}).map(lambda value: Body(json.dumps({"id": value})))

plain = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.sampled_from('{}[]":,id01 \\'), min_size=1),
    values.map(json.dumps),
).map(_meaning)

bodies_of_all_kinds = st.one_of(
    *(events() for _ in range(12)),  # most of all: each of the others is received several times, until it is a dead letter
    *(labelled() for _ in range(3)),
    *(enveloped() for _ in range(6)),
    *(no_envelopes(), damaged(), damaged(), odd_values, plain),
)

messages = (
    st.integers(0, 99)
    .flatmap(lambda number: deep if number == 99 else bodies_of_all_kinds)
    .filter(lambda body: ACCEPTED.fullmatch(body.text) is not None)
)


class Sender:
    """
    Sends bodies in batches of ten, no faster than the worker takes them.

    Attributes:
        sent: All of them, by their message's id.
        dead: The ids of those that were dead letters meanwhile: the emulator is slow where many are left.
    """

    def __init__(self, stage: Stage, progress: Progress) -> None:
        self.sent: dict[str, Body] = {}
        self.dead: set[str] = set()
        self._stage = stage
        self._progress = progress
        self._batch: list[Body] = []

    def add(self, body: Body) -> None:
        """Send it, together with those before and after it."""
        size = sum(len(other.text.encode()) for other in self._batch)
        if len(self._batch) == 10 or size + len(body.text.encode()) > 200_000:  # of 262,144, attributes included
            self.flush()
        self._batch.append(body)

    def flush(self) -> None:
        """Send what is left."""
        entries = [
            {
                "Id": str(number),
                "MessageBody": body.text,
                "MessageAttributes": {
                    name: {"DataType": "String", "StringValue": value} for name, value in body.attributes.items()
                },
            }
            for number, body in enumerate(self._batch)
        ]
        answer = self._stage.sqs.send_message_batch(QueueUrl=self._stage.queue_url, Entries=entries)
        for entry in answer["Successful"]:
            self.sent[entry["MessageId"]] = self._batch[int(entry["Id"])]
        self._progress.add(len(self._batch))
        self._batch = []
        if len(self.sent) % 50 < 10:
            wait_until(lambda: self._stage.waiting() < MOST_WAITING, PATIENCE)
            _take_letters(self._stage, self.dead)


def _fuzz_bodies(seed: int, examples: int) -> list[Figure]:
    lines: list[str] = []
    surprises = Surprises()

    def respond(head: bytes) -> Raw:
        lines.append(head.partition(b"\r\n")[0].decode("latin-1"))
        return Raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", keep=True)

    with RawServer(respond) as source, Stage(visibility=3, max_receives=2, settle=0.0) as stage:
        worker = stage.worker(url=source.url + "/products/{id}")
        sender = Sender(stage, Progress(examples, "bodies"))
        for_each(messages, sender.add, seed=seed, examples=examples)
        sender.flush()
        with contextlib.suppress(TimeoutError):  # what is left then is a figure
            stage.wait_until_empty(PATIENCE)
        left = stage.waiting()
        crashes = _crashes(worker)
        _take_letters(stage, sender.dead)
        cached = set(stage.cache.items())
    sent = sender.sent
    named = {body.id for body in sent.values() if body.id is not None}
    asked = {id for line in lines if (id := _asked_for(line, surprises)) is not None}
    for id in named ^ asked:
        surprises.see("ids looked at, though no event names them" if id in asked else "ids that were not looked at", id)
    for message_id, body in sent.items():
        if (body.id is None) != (message_id in sender.dead):
            surprises.see("events in the dead-letter queue" if body.id else "others that were deleted", body)
    malformed = sum(body.id is None for body in sent.values())
    return [
        exactly("bodies", len(sent), examples),
        Figure("of them different", len({(body.text, *sorted(body.attributes.items())) for body in sent.values()})),
        Figure("events", examples - malformed, at_least=examples // 4),
        Figure("of so many ids", len(named)),
        Figure("no events", malformed, at_least=examples // 10),
        Figure("GETs", len(lines)),
        *none(
            crashes=crashes,
            messages_left_in_the_queue=left,
            paths_asked_outside_the_template=surprises["outside the template"],
            ids_looked_at_though_no_event_names_them=surprises["ids looked at, though no event names them"],
            ids_that_were_not_looked_at=surprises["ids that were not looked at"],
            ids_cached_that_are_not_named_or_named_and_not_cached=len(cached ^ named),
            events_in_the_dead_letter_queue=surprises["events in the dead-letter queue"],
            others_that_were_deleted=surprises["others that were deleted"],
        ),
    ]


def _asked_for(line: str, surprises: Surprises) -> str | None:
    """Return the id that a request line asks for."""
    match = re.fullmatch(r"GET /products/((?:[\w.~-]|%[0-9A-F]{2})+) HTTP/1\.1", line, re.ASCII)
    if match is None or match[1] in {".", ".."}:
        surprises.see("outside the template", line)
        return None
    return unquote(match[1], errors="strict")


def _crashes(worker: Process) -> int:
    """Stop the worker; return 1 if it had died, or ends as one that has, and 1 for each thing that it calls critical."""
    died = not worker.alive
    if not died:
        worker.send(signal.SIGTERM)
        died = worker.wait() != 0
    return died + len([line for line in worker.lines() if line.get("level") == "CRITICAL"])


def _take_letters(stage: Stage, letters: set[str]) -> None:
    """Take the dead letters out of their queue, and note the ids of the messages."""
    while found := stage.sqs.receive_message(QueueUrl=stage.dead_url, MaxNumberOfMessages=10).get("Messages", []):
        letters |= {letter["MessageId"] for letter in found}
        handles = [{"Id": str(number), "ReceiptHandle": letter["ReceiptHandle"]} for number, letter in enumerate(found)]
        stage.sqs.delete_message_batch(QueueUrl=stage.dead_url, Entries=handles)


# Answers


@dataclass(frozen=True)
class Content:
    """
    What a body says.

    Attributes:
        value: The JSON that it is; None: it is none, or null.
        html: It looks like a page, and should be called one.
    """

    text: bytes
    value: Any = None
    html: bool = False


@dataclass(frozen=True)
class Framed:
    """
    A body on its way.

    Attributes:
        whole: By its own account it arrives as it was meant.
        odd: A client may refuse it all the same.
        keep: The connection may be kept.
    """

    headers: list[bytes]
    text: bytes
    whole: bool = True
    odd: bool = False
    keep: bool = False


@dataclass(frozen=True)
class OddAnswer:
    """
    An answer, and what it may do. It is whole if its framing says so; whether its coding can be read is not asked of a 404.

    Attributes:
        deletes: It may delete.
        value: What it may store; None: nothing.
        right: Nothing about it is odd: what it may do, it must.
    """

    id: str
    raw: Raw
    deletes: bool
    value: dict[str, Any] | None
    right: bool


ASKED_FOR = ["p1", "7", "-7", "a/b", "\u00e9", "x" * 100]

JSON_TYPES = [b"application/json"] * 6 + [
    *(
        b"Application/JSON ; charset=utf-8",
        b"application/hal+json",
        b"application/problem+json",
        b"application/json;charset=utf-16",
    ),
    *(b'application/json; charset="latin-1"', b"application/json; charset=", b"application/vnd.api+json;x=y"),
]

HTML_TYPES = [b"text/html", b"text/html; charset=utf-8", b"TEXT/HTML", b"text/html;", b"Text/Html ;charset=x"]

OTHER_TYPES = [
    *(
        b"text/plain",
        b"text/json",
        b"application/javascript",
        b"application/jsonp",
        b"json",
        b"",
        b";",
        b"/",
        b"application/json5",
    ),
    *(b"application/octet-stream", b"application/xml", b"multipart/mixed; boundary=x", b"\xff\xfe", b"*/*", b"application"),
]


def strict(text: bytes) -> Any:
    """Return the JSON that bytes are, by RFC 8259; None if they are none. An infinite number is none."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def finite(number: str) -> float:
        if abs(value := float(number)) == float("inf"):
            refuse(number)
        return value

    try:
        return json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError):
        return None


@st.composite
def entities(draw: DrawFn, id: str) -> Content:
    """The entity that was asked for, in one of several spellings."""
    value: dict[str, Any] = draw(
        st.dictionaries(st.sampled_from(["name", "price", "\u00fc", "", "ID"]), finite_values, max_size=3)
    )
    value = {"n": draw(st.integers())} | value
    number = id.removeprefix("-").isdecimal() and draw(st.booleans())
    value |= draw(st.sampled_from([{"id": int(id) if number else id}] * 4 + [{}]))
    encoding = draw(st.sampled_from(["ascii"] * 4 + ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
    text = json.dumps(value, ensure_ascii=encoding == "ascii", indent=draw(st.sampled_from([None, None, 1])))
    return Content(text.encode(encoding, "surrogatepass"), value)


finite_values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@st.composite
def others_entities(draw: DrawFn, id: str) -> Content:
    """JSON, but not the entity."""
    other = draw(
        st.one_of(
            st.sampled_from(
                ["p2", id + " ", id.upper() + "x", "", None, True, 7.5, [id], {"id": id}, f'"{id}"', 8, id + "\x00"]
            ).map(lambda other: {"id": other}),
            st.sampled_from([[{"id": id}], id, 7, None, True, 1.5, [], ""]),
        )
    )
    return Content(json.dumps(other).encode(), other)


@st.composite
def broken(draw: DrawFn, id: str) -> Content:
    """Almost the entity, or nothing like it."""
    text = draw(entities(id)).text
    at = draw(st.integers(0, len(text) - 1))
    quoted_id = json.dumps(id).encode()
    damaged = st.sampled_from(
        [
            text[:at],
            text[at:],
            text[:at] + draw(st.binary(max_size=3)) + text[at + 1 :],
            text + draw(st.sampled_from([b"x", b"}", text, b"\x00", b" ", b"\n\n"])),
            *(
                b'{"id": ' + quoted_id + b', "x": ' + number + b"}"
                for number in (b"NaN", b"-Infinity", b"1e999", b"-1e400", b"1e-999")
            ),
            b'{"id": ' + quoted_id + b', "x": 1' + b"0" * 5000 + b"}",
            b'{"id": ' + quoted_id + b', "x": 1' + b"0" * 4000 + b"}",
            b'{"id": ' + quoted_id + b', "x": ' + b"[" * 100_000,
            b'{"id": ' + quoted_id + b', "x": ' + b"[" * 100 + b"]" * 100 + b"}",
            b'{"id": "p2", "id": ' + quoted_id + b"}",
            b'{"id": ' + quoted_id + b', "id": "p2"}',
            b'{"id": ' + quoted_id + b', "x": "\\ud800"}',
            b'{"id": ' + quoted_id + b', "x": "\xed\xa0\x80"}',
            b'{"id": ' + quoted_id + b', "x": "\xff"}',
            b'{"id": ' + quoted_id + b', "x": "\x00"}',
        ]
    )
    made = draw(st.one_of(damaged, damaged, st.binary(max_size=50), st.just(b"")))
    return Content(made, strict(made))


page = st.sampled_from(
    [b"<html><h1>404 Not Found</h1></html>", b"<!doctype html>\n<p>Sign in", b"<h1>default backend - 404</h1>"]
).map(lambda text: Content(text, html=True))


@st.composite
def typed(draw: DrawFn, content: Content) -> list[bytes]:
    """The values of Content-Type, most often one that fits."""
    fitting = st.sampled_from(HTML_TYPES if content.html else JSON_TYPES)
    any_type = st.sampled_from(JSON_TYPES + HTML_TYPES + OTHER_TYPES)
    few = st.lists(any_type, max_size=3).flatmap(lambda types: st.sampled_from([types, [b", ".join(types)]]))
    return draw(st.one_of(*[fitting.map(lambda one: [one])] * 5, any_type.map(lambda one: [one]), few))


@st.composite
def coded(draw: DrawFn, text: bytes) -> tuple[list[bytes], bytes, bool]:
    """Headers, the body under them, and whether it can be read."""
    if draw(st.integers(0, 3)):
        return [], text, True
    squeezed = gzip.compress(text, mtime=0)
    cut = squeezed[: draw(st.integers(0, len(squeezed)))]
    return draw(
        st.sampled_from(
            [
                ([b"Content-Encoding: gzip"], squeezed, True),
                ([b"Content-Encoding: GZIP"], squeezed, True),
                ([b"Content-Encoding: deflate"], zlib.compress(text), True),
                ([b"Content-Encoding: gzip"], text, False),
                ([b"Content-Encoding: gzip"], cut, False),
                ([b"Content-Encoding: gzip"], squeezed + b"x", False),
                ([b"Content-Encoding: gzip, gzip"], squeezed, False),
                ([b"Content-Encoding: deflate"], text, False),
                ([b"Content-Encoding: " + b"gzip, " * 20 + b"gzip"], squeezed, False),
                ([b"Content-Encoding: nonsense"], text, False),
                ([b"Content-Encoding: br"], text, False),
                ([b"Content-Encoding: zstd"], text, False),
                ([], squeezed, False),
            ]
        )
    )


@st.composite
def framed(draw: DrawFn, text: bytes) -> Framed:
    """The body with its length, of one kind or another, or in chunks; or with less of it than that says."""
    length = b"Content-Length: %d" % len(text)
    way = draw(st.integers(0, 11))
    if way < 5:
        return Framed([length], text, keep=draw(st.booleans()))
    if way == 5:
        return Framed([], text)
    if way == 6:
        more = draw(st.integers(1, 10) | st.just(10**20))
        return Framed([b"Content-Length: %d" % (len(text) + more)], text, whole=False)
    if way == 7:
        return draw(odd_lengths(text))
    chunks = draw(chunked(text))
    both = draw(st.sampled_from([[]] * 3 + [[length], [b"Content-Length: 1"]]))
    return Framed([*both, b"Transfer-Encoding: " + draw(st.sampled_from([b"chunked", b"Chunked"]))], *chunks)


@st.composite
def odd_lengths(draw: DrawFn, text: bytes) -> Framed:
    """A length that is none leaves the end to the connection's; of two that differ neither is believed."""
    number = b"%d" % len(text)
    odd = [b"", b"x", b"-1", number + b".0", b"0x" + number, number + b" " + number, b"\xb2"]
    same = [b"+" + number, b"0" + number, number + b", " + number]
    value = draw(st.sampled_from(odd + same + [number + b", 1" + number]))
    return Framed([b"Content-Length: " + value], text, whole="," not in value.decode("latin-1") or value in same, odd=True)


@st.composite
def chunked(draw: DrawFn, text: bytes) -> tuple[bytes, bool, bool]:
    """The chunks, whether they are all there, and whether they are odd."""
    at = draw(st.integers(0, len(text)))
    extension = draw(st.sampled_from([b"", b"", b";x=y", b";"]))
    pieces = [b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in (text[:at], text[at:]) if piece]
    trailer = draw(st.sampled_from([b"", b"", b"X-Trailer: 1\r\n", b"Content-Type: text/html\r\n"]))
    whole = b"".join(pieces) + b"0\r\n" + trailer + b"\r\n"
    if draw(st.integers(0, 2)):
        return whole, True, False
    cut = draw(st.integers(0, len(b"".join(pieces))))  # so that the last chunk, the empty one, is missing
    nonsense = [b"x\r\n", b"-1\r\n", b"fffffffff\r\n", b"\r\n", b"\xff\r\n", b"1" * 70_000, b"", b"5\n"]
    return draw(st.sampled_from([whole[:cut], b"".join(pieces[:1]) + draw(st.sampled_from(nonsense))])), False, True


STATUS_LINES = [
    *(
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 OK",
        b"HTTP/1.1 2OO OK",
        b"HTTP/1.1 -404 No",
        b"HTTP/1.1 99999 x",
        b"404",
        b"410 Gone",
    ),
    *(
        b"HTTP/2 404 Not Found",
        b"HTTP/3.0 410",
        b"ICY 404 x",
        b"http/1.1 404 x",
        b"HTTP 404",
        b"HTTP/1.1404",
        b"HTTP/1.1 4.04 x",
    ),
    *(
        b"HTTP/1.1 0x194 x",
        b"HTTP/1.1 404x",
        b"HTTP/1.1 \xb2\xb2\xb2 x",
        b"<html>404</html>",
        b"\x16\x03\x01\x02",
        b"x" * 70_000,
        b"\x00",
    ),
]
"""
None of them is an answer. There are others that Python's http.client reads more kindly than RFC 9112 (4): `HTTP/1.7`, `0404`,
`+404`, `4_04`. A fetcher sees the number only, so they are not tried.
"""


@st.composite
def status_lines(draw: DrawFn) -> tuple[bytes, int, bool]:
    """A line, the status that it says, 0 for none; and whether a client may refuse it."""
    kind = draw(st.integers(0, 19))
    if kind == 19:
        return draw(st.sampled_from(STATUS_LINES)), 0, True
    status = draw(st.integers(100, 599)) if kind >= 17 else draw(st.sampled_from([200] * 9 + [404] * 5 + [410] * 2 + [304]))
    reason = draw(st.sampled_from([b" OK", b"", b" ", b" Not Found", b" 200 OK", b" \xff"]))
    return draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0"])) + b" %d%s" % (status, reason), status, status == 100


ODD_TEXT = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20).map(
    lambda text: text.encode("latin-1")
)

DATES = st.sampled_from(
    [
        *(
            b"7",
            b"-7",
            b"1.5",
            b"soon",
            b"",
            b"9" * 400,
            b"9" * 5000,
            b"Thu, 01 Jan 1970 00:00:00 GMT",
            b"Thu, 01 Jan 99999 00:00:00 GMT",
        ),
        *(
            b"Thu, 99 Jan 1970 99:99:99 GMT",
            b"0",
            b"Thu",
            b"Thu, ",
            b", , , , ,",
            b"1 Jan 2000 1.2.3.4 +0800",
            b"Thu, 01 Jan 2030 00:00:00 +99999999",
        ),
    ]
)

TARGETS = st.sampled_from(
    [
        b"/login",
        b"p2",
        b"http://localhost:1/p1",
        b"https://127.0.0.1/p1",
        b"http://[half",
        b"",
        b"//",
        b"\xff",
        b"{id}",
        b"/" * 60_000,
    ]
)

GOOD_HEADERS: SearchStrategy[list[bytes]] = st.lists(
    st.one_of(
        ODD_TEXT.map(lambda text: b"ETag: " + text),
        st.sampled_from(
            [b'ETag: "7"', b'ETag: W/"7"', b"ETag: \xff", b"ETag: ", b"ETag:\t x", b"Set-Cookie: a=b", b"Connection: close"]
        ),
        DATES.map(lambda value: b"Retry-After: " + value),
        ODD_TEXT.map(lambda value: b"Retry-After: " + value),
        TARGETS.map(lambda value: b"Location: " + value),
        ODD_TEXT.map(lambda value: b"X-Odd: " + value),
    ),
    max_size=3,
)

BAD_HEADERS = st.sampled_from(
    [
        [b"X: " + b"x" * 70_000],
        [b"X-%d: x" % number for number in range(120)],
        [b"no header at all"],
        [b"X Y: z"],
        [b": nameless"],
        [b"\x00: x"],
        [b"\xff: x"],
        [b"X : y"],
        [b" folded"],
        [b"ETag: a\r\n b"],
        [b"ETag: a\rb"],
        [b"X: a\x0bb\x85c\x1cd"],
        [b"Connection: keep-alive, close, upgrade"],
    ]
)


PARTS = ["line", "content", "type", "coding", "framing", "headers", "first", "reset"]


@st.composite
def odd_answers(draw: DrawFn) -> OddAnswer:
    """Answers that are right, or almost: in one part, or in any number of them."""
    odd_parts = draw(st.sampled_from([{part} for part in PARTS] * 2 + [set(PARTS)] * 3 + [set()]))
    id = draw(st.sampled_from(ASKED_FOR))
    plain_line = st.sampled_from([(b"HTTP/1.1 %d x" % status, status, False) for status in (200, 200, 200, 404, 404, 410)])
    line, status, odd = draw(status_lines() if "line" in odd_parts else plain_line)
    any_content = st.one_of(entities(id), others_entities(id), broken(id), broken(id), page)
    content = draw(any_content if "content" in odd_parts else entities(id))
    types = draw(typed(content)) if "type" in odd_parts else [draw(st.sampled_from(HTML_TYPES if content.html else JSON_TYPES))]
    codings, text, readable = draw(coded(content.text)) if "coding" in odd_parts else ([], content.text, True)
    body = draw(framed(text)) if "framing" in odd_parts else Framed([b"Content-Length: %d" % len(text)], text, keep=True)
    bad = draw(BAD_HEADERS) if "headers" in odd_parts and draw(st.booleans()) else []
    headers = [*body.headers, *(b"Content-Type: " + one for one in types), *codings, *draw(GOOD_HEADERS)]
    headers = draw(st.permutations(headers))
    at = draw(st.integers(0, len(headers)))
    headers[at:at] = bad
    first = draw(FIRST) if "first" in odd_parts else b""
    reset = "reset" in odd_parts and draw(st.booleans())
    raw = first + b"\r\n".join([line, *headers, b"", b""]) + body.text
    said = [one.strip().lower() for value in types for one in re.split(b"[,;]", value)]
    return OddAnswer(
        id,
        # Not where a client may wait for more: after a 100, and where a broken header hides the length.
        Raw(raw, keep=body.keep and not reset and not bad and status != 100, reset=reset),
        deletes=status == 410 or (status == 404 and body.whole and b"text/html" not in said),
        value=_entity(content.value, id) if status == 200 and body.whole and _json(said) else None,
        right=not (odd or bad or reset or body.odd or first in ODD_FIRST)
        and body.whole
        and readable
        and len(types) == 1
        and b"," not in types[0],
    )


ODD_FIRST = [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"\r\n", b"x", b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"]
"""What no client has to expect before an answer. Whatever comes behind it must not count as one."""

FIRST = st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", *ODD_FIRST])


def _entity(value: Any, id: str) -> dict[str, Any] | None:
    return value if isinstance(value, dict) and str(value.get("id", id)) == id else None


def _json(said: list[bytes]) -> bool:
    return any(one == b"application/json" or one.endswith(b"+json") for one in said)


def _fuzz_answers(seed: int, examples: int) -> list[Figure]:
    said: Counter[str] = Counter()
    surprises = Surprises()
    answering: list[OddAnswer] = []
    progress = Progress(examples, "answers")

    with RawServer(lambda _: answering[-1].raw) as source, SQLiteSink(":memory:") as sink:
        fetcher = HTTPFetcher(source.url + "/products/{id}", timeout=5.0)

        def use(answer: OddAnswer) -> None:
            answering[:] = [answer]
            outcome = _looked_at(answer, fetcher, sink, surprises)
            said[outcome] += 1
            progress.add(1)

        for_each(odd_answers(), use, seed=seed, examples=examples)
    return [
        exactly("answers", said.total(), examples),
        Figure("of them stored", said["updated"], at_least=examples // 20),
        Figure("of them deleted", said["deleted"], at_least=examples // 50),
        Figure("of them unchanged, by 304 or by ETag", said["unchanged"]),
        Figure("of them refused", said["refused"], at_least=examples // 5),
        *none(
            crashes=surprises["crash"],
            wrong_deletions=surprises["wrong deletion"],
            wrong_overwrites=surprises["wrong overwrite"],
            right_answers_refused=surprises["right answer refused"],
        ),
    ]


def _looked_at(answer: OddAnswer, fetcher: HTTPFetcher, sink: SQLiteSink, surprises: Surprises) -> str:
    """Look, with an entity cached before; return what came of it."""
    id, before = answer.id, {"id": answer.id, "before": True}
    entry = sink.entry(id)
    # With the ETag that an earlier answer has left, as long as there is one.
    sink.apply(id, Found(before, entry.etag or '"1"'), if_version=entry.version)
    started = time.monotonic()
    try:
        outcome = look(id, fetcher=fetcher, sink=sink, on_get=lambda: None).value
    except FetchError:
        outcome = "refused"
    except Exception as error:  # whatever else comes out is what this looks for
        surprises.see("crash", error, answer)
        outcome = "crash"
    if time.monotonic() - started > 2.0:
        surprises.see("slow", answer)
    after = sink.get(id)
    if after is None:
        if not answer.deletes:
            surprises.see("wrong deletion", answer)
    elif after not in (before, answer.value):
        surprises.see("wrong overwrite", after, answer)
    elif answer.right and after == before and (answer.deletes or answer.value is not None):
        surprises.see("right answer refused", answer)
    return outcome
