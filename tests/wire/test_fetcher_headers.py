"""HTTPFetcher(headers=): what it adds to a request, and what it can't do."""

from __future__ import annotations

import pytest

from change_events import ConfigurationError, FetchError, HTTPFetcher
from fetching import TRANSPORTS


@pytest.fixture(params=TRANSPORTS)
def make(request):
    """HTTPFetcher, with each of its two ways to the source."""
    with TRANSPORTS[request.param]() as make:
        yield make


@pytest.fixture(autouse=True)
def _product(source):
    source.entities["p1"] = {"id": "p1"}


def sent(source, number=0):
    """Return the headers of a request by their names in lower case. No name comes twice."""
    return {name.lower(): value for name, value in source.asked[number].headers.items()}


def test_headers_are_a_mapping_or_a_callable_that_is_called_for_each_get(source):
    tokens = iter(["one", "two"])
    mapping = HTTPFetcher(source.url + "/{id}", headers={"Authorization": "zero"})
    called = HTTPFetcher(source.url + "/{id}", headers=lambda: {"Authorization": next(tokens)})

    for fetcher in (mapping, called, called):
        fetcher.fetch("p1")

    assert [sent(source, number)["authorization"] for number in range(3)] == ["zero", "one", "two"]


def test_a_mapping_is_read_at_each_get(source):
    headers = {"Authorization": "one"}
    fetcher = HTTPFetcher(source.url + "/{id}", headers=headers)
    fetcher.fetch("p1")
    headers["Authorization"] = "two"
    fetcher.fetch("p1")

    assert sent(source, 1)["authorization"] == "two"


def test_a_given_header_replaces_a_default_in_any_spelling(make, source):
    given = {"accept": "application/hal+json", "USER-AGENT": "mine", "host": "products.internal"}

    make(source.url + "/{id}", headers=given).fetch("p1")

    headers = sent(source)
    assert len(headers) == len(source.asked[0].headers)
    assert headers["accept"] == "application/hal+json"
    assert headers["user-agent"] == "mine"
    assert headers["host"] == "products.internal"


@pytest.mark.parametrize("etag", [None, '"7"'])
def test_given_headers_do_not_displace_those_that_say_how_to_answer(make, source, etag):
    given = {"cache-control": "max-stale=60", "if-none-match": "*", "accept-encoding": "br"}

    make(source.url + "/{id}", headers=given).fetch("p1", etag=etag)

    headers = sent(source)
    assert len(headers) == len(source.asked[0].headers)
    assert headers["cache-control"] == ("no-cache" if etag is None else "max-age=0")
    assert headers.get("if-none-match") == etag
    assert headers["accept-encoding"] == "gzip"


def test_a_token_that_could_not_be_had_fails_like_a_get_without_an_answer(make, source):
    """So the worker blames the source and not the entity, and spends no receive."""

    def headers():
        raise ConnectionError("the token service does not answer")

    with pytest.raises(FetchError) as caught:
        make(source.url + "/{id}", headers=headers).fetch("p1")

    assert str(caught.value) == (
        "headers= raised ConnectionError('the token service does not answer')"
    )
    assert caught.value.status is None
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert source.asked == []


NONSENSE = {
    "None": (None, "must give a mapping, not NoneType"),
    "a list": ([("Authorization", "secret")], "must give a mapping, not list"),
    "no value": ({"Authorization": None}, "text as the value of 'Authorization', not NoneType"),
    "bytes": ({"Authorization": b"secret"}, "text as the value of 'Authorization', not bytes"),
    "a line break": ({"Authorization": "secret\n"}, "'Authorization' a value that no header can"),
    "another header": ({"A": "secret\r\nX: y"}, "'A' a value that no header can have"),
    "NUL": ({"A": "secret\0"}, "'A' a value that no header can have"),
    "a character outside of Latin-1": ({"A": "secret\u20ac"}, "a character outside of Latin-1"),
    "a name with a value": ({"X-Token: secret": "x"}, "it begins with 'X-Token'"),
    "a name with a line break": ({"\nsecret": "x"}, "it is of type str"),
    "no name": ({None: "secret"}, "it is of type NoneType"),
    "an empty name": ({"": "secret"}, "it is of type str"),
}


@pytest.mark.parametrize(("headers", "message"), NONSENSE.values(), ids=NONSENSE)
def test_headers_that_can_not_be_sent_are_refused_without_quoting_a_value(
    make, source, headers, message
):
    with pytest.raises(FetchError, match=message) as caught:
        make(source.url + "/{id}", headers=lambda: headers).fetch("p1")

    assert "headers=" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.status is None
    assert source.asked == []


@pytest.mark.parametrize(
    ("headers", "message"),
    [each for name, each in NONSENSE.items() if name != "None"],
    ids=[name for name in NONSENSE if name != "None"],
)
def test_a_mapping_that_can_not_be_sent_is_refused_when_the_fetcher_is_made(headers, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        HTTPFetcher("https://products.example.com/{id}", headers=headers)

    assert "secret" not in str(caught.value)


def test_a_value_of_latin_1_is_sent(make, source):
    make(source.url + "/{id}", headers={"X-Name": "caf\xe9"}).fetch("p1")

    assert sent(source)["x-name"] == "caf\xe9"
