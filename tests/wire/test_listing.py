"""HTTPListing, with real HTTP."""

from __future__ import annotations

import gzip
import json
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3

from change_events import (
    ConfigurationError,
    FetchError,
    Found,
    HTTPFetcher,
    HTTPListing,
    ListingError,
    Page,
)
from change_events._source.headers import next_link
from fetching import HTML, JSON
from verification.harness.wire import HANG_UP, Answer, Raw, RawServer, Server, half

IDS = [f"p{n}" for n in range(5)]


class Shop:
    """A service with a list. Tests set `answer`: what it answers to a path and its parameters."""

    def __init__(self):
        self.asked = []
        self.answer = None

    def respond(self, asked):
        self.asked.append(asked)
        parts = urlsplit(asked.path)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        answer = self.answer(parts.path, given)
        return answer if isinstance(answer, Answer) else as_json(answer)


@pytest.fixture
def shop():
    shop = Shop()
    with Server(shop.respond) as server:
        shop.url = server.url
        yield shop


def as_json(body, **headers):
    return Answer(200, json.dumps(body).encode(), JSON | headers)


def answering(answer):
    return lambda path, given: answer


def pages_of(listing):
    pages = [listing.page(None)]
    while pages[-1].cursor is not None:
        pages.append(listing.page(pages[-1].cursor))
        assert len(pages) < 100
    return pages


def ids_of(listing):
    return [id for page in pages_of(listing) for id in page.ids]


def by_offset(given, ids=IDS):
    """Return the page of ids that the parameters ask for, and the offset of the next one."""
    size, offset = int(given.get("limit", 2)), int(given.get("offset", 0))
    following = offset + size
    return ids[offset:following], following if following < len(ids) else None


# Where the next page is


@pytest.mark.parametrize(
    "link",
    [
        '<{0}/products?offset={1}>; rel="next"',
        "</products?offset={1}>; rel=next",
        "<?offset={1}>;rel=NEXT",
        '</0>; rel="prev", <?offset={1}>; title="a, <b>; rel=next"; rel="last next"',
        '<?offset=0>; rel="next"; anchor="#other", < ?offset={1} > ; rel = "next"',
        '<?offset=0>; rel="first"; rel="next", <?offset={1}>; rel="next"',
    ],
)
def test_the_next_page_is_in_the_link_header(shop, link):
    def answer(path, given):
        assert path == "/products"
        ids, following = by_offset(given)
        links = {"Link": link.format(shop.url, following)} if following else {}
        return as_json(ids, **links)

    shop.answer = answer

    assert [page.ids for page in pages_of(HTTPListing(shop.url + "/products"))] == [
        ["p0", "p1"],
        ["p2", "p3"],
        ["p4"],
    ]


@pytest.mark.parametrize(
    "link", ['<?offset=2>; rel="prev"', "<?offset=2", "rel=next", '<?offset=2>; title="rel=next"']
)
def test_without_a_link_to_a_next_page_a_page_is_the_last(shop, link):
    shop.answer = answering(as_json(IDS, Link=link))

    assert HTTPListing(shop.url).page(None) == Page(IDS, None, None)


def test_a_link_header_of_a_megabyte_of_brackets_is_read_in_no_time():
    """Its pattern needs time in proportion to its length: the test would not end otherwise."""
    for text in ("<" * 1_000_000, "<>;" * 300_000, "<>" + " " * 1_000_000, '<>; a="' * 100_000):
        assert next_link(text) is None


@pytest.mark.parametrize("last", [None, "", False, "missing"])
def test_the_next_page_is_a_url_in_the_body(shop, last):
    def answer(path, given):
        ids, following = by_offset(given)
        links = {"next": f"/all?offset={following}" if following else last}
        return {"data": ids, "links": {} if links["next"] == "missing" else links}

    shop.answer = answer

    assert ids_of(HTTPListing(shop.url + "/all", next="links.next")) == IDS


