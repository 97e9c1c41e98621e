"""ClientCredentials, with Authlib's OAuth server over TLS and a source that checks its tokens."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent

import pytest
from flask import Response, request

from change_events import (
    ClientCredentials,
    ConfigurationError,
    FetchError,
    Found,
    HTTPFetcher,
    HTTPListing,
)
from conftest import running
from forward_proxy import forward_proxy
from oauth_server import SECRET, oauth_server
from verification.harness.wire import HANG_UP, RESET, Answer, Server


class Clock:
    """Monotonic seconds that the test moves."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def tls(authority):
    return authority[1]("login.example")


@pytest.fixture
def server(tls, look_up, source):
    """The OAuth server, which guards the source."""
    with oauth_server(tls) as running:
        look_up["login.example"] = running.port
        running.guard(source)
        source.entities["p1"] = {"id": "p1"}
        yield running


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make_auth(authority, server, clock):
    def make(**settings):
        given = {"client_id": "cache: 1", "client_secret": SECRET, "ca_file": authority[0]}
        return ClientCredentials(server.url, **(given | {"clock": clock} | settings))

    return make


@pytest.fixture
def fetcher(source, make_auth):
    return HTTPFetcher(source.url + "/products/{id}", auth=make_auth())


def failed(fetcher):
    """Return the error of a GET that has no token: an outage of the source."""
    with pytest.raises(FetchError) as caught:
        fetcher.fetch("p1")
    assert caught.value.status is None
    return caught.value


# The request


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_real_server_gives_a_token_and_the_source_accepts_it(source, server, make_auth, method):
    server.method = method
    auth = make_auth(
        scope="products:read products:list",
        parameters={"audience": "https://products.example.com"},
        secret_in_body=method == "client_secret_post",
    )
    fetcher = HTTPFetcher(source.url + "/products/{id}", auth=auth)

    assert [fetcher.fetch("p1").value for _ in range(3)] == [{"id": "p1"}] * 3

    (asked,) = server.asked
    assert asked["grant_type"] == "client_credentials"
    assert asked["scope"] == "products:read products:list"
    assert asked["audience"] == "https://products.example.com"
    assert ("client_secret" in asked) == (method == "client_secret_post")
    assert server.tokens == {"token-1": "products:read products:list"}
    assert source.refused == []


def test_a_token_request_has_a_connection_of_its_own(source, server, fetcher):
    told = []
    server.answer = lambda: told.append(request.headers["Connection"])

    fetcher.fetch("p1")

    assert told == ["close"]


def test_a_fetcher_and_a_listing_share_a_token(source, server, make_auth):
    source.answer = lambda id: Answer(200, b'["p1"]') if id == "all" else None
    auth = make_auth()

    assert HTTPListing(source.url + "/all", auth=auth).page(None).ids == ["p1"]
    assert HTTPFetcher(source.url + "/{id}", auth=auth).fetch("p1").value == {"id": "p1"}

    assert len(server.asked) == 1


def test_a_bulk_get_has_the_token(source, server, make_auth):
    fetcher = HTTPFetcher(source.url + "/{id}", bulk_url=source.url + "/many", auth=make_auth())

    assert set(fetcher.fetch_many(["p1", "p2"])) == {"p1"}
    assert source.refused == []


def test_the_secret_goes_through_a_proxy_by_tls_only(source, server, make_auth):
    with forward_proxy() as proxy:
        auth = make_auth(proxy=proxy.url)

        assert HTTPFetcher(source.url + "/{id}", auth=auth).fetch("p1").value == {"id": "p1"}

    ((method, target, headers),) = proxy.asked
    assert (method, target) == ("CONNECT", f"login.example:{server.port}")
    assert "Authorization" not in headers


def test_a_wrong_secret_is_an_outage_of_the_source(source, server, make_auth):
    auth = make_auth(client_secret="wrong-secret")
    error = failed(HTTPFetcher(source.url + "/{id}", auth=auth))

    assert str(error) == (
        f"GET {source.url}/p1: POST {server.url}: it answered 401, invalid_client"
    )
    assert source.asked == source.refused == []


