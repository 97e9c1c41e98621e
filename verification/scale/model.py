"""The model: what a set-up needs at a rate of events, on paper."""

from __future__ import annotations

from dataclasses import dataclass

from change_events._consumer.acknowledgements import LINGER
from change_events._consumer.inbox import SLACK
from change_events._consumer.queue import BATCH_SIZE
from change_events._consumer.settings import IN_FLIGHT
from verification.benchmarks.cost import Assumptions

PRICES = Assumptions()


@dataclass(frozen=True)
class Setup:
    """
    A set-up, and the events that it follows. Times are in seconds.

    Attributes:
        name: How tables call it.
        rate: Saves a second, of different ids.
        queues: Among how many queues filter policies divide the events.
        workers: Workers of each queue.
        threads: Threads of each worker.
        settle: The settle window.
        confirm: Saves are confirmed, so each sends two messages.
        call: A call to SQS, or a receive that finds messages.
        get: A GET.
        lag: From a publish to its message in the queue.
        save: From a publish to its commit.
    """

    name: str
    rate: float
    queues: int = 1
    workers: int = 10
    threads: int = 10
    settle: float = 5.0
    confirm: bool = False
    call: float = PRICES.call
    get: float = PRICES.get
    lag: float = 0.03
    save: float = 0.01

    @property
    def of_a_queue(self) -> float:
        """Messages a second of one queue."""
        return self.rate * (1 + self.confirm) / self.queues


@dataclass(frozen=True)
class Needs:
    """
    What a set-up needs, on paper or measured.

    Attributes:
        in_flight: Messages in flight, each queue, on average.
        stale: From a commit to the cache, the median, in seconds.
        gets: GETs a second at the source.
        dollars: Dollars a million saves: publishes, and requests to SQS.
    """

    in_flight: float
    stale: float
    gets: float
    dollars: float

    @property
    def fits(self) -> bool:
        """True if SQS lets so many messages be in flight."""
        return self.in_flight <= IN_FLIGHT


def needs(setup: Setup) -> Needs:
    """
    Return what a set-up needs, if all goes well.

    In flight (Little's law): the rate times how long a message is held. A plain event is held for
    the settle window and the slack in which looks become one, and then until its look and its
    acknowledgement are over. A confirmed save has two messages. The second one is looked at at
    once. The first waits for it, if the same worker has received both; if not, it is held as any
    other.
    """
    receive, look = setup.call / 2, setup.get
    a_worker = setup.of_a_queue / setup.workers
    linger = LINGER / 2 if a_worker * LINGER < BATCH_SIZE else BATCH_SIZE / a_worker / 2
    after = receive + look + linger + setup.call
    window = (1 + SLACK) * setup.settle
    apart = (setup.workers - 1) / setup.workers
    held = (
        after + ((1 - apart) * setup.save + apart * window) / 2 if setup.confirm else window + after
    )
    stale = setup.lag + receive + look - (0 if setup.confirm else setup.save)
    received = min(BATCH_SIZE, max(1.0, a_worker * setup.call))
    deleted = min(BATCH_SIZE, max(1.0, a_worker * LINGER))
    messages = 1 + setup.confirm
    requests = messages * (1 / received + 1 / deleted)
    return Needs(
        in_flight=setup.of_a_queue * held,
        stale=stale,
        gets=setup.rate * (1 + apart if setup.confirm else PRICES.looks),
        dollars=messages * PRICES.sns + requests * PRICES.sqs,
    )
