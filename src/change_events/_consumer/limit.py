"""
How many looks can run at once. Pure: no clock, no thread, no I/O.

A worker catches up as fast as its source can bear, and the source's other clients go first. So
the limit is that of a scavenger, as LEDBAT (RFC 6817) has it for packets: it grows while answers
come as fast as usual, and shrinks as soon as others could notice. Its signal is the share of GETs
that are late, like the share of marked packets in DCTCP (RFC 8257): a queue that is empty nearly
always shows in that share long before it shows in a mean.

- `usual` says which GETs are late, and which share of them is at low load.
- After a window of answers, the limit grows if hardly more were late than usual. It shrinks in
  proportion if more were late than chance explains: by half of that share, as in DCTCP. Additive
  increase and multiplicative decrease bring several workers to equal shares (LEDBAT++,
  draft-irtf-iccrg-ledbat-plus-plus).
- At first, up to half of the limit that was too much, and after many good windows, it grows faster
  (slow start, RFC 5681).
- The limit grows only if most of a window's answers came while a look waited for it, like TCP's
  (RFC 7661): what was not used says nothing about more.
- A GET that the source refuses to answer (429, 503), or does not answer, halves the limit at once.
- Below four, GETs are spread over time as well, so the limit can be an eighth of a GET. Only if
  GETs are late even then, it is not this worker that delays them: the source has become slower, or
  others need it. Then what is usual is learned again.
- Without a backlog more GETs can run than the limit allows. They delay each other, so they say
  nothing about it, and not what is usual; but if even they are not enough, and none is late, the
  source has shown that it bears so many.
- A while after the last shrink, if nothing waits and GETs are as fast as usual, the limit is what
  it was at the start: the source's trouble is over.
- A thread that naps and asks no source shows for how long this process itself delays an answer.
  That does not count.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from change_events._consumer.usual import CERTAIN, FEW, Usual, Window

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, LEAST = 0.5, 0.125
"""The limit at the start, and the least: twelve workers together then ask for one and a half."""

LIVE = 10
"""The least limit without a backlog: then the source's own saves say how much there is to do."""

PACED = 4.0
"""Below this limit, GETs are spread over time."""

TARGET = 0.01
"""The share of GETs that can be late, beyond the usual share."""

MANY, ALL = 0.5, 0.9
"""If this share is late, a window is over after one round of GETs; the limit falls to a quarter."""

WINDOW, MOMENT = 50, 1.0
"""Answers in a window; or the seconds after which a few are enough."""

CALM = 60.0
"""Seconds after which a limit that has shrunk is forgotten, if nothing waits."""

ROUND = 4.0
"""Answers in a window of a slow start, at least."""

STEP = 0.25
"""What is added to the limit after a good window."""

GOOD = 6
"""Good windows in a row after which the steps double, one after the other."""

DOUBLINGS = 10
"""How often they double, at most: the limit itself only doubles."""

LEARNED, KNOWN = 5, 32
"""
GETs that show what is usual before any is late; and before the limit is more than `PACED`. In a
backlog, more are learned only up to that limit, and until they are enough (`Usual.is_exact`): they
have the lateness that all workers cause.
"""

SLOWER, BUSIER = 5, 200
"""
Answers at `LEAST` that show that it is not this worker that delays them: if all are late; or if
some are, which other workers can cause that have not shrunk yet.
"""

NAPS, WAKES = 32, 2
"""Naps that tell how late threads wake (nine of ten), and how often one must wake during a GET."""

OVERDUE, ROUNDS = 1.0, 8.0
"""A look that has lasted so many seconds, and so many times a GET, does not count as running."""

LONGEST = 4.0
"""No GET counts as longer, for that and for the pauses: these are half a minute then, at most."""


class Answer(NamedTuple):
    """
    A GET that is over.

    Attributes:
        began: When it began, in monotonic seconds.
        seconds: How long it lasted. None: no answer came, or a refusal, so that says nothing.
        size: How many ids it asked for.
        overload: The source refused to answer, or did not answer in time.
        failed: No entity came. An error can come sooner, so `seconds` says how long GETs last now,
            and not whether they are late.
    """

    began: float
    seconds: float | None
    size: int = 1
    overload: bool = False
    failed: bool = False