def test_the_next_page_is_found_by_a_token_in_the_body(shop):
    def answer(path, given):
        ids, following = by_offset({"offset": given.get("token", "0 /&?#\u00e9").split(" ")[0]})
        return {
            "data": {"products": ids},
            "token": following and f"{following} /&?#\u00e9",
            "q": given["q"],
        }

    shop.answer = answer
    listing = HTTPListing(
        shop.url + "/?q=x%26y", items="data.products", next="token", cursor="token"
    )

    assert ids_of(listing) == IDS
    assert listing.page("2 /&?#\u00e9").ids == ["p2", "p3"]


def test_a_token_can_be_a_number(shop):
    def answer(path, given):
        ids, following = by_offset(given)
        return {"ids": ids, "offset": following}

    shop.answer = answer

    assert ids_of(HTTPListing(shop.url, next="offset", cursor="offset")) == IDS


def test_the_next_page_is_found_by_the_last_id_until_one_is_empty(shop):
    ids = ["a&b=c", "caf\u00e9 \U0001f40d", "x+y", "z/#?"]

    def answer(path, given):
        begin = ids.index(given["after"]) + 1 if "after" in given else 0
        return [{"id": id} for id in ids[begin : begin + 2]]

    shop.answer = answer
    listing = HTTPListing(shop.url + "/?limit=2", cursor="after")

    assert [page.ids for page in pages_of(listing)] == [ids[:2], ids[2:], []]
    assert len(shop.asked) == 3


def test_a_listing_goes_on_at_a_cursor_in_another_process(shop):
    def answer(path, given):
        ids, following = by_offset(given)
        return {"ids": ids, "next": following and f"?offset={following}"}

    shop.answer = answer
    cursor = HTTPListing(shop.url + "/products", next="next").page(None).cursor

    assert cursor == shop.url + "/products?offset=2"
    assert HTTPListing(shop.url + "/products", next="next").page(cursor).ids == ["p2", "p3"]


def test_the_size_of_a_page_is_in_the_url(shop):
    def answer(path, given):
        ids, following = by_offset(given)
        return {"ids": ids, "next": following and f"?limit={given['limit']}&offset={following}"}

    shop.answer = answer

    pages = pages_of(HTTPListing(shop.url + "/?limit=3", next="next"))

    assert [len(page.ids) for page in pages] == [3, 2]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://localhost:{port}/?offset=2", "http://localhost:{port} is not {origin}"),
        ("https://127.0.0.1:{port}/?offset=2", "https://127.0.0.1:{port} is not {origin}"),
        ("http://127.0.0.1:1/?offset=2", "http://127.0.0.1:1 is not {origin}"),
        ("http://127.0.0.1/?offset=2", "http://127.0.0.1 is not {origin}"),
        ("//elsewhere.example.com/", "http://elsewhere.example.com is not {origin}"),
        ("file:///etc/passwd", "file:// is not {origin}"),
        ("mailto:a@example.com", "mailto:// is not {origin}"),
        ("http://[half", "Invalid IPv6 URL"),
        ("http://127.0.0.1:99999/", "it is not a URL"),
    ],
)
def test_a_next_page_at_another_origin_is_refused(shop, url, reason):
    port = shop.url.rpartition(":")[2]
    url, reason = (text.format(port=port, origin=shop.url) for text in (url, reason))
    shop.answer = answering({"ids": IDS, "next": url})
    listing = HTTPListing(shop.url, next="next", headers={"Authorization": "secret"})

    with pytest.raises(ListingError) as caught:
        listing.page(None)
    assert str(caught.value) == (
        f"GET {shop.url}/ names a next page elsewhere: {reason}. headers= and auth= are not for "
        "another scheme, host or port. Behind a proxy, the source must know its own URL"
    )
    with pytest.raises(ListingError, match="has no page at this cursor"):
        listing.page(url)
    assert len(shop.asked) == 1


@pytest.mark.parametrize(("scheme", "port", "other"), [("http", 80, 443), ("https", 443, 80)])
def test_the_default_port_is_the_same_origin(scheme, port, other):
    listing = HTTPListing(f"{scheme}://products.example.com/products")

    assert listing._target(f"{scheme}://products.example.com:{port}/products?b") == "/products?b"
    with pytest.raises(ListingError):
        listing._target(f"{scheme}://products.example.com:{other}/products?b")


