"""The pages of a listing: each is read while the one before is worked on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._operations.pages import checked_page
from change_events._operations.patience import TRIES, patiently
from change_events._operations.pool import Pool
from change_events._operations.throttle import LISTING
from change_events._text import printable
from change_events.exceptions import ListingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from change_events._event import Page
    from change_events._operations.throttle import Throttle
    from change_events.typing import Listing

T = TypeVar("T")


class Pages(Generic[T]):
    """
    Reads all pages of a listing.

    Args:
        listing: The listing. While it is down it is asked again.
        throttle: When a page can be read.
        awaited: Waits for a future; called in the thread that iterates.
        start: The cursor of the first page to read; None: the listing's first.
    """

    def __init__(
        self,
        listing: Listing[T],
        *,
        throttle: Throttle,
        awaited: Callable[[Future[Page[T]]], Page[T]],
        start: str | None = None,
    ) -> None:
        self._listing = listing
        self._throttle = throttle
        self._awaited = awaited
        self._start = start
        self._reader = Pool(1, "listing", using=throttle.threads)

    def __repr__(self) -> str:
        return repr(self._listing)

    def close(self) -> None:
        """End the thread, once the page under way is read. It does not wait for that."""
        self._reader.close()

    def __iter__(self) -> Iterator[Page[T]]:
        """
        Iterate over the pages.

        Raises:
            ListingError: The listing loops, or returns something else.
        """
        cursors = {self._start}
        reading = self._reader.submit(self._read, self._start)
        while True:
            page = self._awaited(reading)
            cursor = page.cursor
            if cursor is not None:
                if cursor in cursors:
                    raise ListingError(
                        f"{self._listing!r} loops: the page {printable(cursor, 200)!r} comes again"
                    )
                cursors.add(cursor)
                reading = self._reader.submit(self._read, cursor)
            yield page
            if cursor is None:
                return

    def _read(self, cursor: str | None) -> Page[T]:
        def page() -> Page[T]:
            return checked_page(self._listing.page(cursor), cursor, self._listing)

        before, throttle = self._throttle.before_get, self._throttle
        return patiently(page, throttle=throttle, what=LISTING, before=before, tries=TRIES)