class Limit:
    """
    How many looks can run at once. Times are passed in, in monotonic seconds.

    Args:
        most: It is never more than this.
        least: It is never less than this.

    Attributes:
        limit: The limit now.
        waits: True while a look is due, and waits for nothing but this limit.
    """

    def __init__(self, most: float, *, least: float = LEAST) -> None:
        self._most, self._least = most, least
        self.limit = max(least, min(FIRST, most))
        self.waits = False
        self._running = _Running()
        self._usual: dict[int, Usual] = {}
        self._window = Window()
        self._since = -math.inf  # GETs that began before say nothing about this limit
        self._shrunk_at = -math.inf
        self._own = _Lateness()
        self._fast_below = math.inf  # slow start, as TCP's `ssthresh`
        self._good = 0

    @classmethod
    def fixed(cls, limit: float = math.inf) -> Limit:
        """Return a limit that never changes."""
        return cls(limit, least=limit)

    # Looks

    def next_at(self, live_at: Callable[[], float] = lambda: math.inf) -> float:
        """Return when a look can begin, if none ends before. `live_at()`: From then no backlog."""
        at, live = self._next_at(self.limit), min(LIVE, self._most)
        if at == -math.inf or live <= self.limit:
            return at
        return min(at, max(live_at(), self._next_at(live)))

    def _next_at(self, limit: float) -> float:
        return self._running.next_at(limit, paced=limit < min(PACED, self._most))

    def begin(self, id: str, now: float) -> None:
        """Note that a look begins, which is known by that id."""
        self._running.begin(id, now)

    @property
    def busy(self) -> bool:
        """True if looks are under way."""
        return not self._running.idle

    def over(self, id: str) -> None:
        """Note that it is over."""
        self._running.over(id)

    # Answers

    def napped(self, late: float) -> None:
        """
        Note that a thread of this process has slept for so many seconds longer than it wanted.

        It asks no source, so the process itself delays the answers, too: by its work, because one
        of its threads runs at a time, or because the machine is busy.
        """
        self._own.add(late)

    def answered(self, answer: Answer, now: float) -> None:
        """Learn from a GET that is over."""
        if answer.overload and answer.began >= self._since:
            self._fast_below = min(self._fast_below, self.limit / 2)
            self._shrink_to(self.limit / 2, now)
        if answer.seconds is None or self._least >= self._most:
            return
        self._running.lasted(answer.seconds)
        if answer.failed:
            return
        live = self._running.next_at(self.limit, paced=False) > now
        if live:
            self._since = now  # with it, more ran than the limit allows
        if answer.began < (self._shrunk_at if live and self.waits else self._since):
            return
        size = answer.size.bit_length()
        usual = self._usual.setdefault(size, Usual())
        if len(usual) < LEARNED or (not self.waits and self._running.idle):
            usual.add(answer.seconds)
        if live != self._window.live:
            self._window = Window(live=live)
        self._window.wanted += self.waits
        self._window.add(size, answer.seconds, usual, now, own=self._own.seconds)
        self._decide(now)

    def _decide(self, now: float) -> None:
        window = self._window
        if window.live:
            self._bear()
        elif self._at_least and window.excess > TARGET:
            enough = SLOWER if window.late == window.number else BUSIER
            if window.number >= enough and window.beyond(TARGET) > 0:
                self._believe(now)
            elif window.number >= BUSIER:
                self._window = Window()
        elif self._is_over(now):
            if window.beyond(TARGET, CERTAIN) <= 0:
                self._learn()
            if window.beyond(TARGET) > 0:
                self._shrink(now)
            else:
                if window.excess <= TARGET:
                    self._go_on(now)
                self._window = Window()

    def _bear(self) -> None:
        """Learn from looks without a backlog that waited, although so many ran."""
        if self._window.number >= WINDOW:
            if self._window.excess <= TARGET:
                self.limit = max(self.limit, min(LIVE, self._most))
            self._window = Window()

    def _believe(self, now: float) -> None:
        """Learn again what is usual."""
        for size, seconds in self._window.seconds.items():
            self._usual[size].learn(seconds)
        self._shrink_to(min(FIRST, self._most), now)
        self._fast_below = math.inf

    @property
    def _at_least(self) -> bool:
        return self.limit <= self._least

    def _is_over(self, now: float) -> bool:
        window, round_ = self._window, max(2.0, self.limit)
        if window.late == window.number < WINDOW and window.beyond(TARGET, CERTAIN) <= 0:
            return False  # where many are late usually, it takes more to show that all are
        if self.limit < self._fast_below:
            return window.number >= (max(ROUND, self.limit) if self.limit >= 1 else 2)
        if window.number >= round_ and window.excess > MANY and window.beyond(TARGET, CERTAIN) > 0:
            return True
        if window.number >= max(FEW, self.limit) and now - window.began > MOMENT:
            return True
        return window.number >= max(WINDOW, 2 * self.limit)

    def _learn(self) -> None:
        """Learn from a window that was not late: its GETs are usual ones, or better."""
        for size, seconds in self._window.seconds.items():
            usual = self._usual[size]
            if usual.is_slower_than(seconds):
                usual.learn(seconds)
                self._fast_below = math.inf
            elif self.limit <= PACED and (len(usual) < KNOWN or not usual.is_exact):
                usual.add(*seconds)

    def _go_on(self, now: float) -> None:
        """After a window that was not late: grow, or forget a trouble that is over."""
        if self._window.is_wanted:
            self._grow()
        elif now - self._shrunk_at > CALM:
            self.limit = max(self.limit, min(FIRST, self._most))
            self._fast_below = math.inf

    def _grow(self) -> None:
        self._good += 1
        if self.limit == PACED and any(
            len(self._usual[size]) < KNOWN for size in self._window.seconds
        ):
            return  # it is too early to say what is late
        if self.limit < self._fast_below:
            step = self.limit
        else:
            step = min(STEP, self.limit / 4) * 2 ** min(max(0, self._good - GOOD), DOUBLINGS)
        self.limit = min(self._most, self.limit + min(step, self.limit))

    def _shrink(self, now: float) -> None:
        too_fast = self.limit < self._fast_below
        if self._good or too_fast:
            self._fast_below = self.limit / 2
        if self._window.excess > ALL:
            self._shrink_to(self.limit / 4, now)
        elif too_fast:
            self._shrink_to(self.limit / 2, now)
        else:
            self._shrink_to(self.limit * (1 - self._window.beyond(TARGET) / 2), now)

    def _shrink_to(self, limit: float, now: float) -> None:
        self.limit = max(self._least, limit)
        self._good = 0
        self._since = self._shrunk_at = now
        self._window = Window()