@pytest.mark.parametrize(
    ("settings", "body"),
    [
        ({"next": "next"}, {"ids": IDS, "next": "/a?b"}),
        ({"next": "next"}, {"ids": IDS, "next": "?b#fragment"}),
        ({"next": "token", "cursor": "c"}, {"ids": IDS, "token": "x"}),
        ({"cursor": "c"}, ["p1", "x"]),
    ],
)
def test_a_page_that_names_itself_as_the_next_one_is_an_error(shop, settings, body):
    shop.answer = answering(body)
    listing = HTTPListing(shop.url + "/a?b", **settings)
    cursor = "x" if "cursor" in settings else None

    with pytest.raises(ListingError, match="/a names itself as its next page"):
        listing.page(cursor)


@pytest.mark.parametrize("value", [True, 1.5, [], {"href": "/2"}])
def test_a_next_page_that_is_no_text_is_an_error(shop, value):
    shop.answer = answering({"ids": IDS, "links": {"next": value}})

    with pytest.raises(ListingError, match=r"at next='links.next', which is neither a URL nor"):
        HTTPListing(shop.url, items="ids", next="links.next").page(None)


def test_a_token_that_has_no_utf_8_is_an_error(shop):
    shop.answer = answering({"ids": IDS, "next": "\ud800"})

    with pytest.raises(ListingError, match="no page at this cursor"):
        HTTPListing(shop.url, next="next", cursor="after").page(None)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"next": "/2", "results": IDS}, "next"),
        ({"results": IDS, "meta": {"next_token": "x"}}, "meta.next_token"),
        ({"value": IDS, "@odata.nextLink": "/2"}, "@odata.nextLink"),
        ({"results": IDS, "_links": {"next": {"href": "/2"}}}, "_links.next"),
        ({"data": IDS, "has_more": True, "next_page": "/2"}, "next_page"),
        ({"data": IDS, "meta": {"next": "/2"}, "next_url": "/2"}, "next_url"),
        (
            {"data": IDS, "meta": {"pagination": {"links": {"next": "/2"}}}},
            "meta.pagination.links.next",
        ),
    ],
)
def test_a_next_page_that_no_setting_reads_is_an_error(shop, body, path):
    """Otherwise the listing would end with its first page, and nobody would notice."""
    shop.answer = answering(body)

    with pytest.raises(ListingError, match=f"names a next page at '{path}': say next='{path}'"):
        HTTPListing(shop.url).page(None)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"data": IDS, "has_more": True}, "has_more"),
        (
            {"nodes": IDS, "pageInfo": {"hasNextPage": True, "endCursor": "x"}},
            "pageInfo.hasNextPage",
        ),
        ({"content": IDS, "number": 0, "last": False}, "last"),
    ],
)
def test_more_entities_that_no_setting_asks_for_are_an_error(shop, body, path):
    shop.answer = answering(body)

    with pytest.raises(ListingError, match=f"says at '{path}' that there are more: say how"):
        HTTPListing(shop.url).page(None)


@pytest.mark.parametrize(
    "body",
    [
        {"next": None, "results": IDS},
        {"results": IDS, "meta": {"next": ""}},
        {"results": IDS, "nextdoor": "x"},
        {"data": IDS, "has_more": False},
        {"content": IDS, "last": True},
        {"results": IDS, "last": "p3", "more": 0},
        {"results": IDS, "a": {"b": {"c": {"d": {"next": "x"}}}}},
    ],
)
def test_a_last_page_can_name_no_next_page(shop, body):
    shop.answer = answering(body)

    assert HTTPListing(shop.url).page(None).cursor is None


# What is on a page


