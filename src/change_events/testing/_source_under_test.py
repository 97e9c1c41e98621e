"""A service that is tested, and what the tests of the contract do with it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

from change_events._event import Found, Gone, Unchanged
from change_events._operations.source_checks import stranger
from change_events._source.fetcher import HTTPFetcher
from change_events.exceptions import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from change_events._source.http import Answer
    from change_events.typing import Listing

Answered = TypeVar("Answered")

CONNECTIONS = 8
"""How many GETs are sent at the same time, each on a connection of its own."""

SHOW = "The entity exists: answer 200 with a JSON object that has its id."

HIDE = (
    "No such entity exists: answer 410, or 404 as JSON. What can't be changed, is_gone= can tell "
    "apart: HTTPFetcher(url, is_gone=lambda headers, body: ...)."
)


def fail(seen: str, advice: str) -> NoReturn:
    """Fail the test: say what was seen, and what to change."""
    pytest.fail(f"{seen}\n{advice}", pytrace=False)


class SourceUnderTest:
    """The service, and what the tests do with it. `SourceContract` says what to override."""

    id_samples: Sequence[str] = ()

    @pytest.fixture
    def url(self) -> str:
        """An entity's URL, with `{id}`. Override it, or `fetcher`."""
        fail(
            f"{type(self).__name__} needs a fixture named 'url' that returns an entity's URL",
            "Write it like http://127.0.0.1:8000/products/{id}. Or return an HTTPFetcher from a "
            "fixture named 'fetcher'.",
        )

    @pytest.fixture
    def bulk_url(self) -> str | None:
        """Where to GET many entities. Override it if the service can do so."""
        return None

    @pytest.fixture
    def fetcher(self, url: str, bulk_url: str | None) -> HTTPFetcher:
        """What reads the service. Override it if it needs other settings (`auth`, `id_of`)."""
        return HTTPFetcher(url, bulk_url=bulk_url)

    @pytest.fixture
    def save(self) -> Callable[[str], object]:
        """
        Return a function that commits an entity with this id, or another state of the one that has
        it: a state that it never had before. Override it.
        """
        fail(
            f"{type(self).__name__} needs a fixture named 'save'",
            "It returns a function of an id that saves an entity in the service.",
        )

    @pytest.fixture
    def delete(self) -> Callable[[str], object]:
        """Return a function that deletes the entity that has an id. Override it."""
        fail(
            f"{type(self).__name__} needs a fixture named 'delete'",
            "It returns a function of an id that deletes an entity in the service.",
        )

    @pytest.fixture
    def listing(self) -> Listing[Any]:
        """The service's list of all entities, an `HTTPListing`. Override it if there is one."""
        pytest.skip("no list is tested: the fixture 'listing' is missing")

    @pytest.fixture
    def failing(self) -> Callable[[], AbstractContextManager[object]]:
        """
        Return a function that makes a context manager, in which the service can't read what it has
        stored. Override it if your tests can bring that about.
        """
        pytest.skip("no error of the service is tested: the fixture 'failing' is missing")

    def new_id(self) -> str:
        """Return an id that the service never had: like the first sample, otherwise a UUID."""
        return stranger(self.id_samples[0] if self.id_samples else None)

    def saved(self, save: Callable[[str], object]) -> str:
        """Save a new entity; return its id."""
        id = self.new_id()
        save(id)
        return id

    def found(self, fetcher: HTTPFetcher, id: str, advice: str = SHOW) -> Found[dict[str, Any]]:
        """GET an entity that exists."""
        answer = fetched(fetcher, id, advice)
        if not isinstance(answer, Found):
            fail(f"{fetcher!r} understood the answer for {id!r}: gone", advice)
        return answer

    def require_gone(self, fetcher: HTTPFetcher, id: str, advice: str = HIDE) -> None:
        """GET an entity that does not exist."""
        if isinstance(fetched(fetcher, id, advice), Found):
            fail(f"{fetcher!r} got a 200 for {id!r}, which does not exist", advice)


def fetched(
    fetcher: HTTPFetcher, id: str, advice: str, etag: str | None = None
) -> Found[dict[str, Any]] | Unchanged | Gone:
    """GET; an answer that decides nothing fails the test."""
    try:
        return fetcher.fetch(id, etag=etag)
    except FetchError as error:
        fail(str(error), advice)


def answered(fetcher: HTTPFetcher, id: str, advice: str) -> Answer:
    """Return the answer to a GET; none, or an incomplete one, fails the test."""
    try:
        return fetcher.answer(id)
    except FetchError as error:
        fail(str(error), advice)


def everywhere(read: Callable[[], Answered]) -> list[Answered]:
    """Call it in several threads at the same time, so that they use several connections."""
    together = threading.Barrier(CONNECTIONS, timeout=30)

    def read_together(_: int) -> Answered:
        together.wait()
        return read()

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        return list(threads.map(read_together, range(CONNECTIONS)))


def text_of(value: dict[str, Any]) -> str:
    """Return an entity as text, the same for equal ones."""
    return json.dumps(value, sort_keys=True)
