"""Listings made of iterables."""

from __future__ import annotations

import sqlite3
from uuid import UUID

import pytest

from change_events import ConfigurationError, Found, HTTPListing, ListingError, Page
from change_events._source.listing import listing_of

IDS = [f"p{n}" for n in range(5)]


def pages_of(listing):
    pages = [listing.page(None)]
    while pages[-1].cursor is not None:
        pages.append(listing.page(pages[-1].cursor))
    return pages


def test_a_list_of_ids_is_read_in_pages():
    assert pages_of(listing_of(IDS, 2)) == [
        Page(["p0", "p1"], None, "2", 5),
        Page(["p2", "p3"], None, "4", 5),
        Page(["p4"], None, None, 5),
    ]


def test_a_full_last_page_is_followed_by_an_empty_one():
    assert pages_of(listing_of(IDS[:2], 2)) == [
        Page(["p0", "p1"], None, "2", 2),
        Page([], None, None, 2),
    ]


def test_a_page_has_a_hundred_items_by_default():
    assert [len(page.ids) for page in pages_of(listing_of(range(250)))] == [100, 100, 50]


def test_pairs_have_entities():
    entities = {"p1": {"n": 1}, 2: {"n": 2}}
    found = {"p1": Found({"n": 1}), "2": Found({"n": 2})}

    assert listing_of(entities.items()).page(None) == Page(["p1", "2"], found, None, 2)
    assert listing_of([("p1", found["p1"])]).page(None).found == {"p1": found["p1"]}


def test_ids_are_text_and_each_is_named_once():
    id = UUID(int=7)

    assert listing_of([1, "1", id, "p1"]).page(None).ids == ["1", str(id), "p1"]


def test_a_generator_is_read_once_from_any_cursor():
    assert pages_of(listing_of((id for id in IDS), 2))[-1] == Page(["p4"], None, None)
    assert listing_of(iter(IDS), 2).page("2").ids == ["p2", "p3"]


def test_a_list_can_be_read_from_any_cursor_again():
    listing = listing_of(IDS, 2)

    assert [listing.page(cursor).ids for cursor in ("4", "2", "2", None)] == [
        ["p4"],
        ["p2", "p3"],
        ["p2", "p3"],
        ["p0", "p1"],
    ]


def test_a_generator_that_would_have_to_begin_again_is_an_error():
    listing = listing_of((id for id in IDS), 2)
    listing.page(None)

    with pytest.raises(ConfigurationError, match="is a generator, which can be read only once"):
        listing.page(None)


def test_a_cursor_of_a_database_is_read_once():
    connection = sqlite3.connect(":memory:")
    rows = connection.execute("SELECT 'p1', '{}' UNION SELECT 'p2', '{}'")
    listing = listing_of(rows, 1)
    assert listing.page(None).ids == ["p1"]

    with pytest.raises(ConfigurationError, match="is a Cursor, which can be read only once"):
        listing.page(None)
    connection.close()


def test_an_iterable_that_raises_does_not_look_like_one_that_has_ended():
    def query():
        yield from IDS[:3]
        raise ConnectionError("the database is gone")

    listing = listing_of(query(), 2)
    assert listing.page(None).cursor == "2"
    with pytest.raises(ConnectionError):
        listing.page("2")
    with pytest.raises(ConfigurationError, match="can be read only once"):
        listing.page("2")


def test_a_set_is_sorted_because_its_order_differs_from_process_to_process():
    ids = [f"p{n:03}" for n in range(100)]

    assert listing_of(set(ids)).page(None).ids == ids
    assert listing_of(frozenset(ids)).page(None).ids == ids


def test_a_listing_is_returned_as_it_is():
    class Products:
        def page(self, cursor):
            return Page([], None, None)

    for listing in (Products(), HTTPListing("http://example.com/products")):
        assert listing_of(listing) is listing


@pytest.mark.parametrize("source", ["p1", b"p1", {"p1": {}}, None, 7, HTTPListing, list])
def test_what_is_no_listing_is_refused_with_what_is_one(source):
    with pytest.raises(
        ConfigurationError, match=r"a listing is an HTTPListing, an object with page\(cursor\), or"
    ):
        listing_of(source)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("", "an id has 1 to 512 characters"),
        ("p1\n", "an id has no control characters"),
        (None, "it has a value of type NoneType"),
        (True, "it has a value of type bool"),
        (("p1",), "it has a value of type tuple"),
        ({"id": "p1", "name": "secret"}, r"it has an object with the keys \['id', 'name'\]"),
        ((1.5, {}), "it has a value of type float"),
    ],
)
def test_an_item_that_is_no_id_and_no_pair_is_an_error(item, reason):
    listing = listing_of(["p0", item])

    with pytest.raises(ListingError, match=f"item 1 of the listing is neither .*: {reason}"):
        listing.page(None)


@pytest.mark.parametrize("cursor", ["", "x", "-1", "http://a/b", "\u0663"])
def test_a_cursor_of_another_listing_is_an_error(cursor):
    with pytest.raises(ListingError, match="is another listing's"):
        listing_of(IDS).page(cursor)


class Cursor:
    """As MySQLdb has it: it is no iterator, and its rows come only once."""

    def __init__(self):
        self._rows = iter([("p1",), ("p2",), ("p3",), ("p4",)])

    def fetchone(self):
        return next(self._rows, None)

    def __iter__(self):
        return (row[0] for row in iter(self.fetchone, None))


def test_a_cursor_of_a_database_can_not_begin_again():
    listing = listing_of(Cursor(), 2)
    assert listing.page(None).ids == ["p1", "p2"]

    with pytest.raises(ConfigurationError, match="only once"):
        listing.page(None)