@pytest.mark.parametrize(
    ("settings", "body"),
    [
        ({}, ["p1", "2", 3]),
        ({}, [{"id": "p1"}, {"id": "2"}, {"id": 3}]),
        ({}, {"count": 3, "results": ["p1", "2", 3]}),
        ({"items": "data.products"}, {"data": {"products": ["p1", "2", 3]}, "tags": []}),
        ({"id_of": "data.sku"}, [{"data": {"sku": id}} for id in ("p1", 2, 3)]),
        ({"id_of": lambda item: item["sku"]}, [{"sku": id} for id in ("p1", 2, 3)]),
        ({}, ["p1", {"id": 2}, 2, "2", 3, "p1"]),
    ],
)
def test_ids_are_items_or_in_them(shop, settings, body):
    shop.answer = answering(body)

    assert HTTPListing(shop.url, **settings).page(None) == Page(["p1", "2", "3"], None, None)


def test_whole_entities_are_given_by_id(shop):
    entities = [{"id": "p1", "n": 1.5}, {"id": 2, "n": None}]
    shop.answer = answering({"data": entities})

    page = HTTPListing(shop.url, entities=True).page(None)

    assert page == Page(["p1", "2"], {"p1": Found(entities[0]), "2": Found(entities[1])}, None)


def test_of_an_id_that_a_page_has_twice_no_entity_is_given(shop):
    shop.answer = answering([{"id": 1, "n": 1}, {"id": 2}, {"id": "1", "n": 2}])

    page = HTTPListing(shop.url, entities=True).page(None)

    assert (page.ids, page.found) == (["1", "2"], {"2": Found({"id": 2})})


def test_of_a_page_with_a_number_that_a_float_would_change_only_the_ids_count(shop):
    shop.answer = answering(Answer(200, b'[{"id": 1, "n": 0.12345678901234567890}, {"id": 2}]'))

    assert HTTPListing(shop.url, entities=True).page(None) == Page(["1", "2"], None, None)


@pytest.mark.parametrize(
    ("settings", "body", "error"),
    [
        ({}, {"a": [], "b": [], "c": 1}, r"with the keys \['a', 'b', 'c'\], not a list.*items='"),
        ({}, {"id": "p1"}, r"with the keys \['id'\], not a list"),
        ({}, "p1", "a value of type str, not a list"),
        ({}, None, "a value of type NoneType, not a list"),
        ({"items": "data"}, {"dato": []}, r"keys \['dato'\], without a list at items='data'"),
        ({"items": "data.x"}, [], "a value of type list, without a list at items='data.x'"),
        ({}, ["p1", None], "item 1 is a value of type NoneType, and has no id there"),
        ({}, [True], "item 0 is a value of type bool, and has no id"),
        ({}, [1.5], "item 0 is a value of type float, and has no id"),
        ({}, [["p1"]], "item 0 is a value of type list, and has no id"),
        ({}, [{"sku": "p1"}], r"item 0 is an object with the keys \['sku'\], and has no id there"),
        ({}, [{"data": {"id": "p1"}}], r"if an item wraps its entity, entity='\.\.\.'"),
        ({"id_of": lambda item: item["id"]}, [{}], "item 0: id_of= raised KeyError"),
        ({}, ["p1", ""], "item 1 has no usable id: an id has 1 to 512 characters"),
        ({}, ["\n"], "item 0 has no usable id: an id has no control characters"),
        ({"entities": True}, ["p1"], "item 0 is a value of type str, and entities=True needs"),
    ],
)
def test_a_page_that_is_no_list_of_ids_is_an_error_that_says_what_came(shop, settings, body, error):
    shop.answer = answering(body)

    with pytest.raises(ListingError, match=rf"GET http://127\.0\.0\.1:\d+/products.*{error}"):
        HTTPListing(shop.url + "/products?secret=1", **settings).page(None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(200, b"<h1>Sign in</h1>", HTML), "answered 'text/html', not JSON"),
        (Answer(200, b"[]", {}), "answered no media type, not JSON"),
        (Answer(200, b'["p1"'), "answered JSON that can't be stored"),
        (Answer(200, b"[NaN]"), "NaN is not JSON"),
        (Answer(404, b"{}"), "answered 404"),
        (Answer(404, b"x" * 2000, HTML), "the body is longer than 1000 bytes"),
        (Answer(400, b"{}"), "answered 400"),
        (Answer(204, b"", {}, length=0), "answered 204"),
        (
            Answer(302, b"", {"Location": "/login"}),
            r"answered 302: it is at '/login'.*put it into HTTPListing\(url\)",
        ),
        (Answer(200, b'["' + b"x" * 2000 + b'"]'), "the body is longer than 1000 bytes"),
        (
            Answer(200, gzip.compress(b" " * 2000), JSON | {"Content-Encoding": "gzip"}),
            "the body is longer than 1000 bytes",
        ),
    ],
)
def test_what_asking_again_would_not_change_is_a_listing_error(shop, answer, error):
    shop.answer = answering(answer)

    with pytest.raises(ListingError, match=rf"GET http://127\.0\.0\.1:\d+/products.*{error}"):
        HTTPListing(shop.url + "/products", max_bytes=1000).page(None)


