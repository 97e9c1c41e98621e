"""HTTPFetcher(auth=) and HTTPListing(auth=): the seam, with real HTTP."""

from __future__ import annotations

import threading
import time

import pytest

from change_events import (
    ConfigurationError,
    FetchError,
    HTTPFetcher,
    HTTPListing,
    ListingError,
    SigV4,
    Unchanged,
)
from fetching import JSON, TRANSPORTS, answering
from verification.harness.wire import Answer


class Tokens:
    """Gives tokens 1, 2, ..., and notes what it is asked and told."""

    def __init__(self, *, renews=True):
        self.number = 1
        self.renews = renews
        self.seen = []
        self.refused = []

    def authorize(self, method, url, headers, /, *, timeout):
        self.seen.append((method, url, dict(headers), timeout))
        return {"Authorization": f"token-{self.number}"}

    def renew(self, refused, /):
        self.refused.append(refused)
        self.number += self.renews
        return self.renews


@pytest.fixture(params=TRANSPORTS)
def make(request):
    """HTTPFetcher, with each of its two ways to the source."""
    with TRANSPORTS[request.param]() as make:
        yield make


@pytest.fixture
def auth():
    return Tokens()


def accept(source, *tokens):
    """Let the source answer 401 to all other tokens."""
    respond = source.respond
    source.sent = []

    def guarded(asked):
        source.sent.append(asked.headers.get("Authorization"))
        return respond(asked) if source.sent[-1] in tokens else Answer(401)

    source.respond = guarded


def test_auth_sees_what_is_sent_and_adds_to_it(make, source, auth):
    source.entities["a b"] = {"id": "a b"}
    fetcher = make(source.url + "/v1/{id}?view=full", auth=auth, timeout=3.0)

    fetcher.fetch("a b")

    ((method, url, headers, timeout),) = auth.seen
    assert (method, url) == ("GET", source.url + "/v1/a%20b?view=full")
    (asked,) = source.asked
    assert asked.headers["Authorization"] == "token-1"
    assert headers.items() <= asked.headers.items()
    assert headers["Accept"] == "application/json"
    assert 2.0 < timeout <= 3.0
    assert auth.refused == []


def test_what_auth_adds_replaces_headers_of_any_case_but_not_our_own(make, source, auth):
    auth.authorize = lambda *_, timeout: {
        "X-KEY": "auth",
        "accept-encoding": "br",
        "If-None-Match": '"9"',
        "Cache-Control": "max-stale",
    }

    make(source.url + "/{id}", headers={"X-Key": "mine", "X-Other": "mine"}, auth=auth).fetch("p1")

    sent = {name.lower(): value for name, value in source.asked[0].headers.items()}
    assert sent["x-key"] == "auth"
    assert sent["x-other"] == "mine"
    assert sent["accept-encoding"] == "gzip"
    assert sent["cache-control"] == "no-cache"
    assert "if-none-match" not in sent


def test_a_callable_gives_headers_once_for_a_get_that_is_sent_twice(make, source, auth):
    accept(source, "token-2")
    calls = []
    fetcher = make(source.url + "/{id}", headers=lambda: calls.append(1) or {}, auth=auth)

    fetcher.fetch("p1")

    assert len(calls) == 1
    assert source.sent == ["token-1", "token-2"]


# A 401


def test_after_a_401_the_get_is_sent_once_more_if_auth_says_so(make, source, auth):
    accept(source, "token-2")
    source.entities["p1"] = {"id": "p1"}
    fetcher = make(source.url + "/{id}", auth=auth)

    assert fetcher.fetch("p1").value == {"id": "p1"}

    assert auth.refused == [{"Authorization": "token-1"}]
    assert source.sent == ["token-1", "token-2"]


def test_a_conditional_get_that_is_sent_again_is_still_conditional(make, source, auth):
    accept(source, "token-2")
    source.answer = lambda id: Answer(304)

    assert make(source.url + "/{id}", auth=auth).fetch("p1", etag='"7"') == Unchanged()

    assert source.asked[0].headers["If-None-Match"] == '"7"'
    assert source.asked[0].headers["Cache-Control"] == "max-age=0"


def test_a_second_401_is_the_answer(make, source, auth):
    accept(source)
    fetcher = make(source.url + "/{id}", auth=auth)

    with pytest.raises(FetchError, match="/p1 answered 401") as caught:
        fetcher.fetch("p1")

    assert caught.value.status == 401
    assert source.sent == ["token-1", "token-2"]
    assert len(auth.refused) == 1


