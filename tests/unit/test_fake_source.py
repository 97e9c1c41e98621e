"""A source in memory answers like an HTTP server behind the production fetcher."""

from __future__ import annotations

import threading
from decimal import Decimal

import pytest

from change_events import FetchError, Found, Gone, HTTPFetcher, Unchanged
from change_events.testing import FakeSource
from verification.harness.wire import Answer


class WireSource:
    """The tests' HTTP server, with the interface of a FakeSource."""

    def __init__(self, source):
        self._source = source
        self._fetcher = HTTPFetcher(source.url + "/products/{id}")
        self.fetch = self._fetcher.fetch

    def __setitem__(self, id, entity):
        self._source.entities[id] = entity

    def __delitem__(self, id):
        del self._source.entities[id]

    def __getitem__(self, id):
        return self._source.entities[id]

    @property
    def fetched(self):
        return self._source.ids()

    def fail(self, *, status, retry_after):
        self._source.answer = lambda id: Answer(status, b"{}", {"Retry-After": str(retry_after)})

    def recover(self):
        self._source.answer = lambda id: None


@pytest.fixture(params=["wire", "fake"])
def either(request, source):
    return WireSource(source) if request.param == "wire" else FakeSource()


# On the wire and in memory


def test_an_existing_entity_is_found_with_an_etag(either):
    either["p1"] = {"id": "p1", "tags": ["a", None], "price": 1.5}

    found = either.fetch("p1")

    assert found == Found({"id": "p1", "tags": ["a", None], "price": 1.5}, found.etag)
    assert found.etag.startswith('"')
    assert found.etag.endswith('"')


def test_an_entity_with_the_same_etag_is_unchanged(either):
    either["p1"] = {"id": "p1", "n": 1}
    etag = either.fetch("p1").etag

    assert either.fetch("p1", etag=etag) == Unchanged()
    assert either.fetch("p1") == Found({"id": "p1", "n": 1}, etag)


def test_a_changed_entity_is_found_with_another_etag(either):
    either["p1"] = {"id": "p1", "n": 1}
    first = either.fetch("p1")
    either["p1"]["n"] = 2  # in place, too
    second = either.fetch("p1", etag=first.etag)
    either["p1"] = {"id": "p1", "n": 3}
    third = either.fetch("p1", etag=second.etag)

    assert [found.value["n"] for found in (first, second, third)] == [1, 2, 3]
    assert len({found.etag for found in (first, second, third)}) == 3


def test_a_missing_entity_is_gone(either):
    assert either.fetch("p1") == Gone()
    either["p1"] = {"id": "p1"}
    etag = either.fetch("p1").etag
    del either["p1"]
    assert either.fetch("p1", etag=etag) == Gone()


def test_an_entity_that_http_fetcher_would_refuse_decides_nothing(either):
    either["p1"] = {"id": "p2"}
    either["p3"] = {"id": "p3", "n": float("nan")}
    either["p4"] = {"sku": "p4"}

    for id in ("p1", "p3", "p4"):
        with pytest.raises(FetchError) as caught:
            either.fetch(id)
        assert caught.value.status == 200


def test_a_failed_get_raises_the_status_and_counts_as_fetched(either):
    either["p1"] = {"id": "p1"}
    either.fail(status=429, retry_after=7)
    with pytest.raises(FetchError, match=r"GET \S+ answered 429") as caught:
        either.fetch("p1")
    either.recover()

    assert (caught.value.status, caught.value.retry_after) == (429, 7.0)
    assert either.fetch("p1").value == {"id": "p1"}
    assert either.fetched == ["p1", "p1"]


# In memory only


@pytest.fixture
def fake():
    return FakeSource({"p1": {"id": "p1"}, "p2": {"id": "p2"}})


def answers(source, *ids):
    """GET each id; return the status of its error, or 200."""

    def ask(id):
        try:
            source.fetch(id)
        except FetchError as error:
            return error.status
        return 200

    return [ask(id) for id in ids]


def test_a_fake_source_is_a_mapping(fake):
    assert dict(fake) == {"p1": {"id": "p1"}, "p2": {"id": "p2"}}
    assert len(fake) == 2
    assert "p3" not in fake
    fake.clear()
    with pytest.raises(KeyError, match="p1"):
        fake["p1"]


def test_gets_fail_until_recover_is_called(fake):
    fake.fail()
    fake.fail("p1")
    assert answers(fake, "p1", "p2", "p3") == [503, 503, 503]
    fake.recover()
    assert answers(fake, "p1", "p2", "p3") == [200, 200, 200]
    assert fake.fetched == ["p1", "p2", "p3"] * 2


def test_a_number_of_gets_can_fail_of_one_entity_or_of_all(fake):
    fake.fail(times=2)
    assert answers(fake, "p1", "p2", "p1") == [503, 503, 200]

    fake.fail("p1", times=2, status=500)
    assert answers(fake, "p1", "p2", "p1", "p1") == [500, 200, 500, 200]

    fake.fail()
    fake.fail("p1", status=500)
    assert answers(fake, "p1", "p2") == [500, 503]


def test_id_of_says_where_an_entity_has_its_id():
    fake = FakeSource({"p1": {"data": {"id": "p1"}}, "p2": {"id": "p2"}}, id_of="data.id")

    assert answers(fake, "p1", "p2") == [200, 200]
    assert fake.fetch("p1").value == {"data": {"id": "p1"}}


def test_an_answer_is_a_copy(fake):
    fake.fetch("p1").value["n"] = 1

    assert fake["p1"] == {"id": "p1"}


def test_an_entity_that_cannot_be_json_is_refused_when_it_is_saved(fake):
    with pytest.raises(TypeError, match="Decimal"):
        fake["p1"] = {"id": "p1", "price": Decimal("1.5")}

    assert fake["p1"] == {"id": "p1"}


def test_threads_can_share_a_fake_source(fake):
    fake.fail(times=50)
    failed = []

    def ask():
        failed.extend(answers(fake, *["p1"] * 25))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (failed.count(503), failed.count(200)) == (50, 150)