def test_a_scope_that_the_server_does_not_have_is_an_outage(source, server, make_auth):
    auth = make_auth(scope="products:write")

    assert "400, invalid_scope" in str(failed(HTTPFetcher(source.url + "/{id}", auth=auth)))


# One token for all, for as long as it lasts


def test_all_threads_wait_for_one_token_request(source, server, fetcher):
    server.gate.clear()
    with ThreadPoolExecutor(16) as pool:
        looks = [pool.submit(fetcher.fetch, "p1") for _ in range(16)]
        server.arrived.acquire()
        assert not server.arrived.acquire(timeout=0.3)  # nobody else asks
        server.gate.set()
        assert [look.result().value for look in looks] == [{"id": "p1"}] * 16

    assert len(server.asked) == 1
    assert source.refused == []


def test_a_thread_waits_for_the_token_of_another_no_longer_than_its_get(source, server, make_auth):
    auth = make_auth()
    patient = HTTPFetcher(source.url + "/{id}", auth=auth, timeout=30.0)
    hasty = HTTPFetcher(source.url + "/{id}", auth=auth, timeout=0.2)
    server.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        look = pool.submit(patient.fetch, "p1")
        server.arrived.acquire()

        assert "another thread still waits for its token" in str(failed(hasty))

        server.gate.set()
        assert look.result().value == {"id": "p1"}
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("lifetime", "fresh"), [(3600, 3299), (100, 79), (10, 7), (86_400, 86_099)]
)
def test_a_token_is_renewed_in_the_last_fifth_of_its_life_at_most_five_minutes_before_its_end(
    server, fetcher, clock, lifetime, fresh
):
    server.lifetime = lifetime
    fetcher.fetch("p1")
    clock.now += fresh
    fetcher.fetch("p1")
    assert len(server.asked) == 1

    clock.now += 1
    fetcher.fetch("p1")

    assert len(server.asked) == 2


def test_while_one_thread_renews_a_token_early_the_others_use_it(source, server, fetcher, clock):
    fetcher.fetch("p1")
    clock.now += 3500
    server.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(fetcher.fetch, "p1")
        server.arrived.acquire()
        server.arrived.acquire()

        assert fetcher.fetch("p1").value == {"id": "p1"}
        assert len(source.asked) == 2

        server.gate.set()
        renewing.result()
    assert [asked.headers["Authorization"] for asked in source.asked] == [
        "Bearer token-1",
        "Bearer token-1",
        "Bearer token-2",
    ]


def test_an_early_renewal_that_fails_is_not_noticed_while_the_token_is_valid(
    source, server, fetcher, clock
):
    fetcher.fetch("p1")
    server.answer = lambda: Response(status=503)
    clock.now += 3400
    for _ in range(5):
        assert fetcher.fetch("p1").value == {"id": "p1"}
    assert len(server.asked) == 2  # it is not asked again for ten seconds

    clock.now += 10
    fetcher.fetch("p1")
    assert len(server.asked) == 3

    clock.now += 190
    assert "503" in str(failed(fetcher))


def test_an_early_renewal_that_hangs_leaves_half_of_the_time_to_the_get(
    source, server, make_auth, clock
):
    fetcher = HTTPFetcher(source.url + "/{id}", auth=make_auth(), timeout=2.0)
    fetcher.fetch("p1")
    server.gate.clear()
    clock.now += 3400

    assert fetcher.fetch("p1").value == {"id": "p1"}
    assert fetcher.fetch("p1").value == {"id": "p1"}

    assert len(server.asked) == 2
    server.gate.set()


def test_a_token_without_a_lifetime_is_used_until_a_401(source, server, fetcher, clock):
    server.lifetime = None
    fetcher.fetch("p1")
    clock.now += 1e9

    fetcher.fetch("p1")

    assert len(server.asked) == 1


# After a 401


def test_after_a_401_the_token_is_renewed_and_the_get_sent_again(source, server, fetcher):
    etag = fetcher.fetch("p1").etag
    server.tokens.clear()  # they are revoked
    server.tokens["of somebody else"] = ""

    assert type(fetcher.fetch("p1", etag=etag)).__name__ == "Unchanged"

    assert len(server.asked) == 2
    assert source.refused == ["token-1"]
    assert source.asked[-1].headers["If-None-Match"] == etag


