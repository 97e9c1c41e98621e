"""What a service must answer about many entities: bulk GETs, and its list of all."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from change_events.exceptions import FetchError, ListingError
from change_events.testing._source_under_test import SourceUnderTest, fail, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from change_events._event import Found, Page
    from change_events._source.fetcher import HTTPFetcher
    from change_events.typing import Listing

LISTED = 6
"""How many entities are saved to be listed."""

ALIKE = (
    "Read what a GET of the entity alone reads, and answer the same: an array of whole entities, "
    "of all ids asked for that exist, in any order."
)

ONLY = "Answer with the entities that were asked for and exist, and with no others."

WHOLE = (
    "A backfill would never store what the list lacks. List every entity, read from where commits "
    "go, and name the next page: see HTTPListing."
)


class BulkAnswerRules(SourceUnderTest):
    """What a bulk GET answers, if the fetcher has a `bulk_url`."""

    def test_a_bulk_get_answers_as_many_as_are_asked_for(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        _require_bulk(fetcher)
        ids = [self.saved(save) for _ in range(fetcher.bulk_size)]
        save(ids[0])
        random.shuffle(ids)  # otherwise the ids could be in the order of their saves

        answer = _fetched_many(fetcher, ids)

        lacking = [id for id in ids if id not in answer]
        if lacking:
            fail(
                f"a bulk GET of {len(ids)} entities lacks {len(lacking)}, or has them twice, like "
                f"{lacking[0]!r}",
                f"{ALIKE} If it can't answer so many, set a smaller bulk_size=.",
            )
        for id in ids:
            if text_of(answer[id].value) != text_of(self.found(fetcher, id).value):
                fail(f"a bulk GET and a GET of {id!r} alone answer different entities", ALIKE)

    def test_a_bulk_get_sees_each_change(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        _require_bulk(fetcher)
        ids = [self.saved(save) for _ in range(2)]
        for _ in range(2):  # the first answer can be kept somewhere
            save(ids[0])
            answer = _fetched_many(fetcher, ids)
            single = self.found(fetcher, ids[0])
            if ids[0] not in answer or text_of(answer[ids[0]].value) != text_of(single.value):
                fail(
                    f"a bulk GET right after a save of {ids[0]!r} answered an earlier state", ALIKE
                )

    def test_a_bulk_get_leaves_out_what_does_not_exist(
        self,
        fetcher: HTTPFetcher,
        save: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        _require_bulk(fetcher)
        kept, deleted = self.saved(save), self.saved(save)
        delete(deleted)
        for other, what in ((deleted, "was deleted"), (self.new_id(), "never existed")):
            answer = _fetched_many(fetcher, [other, kept])
            if other in answer:
                fail(f"a bulk GET has {other!r}, which {what}", ONLY)
            if kept not in answer:
                fail(f"a bulk GET lacks {kept!r}, asked for with {other!r}, which {what}", ALIKE)

    def test_a_bulk_get_answers_only_what_is_asked_for(
        self, fetcher: HTTPFetcher, save: Callable[[str], object]
    ) -> None:
        _require_bulk(fetcher)
        asked, other = self.saved(save), self.saved(save)
        if other in _answered_many(fetcher, asked):
            fail(f"a bulk GET of {asked!r} alone has {other!r}, too", ONLY)


class ListRules(SourceUnderTest):
    """What the list of all entities names, if there is a `listing`."""

    def test_the_list_names_each_entity_once(
        self, listing: Listing[Any], save: Callable[[str], object]
    ) -> None:
        ids = [self.saved(save) for _ in range(LISTED)]

        times = Counter(id for page in _pages(listing) for id in page.ids)

        lacking = [id for id in ids if id not in times]
        if lacking:
            fail(f"the list lacks {lacking[0]!r}, which was saved before it was read", WHOLE)
        twice = [id for id, number in times.items() if number > 1]
        if twice:
            fail(
                f"the list has {twice[0]!r} on two pages, and nothing was saved in between",
                "Sort it by what is unique, the id, and begin a page after the last id of the one "
                "before.",
            )

    def test_the_list_leaves_out_what_was_deleted(
        self,
        listing: Listing[Any],
        save: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        id = self.saved(save)
        delete(id)
        if any(id in page.ids for page in _pages(listing)):
            fail(f"the list has {id!r}, which was deleted before it was read", "Leave it out.")

    def test_the_list_sees_each_change(
        self,
        fetcher: HTTPFetcher,
        listing: Listing[Any],
        save: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        changed, deleted = self.saved(save), self.saved(save)
        for _ in _pages(listing):
            pass
        save(changed)
        delete(deleted)
        new = self.saved(save)

        pages = list(_pages(listing))

        ids = {id for page in pages for id in page.ids}
        found = {id: each for page in pages for id, each in (page.found or {}).items()}
        if new not in ids or deleted in ids:
            fail(f"the list is as it was before {new!r} was saved and {deleted!r} deleted", WHOLE)
        if changed in found and found[changed].value != self.found(fetcher, changed).value:
            fail(f"the list has {changed!r} as it was before a save", WHOLE)

    def test_the_list_has_what_a_get_finds(
        self, fetcher: HTTPFetcher, listing: Listing[Any], save: Callable[[str], object]
    ) -> None:
        ids = [self.saved(save) for _ in range(2)]
        save(ids[0])
        found = {id: each for page in _pages(listing) for id, each in (page.found or {}).items()}
        if not found:
            pytest.skip("the list has no whole entities (entities=True)")
        for id in found.keys() & ids:
            if found[id].value != self.found(fetcher, id).value:
                fail(
                    f"the list and a GET of {id!r} answer different entities",
                    "With entities=True a backfill stores what the list has. Answer the same in "
                    "both, or leave entities=True out.",
                )

    def test_the_list_goes_on_where_it_was(
        self,
        listing: Listing[Any],
        save: Callable[[str], object],
        delete: Callable[[str], object],
    ) -> None:
        ids = {self.saved(save) for _ in range(LISTED)}
        read: set[str] = set()
        cursor = None
        for page in _pages(listing):
            read.update(page.ids)
            cursor = page.cursor
            if read & ids:
                break
        if cursor is None or ids <= read:
            pytest.skip("what was saved is on one page: give the list smaller ones, like ?limit=2")
        rest = {id for page in _pages(listing, cursor) for id in page.ids}
        for id in read & ids:
            delete(id)

        again = {id for page in _pages(listing, cursor) for id in page.ids}

        lacking = sorted(rest - again - read)
        if lacking:
            fail(
                f"the list never names {lacking[0]!r} once entities of earlier pages were deleted",
                "A backfill would never store it. Its pages are counted by a number (an offset): "
                "let a page begin after the last id of the one before (WHERE id > :after ORDER BY "
                "id).",
            )

    def test_an_error_of_the_service_is_not_the_end_of_the_list(
        self,
        listing: Listing[Any],
        save: Callable[[str], object],
        failing: Callable[[], AbstractContextManager[object]],
    ) -> None:
        id = self.saved(save)
        with failing():
            try:
                read = listing.page(None)
            except (FetchError, ListingError):
                return
        if read.cursor is None and id not in read.ids:
            fail(
                f"the list had one page, without {id!r}, while the service could not read it",
                "A backfill would call itself complete. Answer 500 or 503.",
            )


def _require_bulk(fetcher: HTTPFetcher) -> None:
    if fetcher.bulk_size == 1:
        pytest.skip("no bulk GET is tested: the fixture 'bulk_url' is missing")


def _fetched_many(fetcher: HTTPFetcher, ids: list[str]) -> dict[str, Found[Any]]:
    try:
        return fetcher.fetch_many(ids)
    except FetchError as error:
        fail(str(error), ALIKE)


def _answered_many(fetcher: HTTPFetcher, id: str) -> dict[str, Any]:
    """Return what a bulk GET of one id answers, also what was not asked for."""
    bulk = fetcher._bulk  # noqa: SLF001  # no user needs it
    assert bulk is not None
    ((target, _),) = bulk.targets([id])
    try:
        answer = fetcher._getter.get(bulk, target, None)  # noqa: SLF001
        return fetcher._reader.entities(answer.headers, answer.body, "a bulk GET")  # noqa: SLF001
    except FetchError as error:
        fail(str(error), ALIKE)


def _pages(listing: Listing[Any], cursor: str | None = None) -> Iterator[Page[Any]]:
    """Read the list from a cursor to its end."""
    seen = {cursor}
    while True:
        try:
            page = listing.page(cursor)
        except (FetchError, ListingError) as error:
            fail(str(error), WHOLE)
        yield page
        cursor = page.cursor
        if cursor is None:
            return
        if cursor in seen:
            fail(f"the list names the page at {cursor!r:.200} twice", "It would never end.")
        seen.add(cursor)