def test_a_401_stands_if_auth_does_not_renew(make, source):
    auth = Tokens(renews=False)
    accept(source)

    with pytest.raises(FetchError, match="answered 401"):
        make(source.url + "/{id}", auth=auth).fetch("p1")

    assert source.sent == ["token-1"]
    assert len(auth.refused) == 1


@pytest.mark.parametrize("answer", [Answer(403), Answer(404), Answer(407), Answer(500)])
def test_auth_is_told_of_nothing_but_a_401(make, source, auth, answer):
    answering(source, answer)
    fetcher = make(source.url + "/{id}", auth=auth)

    if answer.status == 404:
        fetcher.fetch("p1")
    else:
        with pytest.raises(FetchError, match=str(answer.status)):
            fetcher.fetch("p1")

    assert auth.refused == []
    assert len(source.asked) == 1


@pytest.mark.parametrize(
    "unreadable",
    [Answer(401, b"x" * 2000), Answer(401, b"{}", JSON | {"Content-Encoding": "br"})],
    ids=["too long", "a coding that nobody asked for"],
)
def test_auth_is_told_of_a_401_whose_body_can_not_be_read(make, source, auth, unreadable):
    answers = iter([unreadable])
    source.answer = lambda id: next(answers, None)
    source.entities["p1"] = {"id": "p1"}

    fetcher = make(source.url + "/{id}", auth=auth, max_bytes=1000)

    assert fetcher.fetch("p1").value == {"id": "p1"}
    assert auth.refused == [{"Authorization": "token-1"}]


def test_a_get_that_fails_on_the_way_is_not_a_401(make, free_port, auth):
    with pytest.raises(FetchError, match="refused"):
        make(f"http://127.0.0.1:{free_port}/{{id}}", auth=auth).fetch("p1")

    assert auth.refused == []


def test_the_second_get_has_only_the_time_that_the_first_one_has_left(make, source, auth):
    accept(source)
    respond = source.respond

    def slow(asked):
        answer = respond(asked)
        time.sleep(1.5 if len(source.sent) == 1 else 5.0)  # simulates a slow source
        return answer

    source.respond = slow
    fetcher = make(source.url + "/{id}", auth=auth, timeout=2.0)
    started = time.monotonic()

    with pytest.raises(FetchError, match="timed out"):
        fetcher.fetch("p1")

    assert time.monotonic() - started < 4.5  # with all of its time again, it would be 5.5
    assert [timeout < 0.6 for *_, timeout in auth.seen] == [False, True]


def test_a_401_that_comes_when_the_time_is_over_is_told_and_stands(source, auth):
    """The next look has another token."""
    over = threading.Event()

    def renew(refused, /):
        auth.refused.append(refused)
        over.wait(1.6)
        return True

    auth.renew = renew
    accept(source)

    with pytest.raises(FetchError, match="answered 401"):
        HTTPFetcher(source.url + "/{id}", auth=auth, timeout=1.5).fetch("p1")

    assert source.sent == ["token-1"]
    assert len(auth.refused) == 1


def test_nothing_is_sent_once_auth_has_needed_all_of_the_time(make, source, auth):
    give = auth.authorize

    def slow(*request, timeout):
        time.sleep(timeout + 0.01)  # simulates a slow token endpoint
        return give(*request, timeout=timeout)

    auth.authorize = slow

    with pytest.raises(FetchError, match=r"auth= has needed all of the 0\.2 s of a GET") as caught:
        make(source.url + "/{id}", auth=auth, timeout=0.2).fetch("p1")

    assert caught.value.status is None
    assert source.asked == []


# An auth that fails


def raising(error):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize("method", ["authorize", "renew"])
def test_what_auth_raises_is_an_outage_whose_text_is_not_shown(make, source, auth, method):
    setattr(auth, method, raising(KeyError("secret")))
    answering(source, Answer(401))

    with pytest.raises(FetchError, match="/p1: auth= raised KeyError") as caught:
        make(source.url + "/{id}", auth=auth).fetch("p1")

    assert caught.value.status is None
    assert isinstance(caught.value.__cause__.__cause__, KeyError)
    assert "secret" not in str(caught.value)


