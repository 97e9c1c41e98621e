"""One look now, at one entity."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from change_events._consumer.by_hand import guarded_look, own_deletions, required_id
from change_events._consumer.settings import require_bool, require_fetcher, require_sink

if TYPE_CHECKING:
    from uuid import UUID

    from change_events._event import Outcome
    from change_events.typing import Fetcher, Sink

T = TypeVar("T")


def refresh(
    id: str | int | UUID,
    *,
    fetcher: Fetcher[T],
    sink: Sink[T],
    allow_mass_deletion: bool = False,
) -> Outcome:
    """
    Look at an entity now: GET it, and store what the source says.

    Use it to read your own write, right after a save; to fill the cache when it misses; and by
    hand, after a change that nobody broadcast. It is safe beside any number of workers: what it
    found is stored only if no other look has changed the entry since before the GET; otherwise it
    looks again.

    A save that commits after the GET is not seen. Its event tells the workers.

    Args:
        id: The entity's id.
        fetcher: Reads the source.
        sink: The cache.
        allow_mass_deletion: Believe in any case that the entity is gone. By default the guard
            decides, with what all processes have counted, if the sink keeps state; see `Worker`.

    Returns:
        What the look did to the cache.

    Raises:
        ConfigurationError: `id` can't be an id, or `fetcher` or `sink` is not one.
        FetchError: The GET decided nothing. Or what else the fetcher or the sink raised. The cache
            stays as it was.
        MassDeletionError: The entity is gone, and so are too many others. It stays in the cache.
    """
    checked = required_id(id)
    require_bool("allow_mass_deletion", allow_mass_deletion)
    require_fetcher(fetcher)
    require_sink(sink)
    deletions = own_deletions(sink, fetcher, allow=allow_mass_deletion)
    return guarded_look(checked, fetcher=fetcher, sink=sink, deletions=deletions)