def test_many_threads_whose_token_is_refused_share_one_new_token(source, server, fetcher):
    fetcher.fetch("p1")
    server.tokens.clear()
    server.tokens["of somebody else"] = ""
    server.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(fetcher.fetch, "p1") for _ in range(8)]
        server.arrived.acquire()
        server.arrived.acquire()
        server.gate.set()
        assert [look.result().value for look in looks] == [{"id": "p1"}] * 8

    assert len(server.asked) == 2


def test_a_source_that_refuses_every_token_costs_one_new_token_in_ten_seconds(
    source, server, fetcher, clock
):
    source.answer = lambda id: Answer(401)
    for asked in (2, 2, 2):
        with pytest.raises(FetchError, match="answered 401") as caught:
            fetcher.fetch("p1")
        assert caught.value.status == 401
        assert len(server.asked) == asked

    clock.now += 10
    with pytest.raises(FetchError, match="answered 401"):
        fetcher.fetch("p1")
    assert len(server.asked) == 3


def test_a_token_that_another_thread_has_renewed_is_not_renewed_again(server, make_auth):
    auth = make_auth()
    first = auth.authorize("GET", "", {}, timeout=5.0)
    assert auth.renew(first)
    second = auth.authorize("GET", "", {}, timeout=5.0)

    assert auth.renew(first)  # a thread that was slow hears of its 401 only now

    assert auth.authorize("GET", "", {}, timeout=5.0) == second != first
    assert len(server.asked) == 2


def test_a_thread_that_hears_of_a_401_before_the_renewal_waits_for_it(make_auth, server):
    auth = make_auth()
    first = auth.authorize("GET", "", {}, timeout=5.0)

    assert auth.renew(first)
    assert auth.renew(first)

    assert len(server.asked) == 1


def test_a_403_is_not_a_401(source, server, fetcher):
    """Another token would not help."""
    source.answer = lambda id: Answer(403)

    with pytest.raises(FetchError, match="403"):
        fetcher.fetch("p1")

    assert len(server.asked) == 1


# A token endpoint that fails


def answered(body, status=200, content_type="application/json", **headers):
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return lambda: Response(text, status, headers, content_type=content_type)


GOOD = {"access_token": "t", "token_type": "bearer", "expires_in": 60}
NONSENSE = {
    "503": (answered("{}", 503), "it answered 503"),
    "500 as HTML": (answered("<h1>no</h1>", 500, "text/html"), "it answered 500"),
    "404": (answered("{}", 404), "it answered 404"),
    "410": (answered("{}", 410), "it answered 410"),
    "304": (answered("", 304), "it answered 304"),
    "a redirect": (answered("", 307, Location="https://elsewhere.example/"), "it answered 307"),
    "201": (answered(GOOD, 201), "it answered 201"),
    "a login page": (answered("<form>", 200, "text/html"), "'text/html', not JSON"),
    "half of JSON": (answered('{"access_token": "t'), "JSON that can't be stored"),
    "an array": (answered([GOOD]), "without an access_token"),
    "null": (answered("null"), "without an access_token"),
    "no token": (answered({**GOOD, "access_token": None}), "without an access_token"),
    "an empty token": (answered({**GOOD, "access_token": ""}), "without an access_token"),
    "a line break": (answered({**GOOD, "access_token": "t\r\nX: y"}), "without an access_token"),
    "a space": (answered({**GOOD, "access_token": "t t"}), "without an access_token"),
    "not ASCII": (answered({**GOOD, "access_token": "\u20ac"}), "without an access_token"),
    "another kind": (answered({**GOOD, "token_type": "mac"}), "token_type is not Bearer"),
    "no kind": (answered({"access_token": "t"}), "token_type is not Bearer"),
    "it has expired": (answered({**GOOD, "expires_in": 0}), "a token that has expired"),
    "NaN": (answered({**GOOD, "expires_in": "nan"}), "a token that has expired"),
    "a bomb": (answered({**GOOD, "x": "x" * 70_000}), "longer than 65536 bytes"),
    "brotli": (answered(GOOD, **{"Content-Encoding": "br"}), "the content coding 'br'"),
    "very deep": (answered("[" * 60_000, 400), "it answered 400"),
}


