"""The contract that a service must pass for caches to follow it, as tests to inherit."""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from change_events._event import Gone, Unchanged
from change_events._source.endpoint import ID
from change_events.exceptions import FetchError
from change_events.testing._source_lists import BulkAnswerRules, ListRules
from change_events.testing._source_under_test import (
    SHOW,
    SourceUnderTest,
    answered,
    everywhere,
    fail,
    fetched,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from change_events._event import Found
    from change_events._source.fetcher import HTTPFetcher

ROUNDS = 10
"""How many saves follow one another in a test of freshness."""

ID_FORMS = {
    "a slash": "{}/a",
    "a space": "{} a",
    "unicode": "{}\u00e4\U0001f40d",
    "a percent sign": "{}%a",
    "an encoded slash": "{}%2Fa",
    "a dot": "{}.a",
    "a plus": "{}+a",
    "a question mark": "{}?a=b",
    "a hash": "{}#a",
}
"""Ids that routers and proxies change on the way, each with an id in front that is new."""

FRESH = (
    "Read where commits go: not from a cache, an index or a replica, and let no proxy store the "
    "answers. (Or the fixture 'save' is to blame: it must commit before it returns, and make a "
    "state that the entity never had.)"
)

JUST_SAVED = f"It was just saved. {FRESH}"

HONEST = (
    "Caches would not notice the change. Make the ETag of a hash of the body, or of a version that "
    "grows with each save, not of a time and a size; or send none."
)


class _EntityRules(SourceUnderTest):
    """What a GET of an entity answers."""

    def test_an_entity_is_answered_by_200_with_its_id(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        for id in (self.new_id(), self.new_id(), *self.id_samples):
            save(id)
            self.found(fetcher, id)

    def test_an_entity_that_has_not_changed_is_answered_alike(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        id = self.saved(save)
        one, other = (self.found(fetcher, id).value for _ in range(2))
        if one != other:
            differing = [key for key in one | other if one.get(key) != other.get(key)]
            fail(
                f"two GETs of {id!r} differ, at {differing}, and nothing was saved in between",
                "Leave out what changes with each GET: a time, a request's id. Otherwise each look "
                "is a change.",
            )

    @pytest.mark.parametrize("form", ID_FORMS)
    def test_an_id_can_have(
        self, fetcher: HTTPFetcher, save: Callable[[str], object], form: str
    ) -> None:
        if self.id_samples:
            pytest.skip(f"ids are like {self.id_samples[0]!r}, so no id has {form} (id_samples)")
        id = ID_FORMS[form].format(self.new_id())
        sample = f"If no id of yours has {form}, say what they are like: id_samples = ['7', '12']."
        advice = (
            f"{id!r} was saved. In a URL it is {quote(id, safe='')!r}, and a router, "
            "a proxy, or the ending of a file has changed what it means. A worker would delete the "
            "entity, or never store it. Let the route match the whole id: {id:path} in FastAPI, "
            f"<path:id> in Flask and Django. {sample}"
        )
        try:
            save(id)
        except Exception as error:
            fail(f"save({id!r}) raised {error!r:.500}", sample)
        self.found(fetcher, id, advice)

    def test_a_body_is_plain_or_gzip(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        for id in (self.saved(save), self.new_id()):
            answered(
                fetcher, id, "Send a whole body, as gzip or plain: that is what each GET asks for."
            )


class _GoneRules(SourceUnderTest):
    """What says that an entity is gone, and what must not."""

    def test_an_id_that_never_existed_is_gone(self, fetcher: HTTPFetcher) -> None:
        self.require_gone(fetcher, self.new_id())

    def test_a_deleted_entity_is_gone(
        self,
        fetcher: HTTPFetcher,
        save: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        id = self.saved(save)
        delete(id)
        self.require_gone(fetcher, id)

    def test_a_path_that_no_route_matches_is_not_gone(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        id = self.saved(save)
        other, path = _beside(fetcher, id)
        try:
            answer = other.fetch(id)
        except FetchError:
            return
        if isinstance(answer, Gone):
            fail(
                f"{path}, which no route matches, was understood like an entity that is gone",
                "With a wrong URL, a worker would delete every entity. Let an entity's 404 differ "
                "from a router's, and tell them apart: HTTPFetcher(url, is_gone=lambda headers, "
                'body: b"no such product" in body). Or answer 410 for entities, and believe no 404 '
                "(is_gone=lambda headers, body: False).",
            )

    def test_an_error_of_the_service_is_not_gone(
        self,
        fetcher: HTTPFetcher,
        save: Callable[[str], object],
        failing: Callable[[], AbstractContextManager[object]],
    ) -> None:
        id = self.saved(save)
        with failing():
            try:
                answer = fetcher.fetch(id)
            except FetchError:
                return
        if isinstance(answer, Gone):
            fail(
                f"{id!r} exists, and was gone while the service could not read it",
                "A worker would delete the entity. Answer 500 or 503.",
            )


class _FreshnessRules(SourceUnderTest):
    """What a GET answers that is sent right after a commit."""

    def test_a_new_entity_is_seen_at_once(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        id = self.new_id()
        everywhere(lambda: self.require_gone(fetcher, id))
        save(id)
        everywhere(lambda: self.found(fetcher, id, JUST_SAVED))

    def test_a_change_is_seen_at_once(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        id = self.new_id()
        before: set[str] = set()
        for _ in range(ROUNDS):
            save(id)
            found = everywhere(lambda: self.found(fetcher, id, JUST_SAVED))
            now = {text_of(each.value) for each in found}
            if now & before:
                fail(f"a GET of {id!r} right after a save answered an earlier state", FRESH)
            before |= now

    def test_a_deletion_is_seen_at_once(
        self,
        fetcher: HTTPFetcher,
        save: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        id = self.saved(save)
        everywhere(lambda: self.found(fetcher, id))
        delete(id)
        everywhere(lambda: self.require_gone(fetcher, id, f"It was just deleted. {FRESH}"))

    def test_a_conditional_get_sees_each_change(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        id = self.saved(save)
        for _ in range(ROUNDS):
            etag = _etag(self.found(fetcher, id))
            save(id)
            if isinstance(fetched(fetcher, id, SHOW, etag), Unchanged):
                fail(f"304 for {id!r} to the ETag {etag:.80} from before a save", HONEST)

    def test_a_conditional_get_sees_a_deletion(
        self,
        fetcher: HTTPFetcher,
        save: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        id = self.saved(save)
        etag = _etag(self.found(fetcher, id))
        delete(id)
        if not isinstance(fetched(fetcher, id, HONEST, etag), Gone):
            fail(
                f"no 404 or 410 for {id!r} to the ETag {etag:.80} from before it was deleted",
                HONEST,
            )

    def test_no_two_states_have_one_etag(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        id = self.new_id()
        states: dict[str, Any] = {}
        for _ in range(ROUNDS):
            save(id)
            found = self.found(fetcher, id)
            etag = _etag(found)
            if states.setdefault(etag, found.value) != found.value:
                fail(f"two states of {id!r} have the ETag {etag:.80}", HONEST)

    def test_an_entity_that_comes_again_has_another_etag(
        self,
        fetcher: HTTPFetcher,
        save: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        id = self.saved(save)
        for _ in range(ROUNDS):
            before = self.found(fetcher, id)
            etag = _etag(before)
            delete(id)
            try:
                save(id)
            except Exception:  # of any kind: the service's own
                pytest.skip("the service saves nothing under the id of a deleted entity")
            changed = self.found(fetcher, id).value != before.value
            if changed and isinstance(fetched(fetcher, id, SHOW, etag), Unchanged):
                fail(f"304 for {id!r} to the ETag {etag:.80} from before it was deleted", HONEST)


class SourceContract(_EntityRules, _GoneRules, _FreshnessRules, BulkAnswerRules, ListRules):
    """
    The tests that a service must pass for caches to follow it. Inherit from it in the service's own
    tests, and say where the service is, and how an entity is saved and deleted:

        class TestProductsAsASource(SourceContract):
            @pytest.fixture
            def url(self, live_server):
                return f"{live_server.url}/products/{{id}}"

            @pytest.fixture
            def save(self, products):
                return lambda id: products.save(id, name=f"Anvil {uuid4()}")

            @pytest.fixture
            def delete(self, products):
                return products.delete

    The service must answer eight connections at the same time. `save` is given ids of the
    contract's making, new ones and, for changes, earlier ones. If all ids of the service are
    numbers, UUIDs or the like, say so: `id_samples = ("7",)`. New ids are then made like the first
    sample, or by your own `new_id`, and ids with slashes and the like are not tried.

    Optional fixtures: `fetcher` (an `HTTPFetcher`, instead of `url`, for other settings),
    `bulk_url`, `listing` (an `HTTPListing`, with small pages), and `failing` (a function that makes
    a context manager, in which the service can't read what it has stored). Without them, the tests
    that need them are skipped and say so.
    """


def _etag(found: Found[Any]) -> str:
    if found.etag is None:
        pytest.skip("the service sends no ETag (of RFC 9110's form)")
    return found.etag


def _beside(fetcher: HTTPFetcher, id: str) -> tuple[HTTPFetcher, str]:
    """Return a fetcher with the same settings, for a path that no route matches; and that path."""
    single = fetcher._single  # noqa: SLF001  # no user needs it
    path = single.target.partition("?")[0]
    routed = path.partition(ID)[0].rpartition("/")[0] if ID in path else path.rstrip("/")
    if not routed:
        pytest.skip("each path is an entity's, so there is none that no route matches")
    target = f"{routed}-{uuid.uuid4().hex}{single.target[len(routed) :]}"
    other = copy.copy(fetcher)
    other._single = replace(single, target=target)  # noqa: SLF001
    return other, target.replace(ID, quote(id, safe="")).partition("?")[0]