@pytest.mark.parametrize(
    ("answer", "status", "retry_after"),
    [
        (Answer(429, b"{}", JSON | {"Retry-After": "7"}), 429, 7),
        (Answer(503, b"{}", JSON | {"Retry-After": "8"}), 503, 8),
        (Answer(500, b"{}"), 500, None),
        (Answer(401, b"{}"), 401, None),
        (Answer(403, b"{}"), 403, None),
        (HANG_UP, None, None),
        (half(as_json(IDS)), None, None),
    ],
)
def test_what_can_pass_is_a_fetch_error(shop, answer, status, retry_after):
    shop.answer = answering(answer)

    with pytest.raises(FetchError, match=r"GET http://127\.0\.0\.1:\d+/products") as raised:
        HTTPListing(shop.url + "/products").page(None)
    assert (raised.value.status, raised.value.retry_after) == (status, retry_after)

    shop.answer = answering(IDS)
    assert HTTPListing(shop.url + "/products").page(None).ids == IDS


def test_a_page_that_trickles_ends_with_the_timeout(shop):
    shop.answer = answering(Answer(200, b"[", chunks=[(0.05, b" ")] * 100, length=1000))

    with pytest.raises(FetchError, match="timed out"):
        HTTPListing(shop.url, timeout=0.2).page(None)


def test_a_page_with_a_malformed_header_is_not_believed():
    """The `Link` can be among the headers that are lost, and the listing would end here."""
    text = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nnot a header\r\n\r\n["p1"]'
    with (
        RawServer(lambda _: Raw(text)) as server,
        pytest.raises(ListingError, match="with a malformed header"),
    ):
        HTTPListing(server.url).page(None)


def test_a_gzipped_page_is_read_on_one_connection_with_the_users_headers(shop):
    body = gzip.compress(json.dumps(IDS).encode())
    shop.answer = answering(Answer(200, body, JSON | {"Content-Encoding": "gzip"}))
    tokens = iter(["one", "two"])
    listing = HTTPListing(shop.url, headers=lambda: {"Authorization": next(tokens)})

    assert [listing.page(None).ids for _ in range(2)] == [IDS, IDS]
    assert [asked.headers["Authorization"] for asked in shop.asked] == ["one", "two"]
    assert len({asked.connection for asked in shop.asked}) == 1
    assert {asked.headers["Cache-Control"] for asked in shop.asked} == {"no-cache"}


def test_a_listing_beside_a_fetcher_is_asked_with_its_headers_and_auth_on_its_connection(shop):
    class Token:
        def authorize(self, method, url, headers, *, timeout):
            return {"Authorization": f"Bearer for {url}"}

        def renew(self, headers):
            return False

    shop.answer = lambda path, given: {"id": "p1"} if path == "/products/p1" else IDS
    fetcher = HTTPFetcher(f"{shop.url}/products/{{id}}", headers={"X-Team": "carts"}, auth=Token())
    fetcher.fetch("p1")

    assert ids_of(HTTPListing(f"{shop.url}/products?limit=9", fetcher=fetcher)) == IDS

    entity, page = shop.asked
    assert page.headers["X-Team"] == "carts"
    assert page.headers["Authorization"] == f"Bearer for {shop.url}/products?limit=9"
    assert page.connection == entity.connection


