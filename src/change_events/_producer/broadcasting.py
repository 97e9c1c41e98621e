"""The producer's side: broadcast, then save."""

from __future__ import annotations

import functools
import inspect
import weakref
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from change_events._event import DEFAULT_SETTLE, ChangeEvent
from change_events._ids import checked_id, id_resolver
from change_events._producer.broadcasts import Broadcast
from change_events._producer.checks import (
    publisher_finder,
    require_plain_function,
    require_publisher,
    require_sent,
    require_settings,
)
from change_events._producer.clocks import elapsed
from change_events._producer.commits import CommitCheck
from change_events._producer.enclosing import broadcast_just_now, enter
from change_events._producer.interruptions import can_go_on
from change_events._producer.renewals import Save, process_renewals
from change_events._producer.threads import in_thread
from change_events.exceptions import IdResolutionError, PublishError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextlib import AbstractContextManager

    from change_events._event import Phase
    from change_events._producer.clocks import Moment
    from change_events._producer.renewals import OnUnsettled, Renewals
    from change_events._producer.threads import Job
    from change_events.typing import Publisher

P = ParamSpec("P")
R = TypeVar("R")


class _AnnouncedSave:
    """Does what `broadcasting` describes. Its callers check publisher, ids and `settle`."""

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
        self._settle = float(settle)
        self._confirm = confirm
        self._on_unsettled = on_unsettled
        self._renewals = renewals or process_renewals
        self._save_id = self._renewals.new_save_id() if confirm else None
        self._entered = False
        self._spans_awaitable = False
        self._save: Save | None = None

    def __enter__(self) -> None:
        self._enter_once()
        if self._ids:
            events = self._events("saving" if self._confirm else None)
            started = self._broadcast_new(events)
            if self._renewals.age(started) > self._settle / 2:  # SNS can have accepted it long ago
                started = self._broadcast(events)
            self._begin(events, started)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None = None,
        *_: object,
    ) -> None:
        if self._spans_awaitable and kind is None:
            return
        if late := self._end(returned=kind is None, goes_on=can_go_on(error)):
            late()

    async def __aenter__(self) -> None:
        self._enter_once()
        if self._ids:
            await self._enter_later()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None = None,
        *_: object,
    ) -> None:
        late = self._end(returned=kind is None, goes_on=can_go_on(error))
        if late is None:
            return
        if kind is GeneratorExit:  # a coroutine that is closed cannot wait
            self._run_late(late)
        else:
            await in_thread(self._renewals.senders.late, late, shielded=True)

    def spanning(self, result: Any) -> Any:
        """Keep the save open until an awaitable result is done; return what the caller gets."""
        if hasattr(type(result), "add_done_callback"):  # a future runs by itself
            self._spans_awaitable = True
            result.add_done_callback(self._future_done)
        elif inspect.isawaitable(result):
            self._spans_awaitable = True
            return self._awaited(result)
        return result

    async def _awaited(self, awaitable: Awaitable[Any]) -> Any:
        save = self._save
        if save is not None and self._renewals.age(save.started) >= self._settle:
            self._save = None
            self._renewals.forget(save)  # it has not begun
            try:
                await self._enter_later()
            except BaseException:
                getattr(awaitable, "close", int)()  # or Python warns that nobody has awaited it
                raise
        try:
            result = await awaitable
        except BaseException as error:
            await self.__aexit__(type(error), error)
            raise
        await self.__aexit__(None)
        return result

    def _future_done(self, future: Any) -> None:
        # Not `exception()`: it would tell asyncio that somebody has seen the error.
        cancelled, error = future.cancelled(), getattr(future, "_exception", None)
        returned = not cancelled and error is None
        if late := self._end(returned=returned, goes_on=cancelled or can_go_on(error)):
            self._run_late(late)

    def _run_late(self, late: Job) -> None:
        try:
            self._renewals.senders.late.submit(late)
        except RuntimeError:  # no thread can start
            late()

    def _enter_once(self) -> None:
        if self._entered:
            raise RuntimeError(
                "this broadcasting() has been entered before; make a new one for each save"
            )
        self._entered = True

    async def _enter_later(self) -> None:
        events = self._events("saving" if self._confirm else None)
        callers = self._renewals.senders.callers
        started = await in_thread(callers, partial(self._broadcast_new, events))
        if self._renewals.age(started) > self._settle / 2:  # SNS, or the loop, needed so long
            started = await in_thread(callers, partial(self._broadcast, events))
        self._begin(events, started)

    def _events(self, phase: Phase | None) -> list[ChangeEvent]:
        settle = None if self._settle == DEFAULT_SETTLE else self._settle
        save = self._save_id if phase else None
        return [ChangeEvent(id, settle, phase, save) for id in self._ids]

    def _broadcast_new(self, events: list[ChangeEvent]) -> Moment:
        """Broadcast, apart from what a save around this one has broadcast; return the earliest."""
        known = broadcast_just_now(self._publisher, self._settle, self._renewals)
        if not known:
            return self._broadcast(events)
        new = [event for event in events if event not in known]
        starts = [known[event] for event in events if event in known]
        if new:
            starts.append(self._broadcast(new))
        return max(starts, key=self._renewals.age)

    def _broadcast(self, events: list[ChangeEvent]) -> Moment:
        """Broadcast; return when that started."""
        started = self._renewals.now()
        answer = self._publisher.publish(events)  # type: ignore[func-returns-value]  # a wrong one's does
        require_sent(answer, self._publisher)
        return started

    def _begin(self, events: list[ChangeEvent], started: Moment) -> None:
        """Let the save begin, unless its broadcast is too old. Await nothing after this."""
        now = self._renewals.now()
        age = elapsed(started, now)
        if age >= self._settle:
            raise PublishError(
                f"the broadcast took {age:.1f} s, longer than settle={self._settle}; nothing saved",
                ids=self._ids,
            )
        owner: weakref.ref[object] = weakref.ref(self)
        self._save = Save(
            broadcast=Broadcast(self._publisher, events, copy_context()),
            settle=self._settle,
            on_unsettled=self._on_unsettled,
            owner=owner,
            began=now[0],
            started=started,
            renew_at=started[0] + self._settle / 2,
        )
        self._renewals.begin(self._save)
        enter(owner)

    def _end(self, *, returned: bool, goes_on: bool) -> Job | None:
        """End the save. If it was late, return the slow rest: the broadcast that it still needs."""
        save, self._save = self._save, None
        if save is None:
            return None
        confirmation: Phase | None = "saved" if self._confirm and returned else None
        if self._renewals.end(save, goes_on=goes_on):
            return partial(self._renewals.announce_late, save, self._after(confirmation))
        if confirmation:
            self._renewals.senders.confirm(self._after(confirmation))
        return None

    def _after(self, phase: Phase | None) -> Broadcast:
        return Broadcast(self._publisher, self._events(phase), copy_context())


