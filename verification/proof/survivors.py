"""
The mutants that live, and why.

For each reason: the function, its line, and the line of the mutant. Those with None instead of
False are not listed: one is as false as the other. Nor are those of zip() without strict=True,
which only checks what is so.
"""

from __future__ import annotations

from verification.proof.producer_survivors import OF_THE_PRODUCER
from verification.proof.sink_survivors import OF_THE_SINKS
from verification.proof.source_survivors import OF_THE_SOURCE

_GET = '"GET", url, timeout=TIMEOUT, retries=False, redirect=False, preload_content=False'
_FEWER = "number >= MANY and -self.late.excess(late, number)"
_FREE_AT = "self.limit.waits = self._free_at > max(now, self.gets.look_at)"
_TRUST = "validate=False,"
_NOTE = 'note("failed", error=error)'
_WAKES = "self._wakes = -math.inf"
_LIMIT = "_consumer.limit.Limit"
_ALL_LATE = "if window.late == window.number < WINDOW and window.beyond(TARGET, CERTAIN)"
_MOST_LATE = "if window.number >= round_ and window.excess"

SURVIVORS = {
    **OF_THE_PRODUCER,
    **OF_THE_SINKS,
    **OF_THE_SOURCE,
    "before the first dump there is nothing to compare with": [
        ("_consumer.guard.Guard.__init__", "self._dumped = self._state", "self._dumped = None"),
    ],
    "what another process believes no longer, the next deletion ends here, too": [
        ("_consumer.guard.Guard.__init__", "self._resumed = False", "self._resumed = True"),
    ],
    "one look is too few for a refusal": [
        (
            "_consumer.guard._Window.gone_of_last",
            "return sum(gone for _, gone in islice(reversed(self._all), max(0, number)))",
            "return sum(gone for _, gone in islice(reversed(self._all), max(1, number)))",
        ),
    ],
    "only keeps the power from overflowing; no caller's limit is above 2**20": [
        (
            "_consumer.backoff.pause_after",
            "return min(2.0 ** min(failures, 20), most) * random.uniform(0.5, 1.0)",
            "return min(2.0 ** min(failures, 21), most) * random.uniform(0.5, 1.0)",
        ),
    ],
    "the end of a pause that has not begun does nothing": [
        (
            "_consumer.consumer.Consumer.__init__",
            "self._paused = {SOURCE_DOWN: False, MASS_DELETION: False}",
            "self._paused = {SOURCE_DOWN: True, MASS_DELETION: False}",
        ),
    ],
    "how many are remembered bounds the memory; no rule needs just that number": [
        (
            "_consumer.deletions.Deletions.__init__",
            "self._allowed: deque[str] = deque(maxlen=WINDOW)",
            "self._allowed: deque[str] = deque(maxlen=None)",
        ),
        (
            "_consumer.guard.Guard.allows_deletion",
            "if len(self._gone) > WINDOW:",
            "if len(self._gone) >= WINDOW:",
        ),
    ],
    "nobody reads the answer": [
        (
            "_consumer.deletions.Deletions.keep",
            "self._with_state(lambda: None)",
            "self._with_state(lambda: 0)",
        ),
    ],
    "whether there are any: one more makes no difference": [
        (
            "_consumer.deletions.Deletions._knows_ids",
            "return bool(self._some_ids(None, 1))",
            "return bool(self._some_ids(None, 2))",
        ),
        ("_consumer.desk.Desk.too_early", "self.changed(1)", "self.changed(2)"),
        ("_consumer.desk.Desk.failed", "self.changed(1)", "self.changed(2)"),
    ],
    "a suspect that is judged at once is not asked when it failed": [
        (
            "_consumer.desk.Desk.failed",
            "outage, suspects = in_a_row, [Suspect(id, failed, now)]",
            "outage, suspects = in_a_row, [Suspect(id, failed, None)]",
        ),
    ],
    "an outage that begins ends all questions": [
        (
            "_consumer.desk.Desk.failed",
            "suspects = [] if outage else self.experiment.give_up()",
            "suspects = [] if (outage) and False else self.experiment.give_up()",
        ),
    ],
    "only compared with another sum of as many answers": [
        (
            "_consumer.bulk.BulkSize.answered",
            "self._judge(self._seconds / ANSWERS)",
            "self._judge(self._seconds * ANSWERS)",
        ),
    ],
    "what waits is a whole number": [
        (
            "_consumer.prefetch.Prefetch.adapt",
            "if full and waiting <= min(held // 2, self._least):",
            "if full and waiting <= min(held / 2, self._least):",
        ),
    ],
    "every event is true": [
        (
            "_consumer.visibility.Visibility.hand_back_all",
            "held = self._drop(lambda _: True)",
            "held = self._drop(None)",
        ),
    ],
    "no look is due at infinity, so no thread wakes for it": [
        (f"_consumer.consumer._Lookers.{function}", _WAKES, _WAKES.replace("-", "+"))
        for function in ("__init__", "wait", "wake_one")
    ],
    "two times are the same only by chance, and then the look has begun": [
        ("_consumer.desk.Desk.next", _FREE_AT, _FREE_AT.replace(">", ">=")),
    ],
    "a thread that wakes at this very moment has woken": [
        (f"_consumer.consumer._Lookers.{function}", line, line.replace("now <", "now <="))
        for function, line in (
            ("wait", "if at is None or now < self._wakes <= at:"),
            ("wake_one", "if now < self._wakes <= at:"),
        )
    ],
    "whatever the id, an outage begins": [
        (
            "_consumer.desk.Desk.failed",
            "self.breaker.failed(id, now, failed.retry_after)",
            "self.breaker.failed(None, now, failed.retry_after)",
        ),
    ],
    "a dictionary for the order of its keys; nobody reads the values": [
        (
            "_consumer.experiment.Experiment.passed",
            "self._good[id] = None",
            'self._good[id] = ""',
        ),
        (
            "_consumer.guard.Guard.allows_deletion",
            "self._gone[entry] = None",
            'self._gone[entry] = ""',
        ),
    ],
    "of two numbers with roots in them, none is ever just as large as the other": [
        (
            "_consumer.usual.Usual.is_slower_than",
            "if self.early.excess(early, number) > self.early.chance(number, FASTER):",
            "if self.early.excess(early, number) >= self.early.chance(number, FASTER):",
        ),
        (
            "_consumer.usual.Usual.is_slower_than",
            f"return {_FEWER} > self.late.chance(number, LESS)",
            f"return {_FEWER} >= self.late.chance(number, LESS)",
        ),
        (
            f"{_LIMIT}._decide",
            "if window.number >= enough and window.beyond(TARGET) > 0:",
            "if window.number >= enough and window.beyond(TARGET) >= 0:",
        ),
        (
            f"{_LIMIT}._decide",
            "if window.beyond(TARGET, CERTAIN) <= 0:",
            "if window.beyond(TARGET, CERTAIN) < 0:",
        ),
        (
            f"{_LIMIT}._decide",
            "if window.beyond(TARGET) > 0:",
            "if window.beyond(TARGET) >= 0:",
        ),
        (f"{_LIMIT}._is_over", f"{_ALL_LATE} <= 0:", f"{_ALL_LATE} < 0:"),
        (
            f"{_LIMIT}._is_over",
            f"{_MOST_LATE} > MANY and window.beyond(TARGET, CERTAIN) > 0:",
            f"{_MOST_LATE} > MANY and window.beyond(TARGET, CERTAIN) >= 0:",
        ),
    ],
    "a share that is just as large as its bound is no longer so after the next answer": [
        (
            f"{_LIMIT}._decide",
            "elif self._at_least and window.excess > TARGET:",
            "elif self._at_least and window.excess >= TARGET:",
        ),
        (
            f"{_LIMIT}._decide",
            "if window.excess <= TARGET:",
            "if window.excess < TARGET:",
        ),
        (
            f"{_LIMIT}._bear",
            "if self._window.excess <= TARGET:",
            "if self._window.excess < TARGET:",
        ),
        (
            f"{_LIMIT}._is_over",
            f"{_MOST_LATE} > MANY and window.beyond(TARGET, CERTAIN) > 0:",
            f"{_MOST_LATE} >= MANY and window.beyond(TARGET, CERTAIN) > 0:",
        ),
        (
            f"{_LIMIT}._shrink",
            "if self._window.excess > ALL:",
            "if self._window.excess >= ALL:",
        ),
    ],
    "at most half are late usually, so fifty of fifty are always beyond doubt": [
        (
            f"{_LIMIT}._is_over",
            f"{_ALL_LATE} <= 0:",
            f"{_ALL_LATE.replace('<', '<=')} <= 0:",
        ),
    ],
    "a shortcut: what follows says the same": [
        (
            f"{_LIMIT}.next_at",
            "if at == -math.inf or live <= self.limit:",
            f"if at == {limit}:",
        )
        for limit in (
            "-math.inf and live <= self.limit",
            "+math.inf or live <= self.limit",
            "-math.inf or live < self.limit",
        )
    ],
    "before the first shrink nothing asks how many windows were good": [
        (f"{_LIMIT}.__init__", "self._good = 0", "self._good = 1"),
    ],
    "one GET more that shows what is usual before any is late": [
        (
            f"{_LIMIT}.answered",
            "if len(usual) < LEARNED or (not self.waits and self._running.idle):",
            "if len(usual) <= LEARNED or (not self.waits and self._running.idle):",
        ),
    ],
    "four, rounded up, is four": [
        (
            "_consumer.limit._Running.next_at",
            "most = math.ceil(limit) if limit < PACED else limit",
            "most = math.ceil(limit) if limit <= PACED else limit",
        ),
    ],
    "of exactly twenty ids, the first ten and the last ten are all": [
        (
            "_consumer.experiment.Experiment.passed",
            "if len(self._good) > KNOWN:",
            "if len(self._good) >= KNOWN:",
        ),
    ],
    "a question without suspects has ended already": [
        (
            "_consumer.experiment.Experiment.forget",
            "if self._suspects.pop(id, None) is not None and not self._suspects:",
            "if self._suspects.pop(id, None) is not None or not self._suspects:",
        ),
    ],
    "only in the text of an error, which what was found can't cause": [
        (
            "_consumer.looks.Looks._read_together",
            "id: _Done(entry, compared(changes[id], id, entry, fetcher, None))",
            "id: _Done(entry, compared(changes[id], None, entry, fetcher, None))",
        ),
        (
            "_consumer.looks.Looks._read_together",
            "id: _Done(entry, compared(changes[id], id, entry, fetcher, None))",
            "id: _Done(entry, compared(changes[id], id, entry, None, None))",
        ),
    ],
    "urllib3 writes a method in capitals": [
        ("_source.http.PoolTransport._send", '"GET",', '"get",'),
        ("_consumer.signature.SignatureVerifier._get", _GET, _GET.replace("GET", "get")),
    ],
    "urllib3 follows no redirect without retries": [
        (
            "_consumer.signature.SignatureVerifier._get",
            _GET,
            _GET.replace("redirect=False, ", redirect),
        )
        for redirect in ("", "redirect=True, ")
    ],
    "no process has this id": [
        ("_consumer.queue.Queue.__init__", "self._made_in = 0", "self._made_in = None"),
    ],
    "the span of a bulk GET has no outcome": [
        ("_consumer.looks.Looks._read_together", _NOTE, _NOTE.replace('"failed"', mutant))
        for mutant in ("None", '"XXfailedXX"', '"FAILED"')
    ],
    "a check only costs time": [
        ("_consumer.queue.Queue._new_client", _TRUST, mutant) for mutant in ("", "validate=True,")
    ],
    "a computer that has just started takes that long to start a worker": [
        (
            "_consumer.signature.SignatureVerifier.__init__",
            "self._next_fetch = 0.0",
            "self._next_fetch = 1.0",
        ),
    ],
    "every message was sent later than a millisecond after 1970 began": [
        ("integrations.aws_lambda._Function.ask_time", "return 0", "return 1"),
        (
            "integrations.aws_lambda._Batch._plan",
            "time_now = self._function.ask_time(self._queue_arn) if young else 0.0",
            "time_now = self._function.ask_time(self._queue_arn) if young else 1.0",
        ),
    ],
    "it is set before the first look": [
        (
            "integrations.aws_lambda._Batch.__init__",
            "self._last_look = math.inf",
            "self._last_look = None",
        ),
    ],
    "a pause lasts for a second at least": [
        (
            "integrations.aws_lambda._Batch._return_at",
            "return max(self._clock() + pause, delivery.due + CLOCK_SLACK if young else 0.0)",
            "return max(self._clock() + pause, delivery.due + CLOCK_SLACK if young else 1.0)",
        ),
    ],
    "an early look began before any of its events was due": [
        (
            "integrations.aws_lambda._Batch._looked",
            "self._looks[id] = -math.inf if early else started",
            "self._looks[id] = -math.inf if (early) and False else started",
        ),
    ],
    "the margin for the clocks is a thousand times as long": [
        (
            "integrations.aws_lambda._seconds",
            "return max(0.0, later - earlier) / 1000",
            "return max(1.0, later - earlier) / 1000",
        ),
    ],
    "real threads have the same by default": [
        (
            "_consumer.run.Run.__init__",
            "queue, tally, throttled=throttled, pause=self._finished.wait, condition=condition )",
            "queue, tally, throttled=throttled, pause=self._finished.wait, )",
        ),
    ],
}