def test_a_fetch_error_of_auth_is_an_outage_whatever_its_status(make, source, auth):
    auth.authorize = raising(FetchError("no token today", status=404, retry_after=7.0))

    with pytest.raises(FetchError, match="/p1: no token today") as caught:
        make(source.url + "/{id}", auth=auth).fetch("p1")

    assert (caught.value.status, caught.value.retry_after) == (None, 7.0)
    assert source.asked == []


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (None, "auth= must give a mapping, not NoneType"),
        ({"Authorization": "secret\r\nX: y"}, "auth= gives 'Authorization' a value that no header"),
        ({"Authorization": b"secret"}, "auth= must give text as the value of 'Authorization'"),
        ({"secret: a": "b"}, "auth= has a name that is not a header's"),
    ],
)
def test_headers_of_auth_that_can_not_be_sent_are_an_outage(make, source, auth, added, message):
    auth.authorize = lambda *_, timeout: added

    with pytest.raises(FetchError, match=message) as caught:
        make(source.url + "/{id}", auth=auth).fetch("p1")

    assert caught.value.status is None
    assert "b'secret'" not in str(caught.value)
    assert source.asked == []


# Bulk GETs and listings


def test_a_bulk_get_is_authorized_with_its_own_url(make, source, auth):
    source.entities["p1"] = {"id": "p1"}
    accept(source, "token-2")
    fetcher = make(source.url + "/{id}", bulk_url=source.url + "/many", auth=auth)

    assert set(fetcher.fetch_many(["p1", "p2"])) == {"p1"}

    assert {url for _, url, *_ in auth.seen} == {source.url + "/many?id=p1&id=p2"}


@pytest.mark.parametrize(
    "bulk_url",
    [
        "https://other.example.com/products",
        "http://products.example.com/products",
        "https://products.example.com:8443/products",
    ],
)
def test_credentials_are_for_one_origin(auth, bulk_url):
    with pytest.raises(ConfigurationError, match="with auth=, bulk_url= must have the scheme"):
        HTTPFetcher("https://products.example.com/{id}", bulk_url=bulk_url, auth=auth)

    HTTPFetcher("https://products.example.com/{id}", bulk_url=bulk_url)
    HTTPFetcher(
        "https://products.example.com/{id}",
        bulk_url="https://products.example.com:443/products",
        auth=auth,
    )


def test_each_page_of_a_listing_is_authorized(source, auth):
    pages = {"": ("p1", "/list?page=2"), "2": ("p2", None)}

    def page(asked):
        id, following = pages[asked.path.partition("page=")[2]]
        source.asked.append(asked)
        text = f'{{"items": ["{id}"], "next": {"null" if following is None else following!r}}}'
        return Answer(200, text.replace("'", '"').encode())

    source.respond = page
    accept(source, "token-2")
    listing = HTTPListing(source.url + "/list", next="next", auth=auth)

    first = listing.page(None)
    second = listing.page(first.cursor)

    assert (first.ids, second.ids) == (["p1"], ["p2"])
    assert source.sent == ["token-1", "token-2", "token-2"]


def test_a_listing_without_a_token_is_read_again_later(source, auth):
    """Nothing is wrong with the list."""
    auth.authorize = raising(FetchError("no token today"))

    with pytest.raises(FetchError, match="no token today"):
        HTTPListing(source.url + "/list", auth=auth).page(None)


def test_a_listing_gives_its_token_to_no_other_origin(source, auth):
    answering(source, Answer(200, b'{"items": [], "next": "http://localhost:1/list"}'))

    with pytest.raises(ListingError, match="headers= and auth= are not for another scheme, host"):
        HTTPListing(source.url + "/list", next="next", auth=auth).page(None)

    assert len(auth.seen) == 1


# Settings


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (("user", "secret"), "tuple"),
        ("secret", "str"),
        (SigV4, "SigV4"),
        (len, "builtin_function_or_method"),
    ],
)
@pytest.mark.parametrize("reader", [HTTPFetcher, HTTPListing])
def test_something_else_than_an_auth_is_refused_without_quoting_it(reader, wrong, kind):
    with pytest.raises(ConfigurationError, match=rf"auth= must be .*renew\(\), not {kind}$") as e:
        reader("https://products.example.com/" + "{id}" * (reader is HTTPFetcher), auth=wrong)

    assert "secret" not in str(e.value)


def test_two_authorizations_are_refused(auth):
    with pytest.raises(ConfigurationError, match="headers= has an Authorization already"):
        HTTPFetcher("https://a.example/{id}", headers={"authorization": "secret"}, auth=auth)
