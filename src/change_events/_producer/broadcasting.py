"""The producer's side: broadcast, then save."""

from __future__ import annotations

import functools
import inspect
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from change_events._event import DEFAULT_SETTLE, MAX_SETTLE, ChangeEvent
from change_events._ids import Arguments, checked_id, id_resolver, reader
from change_events._producer.renewals import process_renewals
from change_events.exceptions import ConfigurationError, IdResolutionError, PublishError
from change_events.typing import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from change_events._event import Phase
    from change_events._producer.renewals import OnUnsettled, Renewals, Save

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _AnnouncedSave:
    """Does what `broadcasting` describes. Its callers check `ids` and `settle`, once each."""

    def __init__(
        self,
        publisher: Publisher,
        ids: Iterable[str],
        *,
        settle: float,
        confirm: bool,
        on_unsettled: OnUnsettled | None,
        renewals: Renewals | None,
    ) -> None:
        self._publisher = publisher
        self._ids = list(dict.fromkeys(ids))
        self._settle = settle
        self._confirm = confirm
        self._on_unsettled = on_unsettled
        self._renewals = renewals or process_renewals
        self._first_phase: Phase | None = "saving" if confirm else None
        self._save_id = self._renewals.new_save_id() if confirm else None
        self._entered = False
        self._save: Save | None = None

    def __enter__(self) -> None:
        self._enter_once()
        if self._ids:
            self._begin(self._broadcast())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if late := self._ends_late(returned=kind is None):
            late()

    async def __aenter__(self) -> None:
        self._enter_once()
        if self._ids:
            self._begin(await _in_thread(self._broadcast))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if late := self._ends_late(returned=kind is None):
            await _in_thread(late)

    def _enter_once(self) -> None:
        if self._entered:
            raise RuntimeError(
                "this broadcasting() has been entered before; make a new one for each save"
            )
        self._entered = True

    def _broadcast(self) -> float:
        """Broadcast; return when the broadcast started on which the save can rely."""
        started, took = self._broadcast_timed()
        if took > self._settle / 2:  # SNS can have accepted it long ago
            started, took = self._broadcast_timed()
        if took >= self._settle:
            raise PublishError(
                f"the broadcast took {took:.1f} s, longer than settle={self._settle}; "
                "nothing saved",
                ids=self._ids,
            )
        return started

    def _broadcast_timed(self) -> tuple[float, float]:
        started = self._renewals.now()
        self._publish(self._first_phase)
        return started, self._renewals.now() - started

    def _publish(self, phase: Phase | None) -> None:
        settle = None if self._settle == DEFAULT_SETTLE else self._settle
        save = self._save_id if phase else None
        self._publisher.publish([ChangeEvent(id, settle, phase, save) for id in self._ids])

    def _publish_elsewhere(self, phase: Phase | None) -> Callable[[], None]:
        """Return a broadcast for another thread. It runs within the caller's context variables."""
        context = copy_context()
        return lambda: context.run(self._publish, phase)

    def _begin(self, started: float) -> None:
        again = self._publish_elsewhere(self._first_phase)
        self._save = self._renewals.begin(
            self._ids, settle=self._settle, started=started, broadcast=again
        )

    def _ends_late(self, *, returned: bool) -> Callable[[], None] | None:
        """End the save. If it was late, return the slow rest: the broadcast that it still needs."""
        # Break the cycle of the two, which would keep the caller's context alive.
        save, self._save = self._save, None
        if save is None:
            return None
        confirmation: Phase | None = "saved" if self._confirm and returned else None
        if self._renewals.end(save):
            broadcast = partial(self._publish, confirmation)
            return partial(self._renewals.announce_late, save, broadcast, self._on_unsettled)
        if confirmation:
            self._renewals.confirm(self._publish_elsewhere(confirmation))
        return None


class broadcasting(_AnnouncedSave):  # a context manager, named like one  # noqa: N801
    """
    Broadcast ids, then run the block. Use it with `with` or, in asynchronous code, `async with`.

    No broadcast, no save: if the publisher raises, the block does not run. In `async with` the
    publisher runs in a thread, within the caller's context variables, and the event loop goes on.

    While the block runs, its ids are broadcast again in the background whenever half of `settle`
    has passed. So whenever the block commits, its last broadcast started less than `settle` seconds
    before. If no accepted broadcast is that young when the block ends, the ids are broadcast once
    more, and the caller waits for that. Only this last broadcast is left where a process can be
    frozen in mid-save, or has no threads (uWSGI without `enable-threads`).

    Args:
        publisher: What broadcasts.
        ids: The ids of the entities that the block is about to save: text, integers or UUIDs.
            Without any, nothing is broadcast.
        settle: The settle window in seconds, up to 3600: whenever the block commits, its last
            broadcast started less than this long ago. Unless it is the default, it travels with the
            event. Consumers wait for the longer of it and their own window.
        confirm: Broadcast a second time, in the background, when the block has returned. Consumers
            look only then, and do not wait for the settle window. That saves them a GET and
            seconds, and costs a publish. A block that raises is not confirmed, because its
            exception does not prove that nothing was committed.

            Use it only where a GET reads the latest commit, because consumers do not wait for a
            replica that lags; and only if the commit is inside the block. It is useless on a FIFO
            topic, where SQS holds the second event back until the first is acknowledged; and in
            AWS Lambda, which freezes the process when its handler has returned: the second event
            then comes with the next invocation, or never, and consumers wait for the window.
        on_unsettled: A plain function, called with the ids and the error if a block took too long
            and the broadcast after it failed, too. Caches can then be stale until the next change.
            The thread that broadcast calls it. The failure is also logged and counted. What
            `on_unsettled` raises is logged.
        renewals: What broadcasts slow saves again. Default: the one that this process has.

    Raises:
        ConfigurationError: `settle` is out of its range.
        IdResolutionError: An id is None, empty, `.` or `..`, over 512 characters, or has control
            characters or lone surrogates.
        PublishError: On entering: the broadcast was not accepted; or two broadcasts were, but so
            slowly that the settle window was over.
        RuntimeError: On entering: it has been entered before.
    """

    def __init__(
        self,
        publisher: Publisher,
        /,
        *ids: object,
        settle: float = DEFAULT_SETTLE,
        confirm: bool = False,
        on_unsettled: OnUnsettled | None = None,
        renewals: Renewals | None = None,
    ) -> None:
        _require_settle(settle)
        try:
            checked = list(map(checked_id, ids))
        except ValueError as error:
            raise IdResolutionError(str(error)) from None
        super().__init__(
            publisher,
            checked,
            settle=settle,
            confirm=confirm,
            on_unsettled=on_unsettled,
            renewals=renewals,
        )