def test_a_listing_beside_a_fetcher_has_limits_of_its_own(shop):
    shop.answer = lambda path, given: {"id": "p1"} if path == "/products/p1" else IDS
    fetcher = HTTPFetcher(f"{shop.url}/products/{{id}}", max_bytes=100)

    with pytest.raises(ListingError, match="longer than 9 bytes"):
        HTTPListing(f"{shop.url}/products", fetcher=fetcher, max_bytes=9).page(None)

    assert fetcher.fetch("p1") == Found({"id": "p1"})


def test_a_fetcher_of_another_origin_would_send_its_headers_to_strangers():
    fetcher = HTTPFetcher("https://products.example.com/{id}")
    with pytest.raises(ConfigurationError, match=r"fetcher= must be of the listing's scheme, host"):
        HTTPListing("https://elsewhere.example.com/products", fetcher=fetcher)


def test_another_fetcher_has_nothing_to_ask_with():
    with pytest.raises(ConfigurationError, match="fetcher= must be an HTTPFetcher, not <object"):
        HTTPListing("https://elsewhere.example.com/products", fetcher=object())


@pytest.mark.parametrize(
    "own", [{"headers": {"A": "b"}}, {"ca_file": None, "proxy": "http://127.0.0.1:3128"}]
)
def test_a_fetcher_and_what_it_brings_contradict_each_other(own):
    fetcher = HTTPFetcher("https://products.example.com/{id}")
    with pytest.raises(ConfigurationError, match="fetcher= brings headers, auth, certificates"):
        HTTPListing("https://products.example.com/products", fetcher=fetcher, **own)


def test_a_users_pool_is_used(shop):
    shop.answer = answering(IDS)
    with urllib3.PoolManager(headers={"X-Pool": "mine"}) as pool:
        assert HTTPListing(shop.url, pool=pool).page(None).ids == IDS
        assert len(pool.pools) == 1


@pytest.mark.parametrize(
    ("total", "answer", "expected"),
    [
        ("X-Total-Count", as_json(IDS, **{"X-Total-Count": "300"}), 300),
        ("x-total-count", as_json(IDS, **{"X-Total-Count": " 300"}), 300),
        ("meta.total", as_json({"ids": IDS, "meta": {"total": 300}}), 300),
        ("count", as_json({"ids": IDS, "count": "300"}), 300),
        ("count", as_json({"ids": IDS, "count": -1}), 0),
        ("count", as_json({"ids": IDS, "count": "many"}), None),
        ("count", as_json({"ids": IDS, "count": True}), None),
        ("count", as_json({"ids": IDS, "count": {}}), None),
        ("count", Answer(200, b'{"ids": [], "count": 1e999}'), None),
        ("count", as_json(IDS), None),
        (None, as_json({"ids": IDS, "count": 300}), None),
    ],
)
def test_the_total_is_in_a_header_or_in_the_body(shop, total, answer, expected):
    shop.answer = answering(answer)

    assert HTTPListing(shop.url, total=total).page(None).total == expected


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "products",
        "ftp://example.com/",
        "http://",
        "http://a/#b",
        "http://a/{id}",
        "http://[half",
    ],
)
def test_a_url_of_no_list_is_refused(url):
    said = r"is not (a URL: |an http\(s\) URL of a list; write it like https://)"
    with pytest.raises(ConfigurationError, match=said):
        HTTPListing(url)


def test_a_password_in_the_url_is_refused_without_showing_it():
    with pytest.raises(ConfigurationError, match=r"HTTPListing\(url\) must not have") as raised:
        HTTPListing("http://me:secret@example.com/")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"items": ""},
        {"items": "a..b"},
        {"items": 7},
        {"next": "."},
        {"total": ""},
        {"cursor": ""},
        {"cursor": 7},
        {"id_of": None},
        {"id_of": ""},
        {"timeout": 0},
        {"max_bytes": 0},
        {"headers": {"a b": "c"}},
    ],
)
def test_a_setting_that_can_not_be_used_is_refused(settings):
    with pytest.raises(ConfigurationError, match=rf"{next(iter(settings))}"):
        HTTPListing("http://example.com/", **settings)


def test_a_listing_shows_its_url():
    assert repr(HTTPListing("http://a/b")) == "HTTPListing('http://a/b')"