@pytest.mark.parametrize(("answer", "message"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_from_the_token_endpoint_is_an_outage_of_the_source(
    source, server, fetcher, answer, message
):
    server.answer = answer

    assert message in str(failed(fetcher))

    assert source.asked == source.refused == []


@pytest.mark.parametrize("lifetime", ["60", 60, 60.5, None, "soon", [60], 10**400])
def test_any_lifetime_will_do(server, fetcher, lifetime):
    server.answer = answered({**GOOD, "access_token": "token-1", "expires_in": lifetime})
    server.tokens["token-1"] = ""

    assert fetcher.fetch("p1").value == {"id": "p1"}


@pytest.mark.parametrize("error", ["temporarily_unavailable", "<b>", f"{SECRET}", ["x"], None])
def test_only_an_error_that_the_rfc_names_is_shown(server, fetcher, error):
    """A server can quote the request, and so the secret."""
    server.answer = answered({"error": error, "error_description": SECRET}, 400)

    shown = str(failed(fetcher)).partition("it answered ")[2]

    assert shown == (
        "400, temporarily_unavailable" if error == "temporarily_unavailable" else "400"
    )


def test_retry_after_of_the_token_endpoint_is_passed_on(server, fetcher):
    server.answer = answered("{}", 429, **{"Retry-After": "7"})

    assert failed(fetcher).retry_after == 7.0
    assert failed(fetcher).retry_after == 7.0
    assert len(server.asked) == 1


def test_for_a_second_all_threads_get_the_error_of_one_request(server, fetcher, clock):
    server.answer = answered("{}", 503)
    server.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(failed, fetcher) for _ in range(8)]
        server.arrived.acquire()
        server.gate.set()
        assert {str(look.result()).rpartition(": ")[2] for look in looks} == {"it answered 503"}
    assert len(server.asked) == 1

    server.answer = lambda: None
    failed(fetcher)
    clock.now += 1
    assert fetcher.fetch("p1").value == {"id": "p1"}


def test_a_token_endpoint_that_is_down_and_comes_back_is_asked_again(source, clock, authority):
    with Server(lambda asked: HANG_UP) as endpoint:
        auth = ClientCredentials(
            endpoint.url.replace("127.0.0.1", "localhost"),
            client_id="a",
            client_secret="b",
            clock=clock,
        )
        source.entities["p1"] = {"id": "p1"}
        fetcher = HTTPFetcher(source.url + "/{id}", auth=auth)
        assert "without response" in str(failed(fetcher))
        endpoint.go_away()
        clock.now += 1
        assert "refused" in str(failed(fetcher))
        endpoint._respond = lambda asked: Answer(200, json.dumps(GOOD).encode())
        endpoint.come_back()
        clock.now += 1

        assert fetcher.fetch("p1").value == {"id": "p1"}
    assert source.asked[0].headers["Authorization"] == "Bearer t"


def test_a_worker_without_a_token_keeps_its_events_and_its_cache(
    source, sink, channel, make_worker, outcomes
):
    source.entities["p1"] = {"id": "p1"}
    sink.apply("p2", Found({"id": "p2"}), if_version=0)
    answers = [Answer(404, b"{}")]
    asked = threading.Semaphore(0)
    with Server(lambda _: asked.release() or answers[-1]) as endpoint:
        auth = ClientCredentials(endpoint.url, client_id="a", client_secret="b")
        fetcher = HTTPFetcher(source.url + "/products/{id}", auth=auth)
        channel.announce("p1", "p2")
        with running(make_worker(fetcher=fetcher)):
            for _ in range(2):
                assert asked.acquire(timeout=30)
            assert source.asked == []
            assert sink.get("p2") == {"id": "p2"}

            answers.append(Answer(200, json.dumps(GOOD).encode()))
            outcomes.wait_for(("p1", "created"), ("p2", "deleted"))

    assert channel.count() == {}


@pytest.mark.parametrize("fault", [HANG_UP, RESET, Answer(200, b'{"access', length=100)])
def test_a_token_that_breaks_off_is_an_outage(source, fault):
    with Server(lambda asked: fault) as endpoint:
        auth = ClientCredentials(endpoint.url, client_id="a", client_secret="b")

        failed(HTTPFetcher(source.url + "/{id}", auth=auth))

    assert source.asked == []


def test_a_token_endpoint_that_hangs_is_given_up_with_the_get(source, server, make_auth):
    server.gate.clear()
    fetcher = HTTPFetcher(source.url + "/{id}", auth=make_auth(), timeout=0.3)
    started = time.monotonic()

    assert "timed out" in str(failed(fetcher))

    assert time.monotonic() - started < 10
    server.gate.set()


def test_a_get_that_had_little_time_for_its_token_fails_alone(source, server, make_auth):
    auth = make_auth()
    server.gate.clear()
    failed(HTTPFetcher(source.url + "/{id}", auth=auth, timeout=0.3))
    server.gate.set()

    fetcher = HTTPFetcher(source.url + "/{id}", auth=auth)

    assert fetcher.fetch("p1").value == {"id": "p1"}


def test_the_certificate_of_the_token_endpoint_is_verified(source, server, make_auth, look_up):
    assert "certificate" in str(
        failed(HTTPFetcher(source.url + "/{id}", auth=make_auth(ca_file=None)))
    )
    assert server.asked == []


# Secrets


def test_no_secret_and_no_token_is_shown_anywhere(source, server, make_auth, clock, caplog):
    caplog.set_level(logging.DEBUG, logger="change_events")
    caplog.set_level(logging.DEBUG, logger="urllib3")
    auth = make_auth()
    fetcher = HTTPFetcher(source.url + "/{id}", auth=auth)
    shown = [repr(auth), str(auth), repr(fetcher)]

    fetcher.fetch("p1")
    shown.append(repr(auth._token))
    source.answer = lambda id: Answer(401)
    for _ in range(2):
        with pytest.raises(FetchError) as caught:
            fetcher.fetch("p1")
        shown.append("".join(traceback.format_exception(caught.value)))
    clock.now += 4000
    server.answer = answered({"error": SECRET, "access_token": "token-1"}, 400)
    shown.append("".join(traceback.format_exception(failed(fetcher))))

    for text in [*shown, caplog.text]:
        assert SECRET not in text
        assert "token-1" not in text
        assert "token-2" not in text


def test_a_redirect_of_the_source_gets_no_token(source, server, make_auth):
    asked = []
    with Server(lambda request: asked.append(request) or Answer(200, b'{"id": "p1"}')) as other:
        source.answer = lambda id: Answer(302, b"", {"Location": other.url + "/p1"})

        with pytest.raises(FetchError, match="302: it is at"):
            HTTPFetcher(source.url + "/{id}", auth=make_auth()).fetch("p1")

    assert asked == []


# Forks


FORKED = """
    import os, signal, sys, threading
    from change_events import ClientCredentials, FetchError, HTTPFetcher

    source, endpoint = sys.argv[1:]
    auth = ClientCredentials(endpoint, client_id="a", client_secret="b")
    fetcher = HTTPFetcher(source + "/{id}", auth=auth, timeout=20.0)
    asking = threading.Thread(target=fetcher.fetch, args=("p1",))
    asking.start()
    HTTPFetcher(source + "/{id}").fetch("wait")  # answered once the endpoint is asked
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # it ends even if it waits for a lock that nobody releases
        try:
            assert HTTPFetcher(source + "/{id}", auth=auth).fetch("p1").value == {"id": "p1"}
        finally:
            os._exit(sys.exc_info()[0] is not None)
    assert os.waitpid(child, 0)[1] == 0, "the child failed, or waited for ever"
    HTTPFetcher(source + "/{id}").fetch("go")
    asking.join()
    assert fetcher.fetch("p1").value == {"id": "p1"}
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_gets_a_token_although_a_thread_of_its_parent_was_asking(source):
    asked = threading.Semaphore(0)
    go = threading.Event()
    requests = []

    def issue(request):
        requests.append(request)
        asked.release()
        if len(requests) == 1:
            assert go.wait(60)
        return Answer(200, json.dumps(GOOD).encode())

    def answer(id):
        if id == "wait":
            assert asked.acquire(timeout=60)
        if id == "go":
            go.set()
        return Answer(200, json.dumps({"id": id}).encode())

    source.answer = answer
    with Server(issue) as endpoint:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", dedent(FORKED), source.url, endpoint.url],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    assert len(requests) == 2


# Settings


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://login.example.com/hidden", "http://login.example.com"),
        ("http://10.0.0.1:80/hidden", "http://10.0.0.1:80"),
        ("ftp://login.example.com/", "ftp://login.example.com"),
        ("login.example.com", "login.example.com"),
        ("", ""),
        (None, ""),
        (7, ""),
        ("https://", "https://"),
        ("https://[half", ""),
        ("https://login.example.com:99999999/", ""),
    ],
)
def test_a_url_where_no_secret_can_be_sent_is_refused(url, shown):
    with pytest.raises(ConfigurationError) as caught:
        ClientCredentials(url, client_id="a", client_secret="b")

    assert str(caught.value) == (
        "token_url= must be an https URL like https://login.example.com/token, because the secret "
        f"is sent there, not {shown!r}; http is for localhost"
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example.com/token?tenant=7",
        "http://localhost:8080/token",
        "http://127.0.0.2/token",
        "http://[::1]:8080/token",
    ],
)
def test_https_and_this_machine_are_accepted(url):
    auth = ClientCredentials(url, client_id="a", client_secret="b")

    assert repr(auth) == f"ClientCredentials({url.partition('?')[0]!r}, client_id='a')"


WRONG = {
    "a password in the URL": (
        {"token_url": "https://a:hidden@login.example.com/"},
        "token_url= must not have a password; give client_secret=",
    ),
    "no id": ({"client_id": ""}, "client_id= must be text, not an empty text"),
    "an id of bytes": ({"client_id": b"hidden"}, "client_id= must be text, not bytes"),
    "a missing variable": ({"client_secret": None}, "client_secret= must be text, not NoneType"),
    "no UTF-8": ({"client_secret": "hidden\udcff"}, "client_secret= must be text, not a text"),
    "an empty scope": ({"scope": ""}, "scope= must be names with single spaces"),
    "two spaces": ({"scope": "a  b"}, "scope= must be names with single spaces"),
    "a list of scopes": ({"scope": ["a"]}, "scope= must be names with single spaces"),
    "parameters of another type": (
        {"parameters": [("hidden", "a")]},
        "parameters= must be a mapping, not list",
    ),
    "a value of another type": ({"parameters": {"a": 7}}, "parameters= must be text, not int"),
    "a name of another type": ({"parameters": {7: "a"}}, "parameters= must be text, not int"),
    **{
        name: ({"parameters": {name: "hidden"}}, f"parameters= can't have '{name}'")
        for name in ("grant_type", "client_id", "client_secret", "scope")
    },
    "a file that is not there": ({"ca_file": "/nowhere/ca.pem"}, "ca_file='/nowhere/ca.pem'"),
    "an https proxy": ({"proxy": "https://a:hidden@proxy.example.com"}, "proxy= must be the URL"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_refused_without_quoting_a_secret(settings, message):
    given = {
        "token_url": "https://login.example.com/",
        "client_id": "a",
        "client_secret": "hidden",
    } | settings

    with pytest.raises(ConfigurationError) as caught:
        ClientCredentials(given.pop("token_url"), **given)

    assert str(caught.value).startswith(message)
    assert "hidden" not in str(caught.value)


def test_a_token_that_another_thread_has_renewed_meanwhile_is_not_renewed_once_more(clock):
    def ask(timeout):
        asked.append(clock.now)
        return f"token-{len(asked)}", 100.0

    def authorize():
        auth.authorize("GET", "https://x/", {}, timeout=1.0)

    def locked():  # another thread renews it just before this one gets the lock
        auth._lock = lambda: lock
        authorize()
        return lock

    asked = []
    auth = ClientCredentials(
        "https://id.example.com/token", client_id="me", client_secret="secret", clock=clock
    )
    auth._endpoint.ask = ask
    authorize()
    clock.now += 95.0
    lock, auth._lock = auth._lock(), locked

    authorize()

    assert len(asked) == 2