def broadcasts_before_save(
    publisher: Publisher | Callable[..., Publisher],
    *,
    id: str | Callable[..., object] | None = None,
    ids: str | Callable[..., Iterable[object]] | None = None,
    settle: float = DEFAULT_SETTLE,
    confirm: bool = False,
    on_unsettled: OnUnsettled | None = None,
    renewals: Renewals | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Decorate a function that saves, updates or deletes entities: broadcast their ids, then call it.

    No broadcast, no save: if the publisher raises, the function does not run. The function can be
    asynchronous; then the publisher runs in a thread, within the caller's context variables.

    Args:
        publisher: What broadcasts; or a callable that returns it and names the parameters it needs
            (`lambda self: self.publisher`).
        id: Where a call has its entity's id: a path (`"product.id"`: a parameter, then attributes
            or mapping keys), or a callable that names the parameters it needs (`lambda product:
            product.id`). Default: the parameter named `id`, else the first parameter's own `id`
            (`self` and `cls` don't count).
        ids: Where a call has the ids of several entities, likewise; for a function that saves all
            of them.
        settle: The settle window in seconds. This and the next three are as for `broadcasting`.
        confirm: Broadcast a second time when the function has returned, so the function must
            commit, not only flush.
        on_unsettled: Called if a save took too long and could not be broadcast after it.
        renewals: What broadcasts slow saves again.

    Raises:
        ConfigurationError: At decoration: a parameter that the function doesn't have; `id` with
            `ids`; a generator function (it runs when it is iterated, not when it is called); no
            publisher; `settle` out of its range.
        IdResolutionError: At the call: no id there, or an unusable one. Nothing is sent or saved.
        PublishError: At the call: the broadcast was not accepted, or too slowly. Nothing is saved.
    """
    _require_settle(settle)
    around_save = partial(
        _AnnouncedSave, settle=settle, confirm=confirm, on_unsettled=on_unsettled, renewals=renewals
    )

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _require_plain_function(function)
        signature = inspect.signature(function)
        find_publisher = _publisher_finder(function, publisher)
        resolve = id_resolver(function, id=id, ids=ids)

        def announced(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _AnnouncedSave:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return around_save(find_publisher(bound.arguments), resolve(bound.arguments))

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def save_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with announced(args, kwargs):
                    return await function(*args, **kwargs)

            return save_async  # type: ignore[return-value]  # R is the coroutine, which no checker can see from here

        @functools.wraps(function)
        def save(*args: P.args, **kwargs: P.kwargs) -> R:
            with announced(args, kwargs):
                return function(*args, **kwargs)

        return save

    return decorate


async def _in_thread(job: Callable[[], T]) -> T:
    """Run a job in a thread, within the caller's context variables; the event loop goes on."""
    import asyncio  # not above: a synchronous caller does not need it

    try:
        done = asyncio.get_running_loop().run_in_executor(None, copy_context().run, job)
    except RuntimeError:
        # The interpreter is shutting down and starts no threads. A blocked loop is better than a
        # lost save.
        return job()
    return await done


def _require_settle(settle: float) -> None:
    if not isinstance(settle, (int, float)) or not 0 < settle <= MAX_SETTLE:
        raise ConfigurationError(
            f"settle must be seconds, more than 0 and up to {MAX_SETTLE:.0f}, not {settle!r}"
        )


def _require_plain_function(function: object) -> None:
    if isinstance(function, (staticmethod, classmethod)):
        raise ConfigurationError(
            f"put @broadcasts_before_save below @{type(function).__name__}, not above it"
        )
    if not inspect.isroutine(function):
        raise ConfigurationError(
            f"@broadcasts_before_save(publisher) decorates a function, not {function!r}"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{function.__qualname__}() is a generator function: it runs when it is iterated, not "
            "when it is called. Decorate what iterates it, or use "
            "`with broadcasting(publisher, id):` inside"
        )


def _publisher_finder(
    function: Callable[..., Any], publisher: Publisher | Callable[..., Publisher]
) -> Callable[[Arguments], Publisher]:
    if isinstance(publisher, Publisher):
        return lambda _: publisher
    if callable(publisher):
        return reader(function, publisher, setting="publisher")
    raise ConfigurationError(
        f"{function.__qualname__}(): {publisher!r} has no publish(events) and is not a callable"
    )