class _Lateness:
    """For how many seconds this process delays an answer."""

    def __init__(self) -> None:
        self._naps: deque[float] = deque(maxlen=NAPS)
        self.seconds = 0.0

    def add(self, late: float) -> None:
        self._naps.append(late)
        self.seconds = WAKES * sorted(self._naps)[len(self._naps) * 9 // 10]


class _Running:
    """The looks that are under way, and when the next can begin."""

    def __init__(self) -> None:
        self._began: list[tuple[str, float]] = []  # the oldest first
        self._last = -math.inf
        self._seconds = 0.0  # how long a GET lasts, on average

    @property
    def idle(self) -> bool:
        """True if there are none."""
        return not self._began

    def begin(self, id: str, now: float) -> None:
        self._began.append((id, now))
        self._last = now

    def over(self, id: str) -> None:
        """End the older, if there are two: a look is stored before its thread says that it ends."""
        del self._began[[known for known, _ in self._began].index(id)]

    def lasted(self, seconds: float) -> None:
        seconds = min(seconds, LONGEST)
        mean = (self._seconds + seconds) / (2 if self._seconds else 1)
        self._seconds = min(mean, 2 * seconds)  # a source that recovers is not asked as rarely

    def next_at(self, limit: float, *, paced: bool) -> float:
        """Return when the next can begin: after a pause, and once fewer are not overdue."""
        at = self._last + self._seconds / limit if paced else -math.inf
        most = math.ceil(limit) if limit < PACED else limit
        if len(self._began) + 1 <= most:
            return at
        _, began = self._began[-int(most)]
        return max(at, began + max(OVERDUE, ROUNDS * self._seconds))
