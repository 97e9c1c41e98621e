"""Bodies and ids."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hypothesis import strategies as st

from verification.chaos.figures import Figure, exactly, none
from verification.chaos.fuzz._draw import Surprises, for_each
from verification.chaos.process import wait_until
from verification.chaos.stage import Stage
from verification.chaos.wire import Raw, RawServer
from verification.proof._parallel import Progress

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

    from verification.chaos.stage import Worker


PATIENCE = 120.0
"""Seconds until a queue must be empty again."""

MOST_WAITING = 150
"""
Messages in the queue, so that the emulator, which searches them all many times at each call, stays
quick.
"""


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
    *(
        "../../admin",
        "a/../b",
        "\\..\\x",
        "..;/admin",
        "?a=b",
        "#",
        "a#b",
        "a?b#c",
        "http://elsewhere/",
        "@elsewhere/",
        "{id}",
    ),
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
    *(
        "\ud800",
        "\udc00x",
        "\ud83d\ude00",
        "\uff0e\uff0e\uff0fadmin",
        "\u202egnp.1p",
        "null",
        "0",
        "-0",
        "00",
        "1e5",
        "nan",
    ),
    *(
        "x" * 512,
        "x" * 513,
        "\u00e9" * 512,
        "\U0001f600" * 512,
        "\U0001f600" * 513,
        "." * 512,
        "/" * 512,
        "%" * 512,
    ),
]


def usable(id: str) -> bool:
    """Say what an id is once more, beside `change_events._ids`."""
    return (
        1 <= len(id) <= 512
        and id not in {".", ".."}
        and not re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", id)
    )


def said_by(text: str) -> str | None:
    """
    Return the id that a body names, by the protocol; None if it is no change event. Its attributes
    are another matter.
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
    """
    Return the text with each two surrogates that make a pair as the one character that they are.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


odd_pieces = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.sampled_from(AWKWARD), max_size=12),
    st.text(st.characters(), max_size=20),
    st.text(
        st.characters(categories=["Cs", "Cc", "Cf", "Co", "Mn", "Zs"]) | st.sampled_from("aZ%/."),
        max_size=6,
    ),
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
    st.integers(),
    st.integers(-(10**520), 10**520),
    st.sampled_from([10**511, 10**512, -(10**510), -(10**511)]),
)

values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | ids,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(ids | st.sampled_from(["id", "Type", "Message"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def quoted(draw: DrawFn, text: str) -> str:
    """JSON text, written in one of several ways."""
    plain = json.dumps(text, ensure_ascii=False)
    everything = '"' + "".join(f"\\u{unit:04x}" for unit in _units(text)) + '"'
    return draw(
        st.sampled_from(
            [json.dumps(text), everything, *([plain] if ACCEPTED.fullmatch(plain) else [])]
        )
    )


def _units(text: str) -> list[int]:
    """Return the text's code units in UTF-16, which JSON escapes."""
    encoded = text.encode("utf-16-be", "surrogatepass")
    return [high * 256 + low for high, low in zip(encoded[::2], encoded[1::2], strict=True)]


@st.composite
def events(draw: DrawFn) -> Body:
    """
    Bodies that name an id, whether it can be one or not: among other keys, twice, in odd spellings.
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

SHORT = ["0.01", "1e-2", ".05", "+0.1", "0.001"]
"""Settle windows that nobody has to wait for."""

NO_WINDOW = [
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

windows = st.sampled_from([None] * 40 + SHORT + NO_WINDOW)

labels = st.dictionaries(
    st.sampled_from(["phase", "save"]),
    st.sampled_from(["saving", "saved", "s1", "SAVED", "\u00e9", " "]),
)


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
    said: dict[str, Any] = {
        name: {"Type": "String", "Value": value} for name, value in draw(labels).items()
    }
    if window is not None:
        said["settle"] = {"Type": "String", "Value": window}
    elif draw(st.booleans()):
        said = draw(st.dictionaries(st.sampled_from(["phase", "save", "x", ""]), values))
    odd = draw(
        st.dictionaries(
            st.sampled_from(
                ["TopicArn", "Signature", "SigningCertURL", "Subject", "MessageId", ""]
            ),
            values,
        )
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
    """Almost JSON: of an event a piece is missing, there twice, or another."""
    text = draw(events()).text
    if draw(st.booleans()):  # with no attributes: of these `said_by` knows nothing
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

odd_values = values.filter(lambda value: type(value) not in {str, int}).map(
    lambda value: Body(json.dumps({"id": value}))
)

plain = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.text(st.sampled_from('{}[]":,id01 \\'), min_size=1),
    values.map(json.dumps),
).map(_meaning)

bodies_of_all_kinds = st.one_of(
    *(
        events() for _ in range(12)
    ),  # most of all: each of the others is received several times, until it is a dead letter
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
        dead: The ids of those that were dead letters meanwhile: the emulator is slow where many are
            left.
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
        if (
            len(self._batch) == 10 or size + len(body.text.encode()) > 200_000
        ):  # of 262,144, attributes included
            self.flush()
        self._batch.append(body)

    def flush(self) -> None:
        """Send what is left."""
        entries = [
            {
                "Id": str(number),
                "MessageBody": body.text,
                "MessageAttributes": {
                    name: {"DataType": "String", "StringValue": value}
                    for name, value in body.attributes.items()
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


def fuzz_bodies(seed: int, examples: int) -> list[Figure]:
    """Send bodies to a worker over a queue."""
    lines: list[str] = []
    surprises = Surprises()

    def respond(head: bytes) -> Raw:
        lines.append(head.partition(b"\r\n")[0].decode("latin-1"))
        return Raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            keep=True,
        )

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
        surprises.see(
            "ids looked at, though no event names them"
            if id in asked
            else "ids that were not looked at",
            id,
        )
    for message_id, body in sent.items():
        if (body.id is None) != (message_id in sender.dead):
            surprises.see(
                "events in the dead-letter queue" if body.id else "others that were deleted", body
            )
    malformed = sum(body.id is None for body in sent.values())
    return [
        exactly("bodies", len(sent), examples),
        Figure(
            "of them different",
            len({(body.text, *sorted(body.attributes.items())) for body in sent.values()}),
        ),
        Figure("events", examples - malformed, at_least=examples // 4),
        Figure("of so many ids", len(named)),
        Figure("no events", malformed, at_least=examples // 10),
        Figure("GETs", len(lines)),
        *none(
            crashes=crashes,
            messages_left_in_the_queue=left,
            paths_asked_outside_the_template=surprises["outside the template"],
            ids_looked_at_though_no_event_names_them=surprises[
                "ids looked at, though no event names them"
            ],
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


def _crashes(worker: Worker) -> int:
    """
    Stop the worker; return 1 if it had died, or ends as one that has, and 1 for each thing that it
    calls critical.
    """
    died = not worker.alive
    if not died:
        worker.send(signal.SIGTERM)
        died = worker.wait() != 0
    return died + len([line for line in worker.lines() if line.get("level") == "CRITICAL"])


def _take_letters(stage: Stage, letters: set[str]) -> None:
    """Take the dead letters out of their queue, and note the ids of the messages."""
    while found := stage.sqs.receive_message(QueueUrl=stage.dead_url, MaxNumberOfMessages=10).get(
        "Messages", []
    ):
        letters |= {letter["MessageId"] for letter in found}
        handles = [
            {"Id": str(number), "ReceiptHandle": letter["ReceiptHandle"]}
            for number, letter in enumerate(found)
        ]
        stage.sqs.delete_message_batch(QueueUrl=stage.dead_url, Entries=handles)