class broadcasting(_AnnouncedSave):  # a context manager, named like one  # noqa: N801
    """
    Broadcast ids, then run the block. Use it with `with` or, in asynchronous code, `async with`.
    The commit must be inside the block.

    No broadcast, no save: if the publisher raises, the block does not run. In `async with` the
    publisher runs in a thread, within the caller's context variables, and the event loop goes on.

    While the block runs, its ids are broadcast again in the background whenever half of `settle`
    has passed. So whenever the block commits, its last broadcast started less than `settle` seconds
    before. If no accepted broadcast is that young when the block ends, the ids are broadcast once
    more, and the caller waits for that. Only this last broadcast is left where a process can be
    frozen in mid-save, or has no threads (uWSGI without `enable-threads`).

    A block that is cancelled, interrupted or timed out can still commit: a thread behind
    `asyncio.to_thread(commit)` goes on. So its ids are broadcast again for another 10 s, or for two
    settle windows if that is longer, and once more after that. If a commit can come later still,
    shield the whole save, with the block inside: `await asyncio.shield(save(product))`. Don't
    shield the commit alone: the block would end before it.

    A block inside a block of the same publisher and settings does not broadcast again what the
    outer one has broadcast less than half of `settle` ago, if topic and attributes are fixed.

    Leave each block that you enter. One that is garbage, or has been open for more than an hour, is
    no longer broadcast, and a warning is logged.

    Args:
        publisher: What broadcasts. If its attribute `shares_calls` is true, slow saves share its
            calls, and it must read context variables from each event's `context`, if there is one.
        ids: The ids of the entities that the block is about to save: text, integers or UUIDs.
            Without any, nothing is broadcast.
        settle: The settle window in seconds, up to 3600: whenever the block commits, its last
            broadcast started less than this long ago. Unless it is the default, it travels with the
            event. Consumers wait for the longer of it and their own window.
        confirm: Broadcast a second time, in the background, when the block has returned. Consumers
            look only then, and do not wait for the settle window. That saves them a GET and
            seconds, and costs a publish. A block that raises is not confirmed, because its
            exception does not prove that nothing was committed. Confirmations that are not sent
            when the process exits are dropped.

            Use it only where a GET reads the latest commit, because consumers do not wait for a
            replica that lags; and only if the commit is inside the block. It is useless on a FIFO
            topic, where SQS holds the second event back until the first is acknowledged; and in
            AWS Lambda, which freezes the process when its handler has returned: the second event
            then comes with the next invocation, or never, and consumers wait for the window.
        on_unsettled: A plain function, called with the ids and the error if a block took too long
            or was cancelled, and the broadcast after it failed, too. Caches can then be stale until
            the next change. The thread that broadcast calls it. The failure is also logged and
            counted. What `on_unsettled` raises is logged.
        renewals: What broadcasts slow saves again. Default: the one that this process has.

    Raises:
        ConfigurationError: `publisher` is not one, or its `publish` is a coroutine function;
            `settle` is out of its range; or `on_unsettled` is not a plain function.
        IdResolutionError: An id is None, empty, `.` or `..`, over 512 characters, or has control
            characters or lone surrogates.
        PublishError: On entering: the broadcast was not accepted; or two broadcasts were, but so
            slowly that the settle window was over. The time in which the process, its event loop or
            its machine stood still counts.
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
        require_publisher(publisher)
        require_settings(settle, on_unsettled)
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
    The commit must be inside: decorate the function that commits, not one that only flushes.

    No broadcast, no save: if the publisher raises, the function does not run. The function can be
    asynchronous; then the publisher runs in a thread, within the caller's context variables.

    A plain function can return an awaitable (if another decorator wraps a coroutine function, say).
    Then the broadcast blocks the event loop, because it must come before the call; put this
    decorator next to the coroutine function to avoid that. The save lasts until the awaitable is
    done. The caller gets the same future for a future, and a coroutine for anything else.

    If the first call that changes a SQLAlchemy session (an argument, or an attribute of one, such
    as `self.session`) returns before the session has committed that, a warning is logged, once for
    each function. Then call `change_events.integrations.sqlalchemy.announce` instead.

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
            publisher; `settle` out of its range; a wrong `on_unsettled`.
        IdResolutionError: At the call: no id there, or an unusable one. Nothing is sent or saved.
        PublishError: At the call: the broadcast was not accepted, or too slowly. Nothing is saved.
    """
    require_settings(settle, on_unsettled)
    around_save = partial(
        _AnnouncedSave, settle=settle, confirm=confirm, on_unsettled=on_unsettled, renewals=renewals
    )

    # A method below a bare `@broadcasts_before_save` calls this with `self` and its arguments.
    def decorate(function: Callable[P, R], *_: object, **__: object) -> Callable[P, R]:
        require_plain_function(function)
        signature = inspect.signature(function)
        find_publisher = publisher_finder(function, publisher)
        resolve = id_resolver(function, id=id, ids=ids)
        check = CommitCheck(function.__qualname__)

        def announced(
            args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[_AnnouncedSave, AbstractContextManager[None]]:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            block = around_save(find_publisher(bound.arguments), resolve(bound.arguments))
            return block, check.around(bound.arguments)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def save_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                block, checked = announced(args, kwargs)
                async with block:
                    with checked:
                        return await function(*args, **kwargs)

            return save_async  # type: ignore[return-value]  # R is the coroutine, which no checker can see from here

        @functools.wraps(function)
        def save(*args: P.args, **kwargs: P.kwargs) -> R:
            block, checked = announced(args, kwargs)
            with block, checked:
                return block.spanning(function(*args, **kwargs))  # type: ignore[no-any-return]  # an R, or an awaitable of the same

        return save

    return decorate
