"""The public face of the side that follows: settings, run, stop, drain."""

from __future__ import annotations

import contextlib
import queue
import threading
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from change_events._consumer.by_hand import counted_look
from change_events._consumer.deletions import Deletions
from change_events._consumer.queue import Queue
from change_events._consumer.run import Run
from change_events._consumer.running import Running, Runs
from change_events._consumer.settings import Settings, make_guard, make_verifier
from change_events._consumer.stats import Stats, Tally
from change_events._meter import Meter
from change_events._operations.beside import Beside
from change_events.exceptions import MassDeletionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from typing_extensions import Self

    from change_events._consumer.control import Control
    from change_events._consumer.health import Health
    from change_events._event import Outcome

T = TypeVar("T")


class Worker(Settings[T], Generic[T]):
    """
    Keeps a cache in step with its source: receives events, GETs the entities, stores what it finds.

    An event is acknowledged only after a look whose GET started `settle` seconds or more after the
    event was received. The time that it was in the queue before counts, too, as SQS's own clock
    tells it: at least the queue's `DelaySeconds`. By then the save behind the event is over. The
    worker also looks at once, and holds the event until then. So a backlog of old events is settled
    by one look for each id. If an early look finds nothing new, it writes nothing, and the next one
    follows soon.

    A look can decide nothing, because the source answers 500, for example. Then the cache stays as
    it is. To learn whose fault it is, the worker looks at another id, which was fine before, and
    holds the events until it knows. If the id itself is at fault, its events go back to the queue,
    invisible for a pause that grows with each delivery. After no answer, or a 401, 403, 429, 502,
    503 or 504, they are held instead, and looked at again for up to an hour. A message that is not
    a change event is logged once and left to the queue's redrive policy.

    If looks at up to three ids that were fine before fail, too, the source or the cache is down.
    (Without such an id, failures are counted: five in a row at three ids or more; or two at one id
    that can't be its own fault.) The worker then stops receiving, keeps what it holds, and tries
    one id at a time, after pauses that grow to half a minute, or to what the source asks for if
    that is longer. Once a look succeeds, it goes on. An outage of up to eleven hours moves no
    message to the dead-letter queue; in a longer one, each needs a receive for every eleven hours,
    because SQS lets nobody hold a message for more than twelve.

    When too many looks at cached entities see them gone, the worker probably asks the wrong source.
    So it does when the cache is empty and the source knows none of the first `min_deleted` ids. It
    refuses the next, logs it as `critical`, and neither receives nor looks until `resume()`. A sink
    that keeps state remembers that, for all workers of the cache.

    A fetcher that reads many ids at once (a `BulkFetcher`, like `HTTPFetcher(bulk_url=...)`) gets
    up to `bulk_size` ids that are due, few at first; no id waits for others. Each entity is stored,
    settled and reported by itself. What a bulk GET leaves undecided is looked at alone. After a
    bulk GET that failed, there is none for 30 seconds.

    While receives return full batches, several run at once, and an id rests for five seconds after
    a look. When there is no room for more, the ids with most events are looked at first. So a
    backlog of few ids costs few GETs, and fewer the larger `prefetch` is. While SQS does not
    answer, the worker tries again, after pauses of at most half a minute.

    A save that its publisher confirms (`broadcasting(confirm=True)`) is looked at once, when it is
    over. Its events are acknowledged then. A FIFO queue delivers the next event of an id only then.
    So a second change within the settle window is seen when that is over, not by an early look.

    Args:
        queue_url: The SQS queue that is subscribed to the topic: standard or FIFO, raw or not.
        fetcher: Reads the source; many entities at once, if it can.
        sink: The cache.
        client: A boto3 SQS client. Default: one for the region in `queue_url`.
        topic_arn: Accept only messages whose SNS envelope names this topic. Any other, also one
            without an envelope, counts as malformed: switch off raw message delivery.
        verify_signatures: Accept only messages whose envelope SNS has signed. Needs `topic_arn`,
            and `pip install 'change-events[verify]'`. The certificate is fetched once, from SNS's
            endpoint in the topic's Region. Until it can be fetched, messages go back to the queue
            for a while.
        settle: The settle window in seconds: the greatest age of a save's last broadcast at the
            moment of its commit. An event that names its publisher's window is held for the larger
            of the two. An event that names none comes from a publisher with the default of 5, so
            set less only if no publisher has the default. More costs only held messages, and allows
            for a source that lags, unless saves are confirmed. The worker asks the queue for its
            delay at the start and every minute: if you lower the delay, events of that minute are
            acknowledged too early.
        max_settle: The longest window that an event can ask for, `settle` to 3600. An event that
            asks for more counts as malformed. Anybody that can send to the queue can fill
            `prefetch` with events that are held for that long.
        early_look: Look at an entity as soon as an event arrives, too. False saves a GET, and the
            cache follows only after the settle window. On a queue with `DelaySeconds` of at least
            `settle` there is one look in any case.
        prefetch: How many events to hold: many batches, because a receive needs room for one. At
            most 150 for each second of `visibility_timeout`: the heartbeat extends ten a call.
            None: at first 1000, or that most if it is less; more in a backlog of few ids.
        threads: How many GETs run at once at most; a quarter more looks can. The worker finds out
            how many GETs the source can bear, and starts threads when it needs them. For every ten,
            one more acknowledges and, while receives return full batches, one more receives.
        batch_size: How many messages to ask for in one receive, 1 to 10.
        wait_time: Seconds of a long poll, 1 to 20. Stopping waits for the poll under way.
        visibility_timeout: Seconds, 3 to 43,200, after which messages of a worker that died come
            back. A living worker's heartbeat, every third of it, keeps its messages invisible.
        shutdown_timeout: Seconds after which a stop gives up. Longer than `wait_time` is better:
            what an abandoned poll brings stays invisible until its visibility timeout is over.
        on_outcome: Called with an id and what a look at it did, in the look's thread; not for an
            early look that found nothing new, nor for one that failed. What it raises is logged.
        max_gets_per_second: How many GETs to send to the source, evenly spread. A GET of many ids
            counts as one. None: no limit.
        max_deleted_share: A deletion is refused if more than this share of the last hundred looks
            at cached entities saw them gone; of a small cache, also if more than this share of it.
        min_deleted: Below this many looks that saw one gone, no deletion is refused, unless the
            cache is small: then below five. An empty cache believes nothing more after this many
            ids (three or more) that the source does not know.
        allow_mass_deletion: Refuse no deletion, for as long as this worker lives.
        metrics: Where to measure to: one of the two in `change_events.metrics`, or your own.
        traces: Makes a span of each look: an `OpenTelemetryTraces` of `change_events.traces`.
        health_address: Host and port where `run()` answers a container's probes: `/healthz` with
            200 while the worker is alive, `/readyz` with 200 while it is ready, otherwise with 503.
            The body is `health()` as JSON. Use `0.0.0.0` where the platform asks from outside the
            container (Kubernetes), `127.0.0.1` where it asks inside (ECS). None: nowhere.
        backfill: A listing, as for `Backfill`. `run()` fills the cache from it, once, and again if
            a `ForgetfulSink` can have lost something. Events go first. The sink must keep state.
        audit_per_minute: How many ids one of the cache's workers compares with the source in each
            minute, for ever. The sink must keep state. None: none does.
        audit_min_age: Seconds for which an entry must be wrong to count. None: `settle` and 60 s.

    Raises:
        ConfigurationError: A value is out of its range, or not what the worker needs; or
            signatures can't be verified with what is given or installed.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._queue = Queue(self.queue_url, self.client, traced=self.traces is not None)
        self._verify = make_verifier(self)
        self._guard = make_guard(self)
        self._deletions = Deletions(self._guard, self.sink, self.fetcher, lock=threading.Lock())
        self._tally = Tally(Meter(self.metrics, queue=self.queue_url.rpartition("/")[2]))
        self._runs: Runs[T] = Runs()
        self._beside = Beside(self, self._tally)

    def run(self) -> None:
        """
        Work until `stop()` is called or, in the main thread, until SIGTERM or SIGINT comes.

        Stopping waits for the polls under way, and looks on meanwhile. It then ends the looks under
        way, acknowledges what they settle, and gives the rest back to the queue, each message
        invisible for the rest of its window. After `shutdown_timeout`, or at a second signal, it
        gives up: it gives back at once what is held, which takes at most 3 seconds. Nothing is lost
        then, because nothing was acknowledged too early.

        In the main thread SIGUSR1 is `resume()`, unless your program handles that signal itself.

        Raises:
            ConfigurationError: The queue can't be read, or `health_address` can't be listened on.
            RuntimeError: The worker is already running; or it was stopped, perhaps before `run()`
                began (`health().paused` is `stopped` then); or the operating system has not enough
                threads for all of it, and none was left running.
        """
        self._work(queue.SimpleQueue())

    def running(
        self, *, on_death: Callable[[BaseException], object] | None = None
    ) -> Running[Self]:
        """
        Run in a thread for as long as a block lasts: `with worker.running():`, or in an event loop
        `async with`, which does not hold up the loop. The block begins once the worker has started.
        At its end the worker stops as `run()` does, which can take as long as `wait_time`. It can
        be run again then, unless `stop()` was called. It handles no signals.

        Args:
            on_death: Called in the worker's thread with what it died of, if it dies in the block.
                `health()` says so, too: `paused` is `died`.

        Raises:
            ConfigurationError, RuntimeError: As for `run()`, where the block begins; also for a
                `with` in an event loop.
            BaseException: What the worker died of, where the block ends, unless the block raises
                something itself.
        """
        return Running(self, self._work, on_death)

    def stop(self) -> None:
        """
        Ask the worker to stop, from any thread or signal handler, without waiting. It does not run
        again: make a new one. If `run()` has not begun yet, it will raise.
        """
        self._runs.stop()

    def drain(self) -> int:
        """
        Work until the queue is empty and nothing is held: for tests, scripts and cron.

        It does not wait for messages that are invisible, because another worker holds them or a
        failed look sent them back for a while. Nor does it wait for an outage, as `run()` does:
        after several failed receives in a row it raises boto3's error, and after several failed
        looks the fetcher's or the sink's. What it holds then goes back to the queue.

        Returns:
            How many messages were acknowledged.

        Raises:
            ConfigurationError: The queue can't be read.
            RuntimeError: As for `run()`.
            MassDeletionError: A deletion was refused, now or earlier, without a `resume()` since.
            FetchError: The source is down. Or what the fetcher or the sink raised.
            botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError: The queue can no
                longer be read.
        """
        if self._guard.tripped:
            raise MassDeletionError(
                f"{self._guard}, and deletions are refused until Worker.resume()"
            )
        before = self._tally.read()["acknowledged"]
        self._work(queue.SimpleQueue(), until_empty=True)
        return self._tally.read()["acknowledged"] - before

    def resume(self) -> None:
        """
        Go on after a mass deletion was refused: the entities are meant to be gone. From any thread.

        Deletions are believed until there are no longer too many in the last hundred looks; then
        they are watched again. Without a refused deletion it has no effect. The other workers of
        the cache learn of it within a minute, if the sink keeps state; otherwise each of them needs
        to be told.
        """
        with self._runs.lock:
            if (run := self._runs.now) is not None:
                run.resume()
            elif self._guard.tripped:
                self._guard.resume()
                self._deletions.keep()

    def refresh(self, id: str | int | UUID) -> Outcome:
        """
        Look at an entity now, from any thread; return what that did: see `change_events.refresh`.

        It uses this worker's guard, counts and `on_outcome`, and waits for no other look.
        """
        if (run := self._runs.now) is not None:
            return run.looks.look_by_hand(id)
        return counted_look(id, self, self._deletions, self._tally)

    def stats(self) -> Stats:
        """Return what the worker has done so far."""
        return Stats(**self._tally.read())

    def health(self) -> Health:
        """Return the worker's health now, from any thread."""
        return self._beside.health(self._runs.health())

    @property
    def synced(self) -> bool:
        """False until the `backfill` is complete, as the sink says; without one, True."""
        return self._beside.synced

    def _work(
        self, control: Control, *begun: Callable[..., None], until_empty: bool = False
    ) -> None:
        asides = [] if until_empty else [*self._beside.work(), *begun]
        make = partial(
            Run,
            self,
            queue=self._queue,
            guard=self._guard,
            tally=self._tally,
            verify=self._verify,
            until_empty=until_empty,
            asides=asides,
        )
        address = None if until_empty else self.health_address
        with self._runs.begun(make, control) as run, _serving(address, self.health):
            run.work()


@contextlib.contextmanager
def _serving(address: tuple[str, int] | None, health: Callable[[], Health]) -> Iterator[None]:
    if address is None:
        yield
        return
    from change_events._consumer.probe import serving  # not above: most workers need no server

    with serving(address, health):
        yield
