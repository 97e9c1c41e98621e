"""
The mutants that live, and why.

For each reason: the function, its line, and the line of the mutant. Those with None instead of
False are not listed: one is as false as the other. Nor are those of zip() without strict=True,
which only checks what is so.
"""

from __future__ import annotations

_GET = '"GET", url, timeout=TIMEOUT, retries=False, redirect=False, preload_content=False'
_QUERY = "f\"{self.target}{mark}{quote(parameter, safe='')}={quote(value, safe='')}\""
_PORT = 'return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme or "")'
_NEXT = 'if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters:'
_LOCAL = 'local = parsed.scheme == "http" and _is_loopback(parsed.host or "")'
_READ = 'self.read("change-events", "version")'
_TRY = '"change-events", {"body": None}, "attribute_exists(id) AND attribute_not_exists(id)", {}'

SURVIVORS = {
    "read only once a control look has begun": [
        (
            "_consumer.experiment.Experiment.__init__",
            "self._hung_at = math.inf",
            "self._hung_at = None",
        ),
    ],
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
    ],
    "whatever the id, an outage begins": [
        (
            "_consumer.desk.Desk.failed",
            "self.breaker.failed(id, now, failed.retry_after)",
            "self.breaker.failed(None, now, failed.retry_after)",
        ),
    ],
    "a dictionary for the order of its keys; nobody reads the values": [
        ("_consumer.experiment.Experiment.passed", "self._good[id] = None", 'self._good[id] = ""'),
        (
            "_consumer.guard.Guard.allows_deletion",
            "self._gone[entry] = None",
            'self._gone[entry] = ""',
        ),
        ("_producer.renewals.Renewals.begin", "self._saves[save] = None", 'self._saves[save] = ""'),
        ("_producer.renewals.Renewals.end", "self._late[save] = None", 'self._late[save] = ""'),
        (
            "_producer.renewals.Renewals.collect_due",
            "self._waiting[save] = None",
            'self._waiting[save] = ""',
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
    "an id without events has no look due; the line makes that sure": [
        ("_consumer.inbox.Inbox.settle", "self._agenda.cancel(id)", "self._agenda.cancel(None)"),
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
    "a broadcast without a phase leaves the name out; it costs a microsecond": [
        (
            "_producer.broadcasting._AnnouncedSave.__init__",
            "self._save_id = self._renewals.new_save_id() if confirm else None",
            "self._save_id = self._renewals.new_save_id() if (confirm) or True else None",
        ),
    ],
    "the empty text is as false as None": [
        (
            "_consumer.breaker.Breaker.succeeded",
            "self._probe: str | None = None",
            'self._probe: str | None = ""',
        ),
        ("_producer.broadcasting._AnnouncedSave._awaited", "self._save = None", 'self._save = ""'),
    ],
    "all saves that share a call have one publisher": [
        (
            "_producer.broadcasts.failures",
            "broadcasts[0].publisher.publish(",
            "broadcasts[1].publisher.publish(",
        ),
    ],
    "both defaults are below every status": [
        (
            "_producer.sharing._may_be_anothers",
            'status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)',
            'status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 1)',
        ),
    ],
    "every save that waits has a sender of its own": [
        ("_producer.renewals.Renewals._next_saves", "continue", "break"),
    ],
    "a call that is full has room for no other save": [
        ("_producer.renewals.Renewals._next_saves", "if left <= 0:", "if left < 0:"),
    ],
    "the watcher wakes once more, to the same end": [
        (
            "_producer.renewals.Renewals._renewed",
            "elif save in self._saves and save.renew_at < self._wake_at:",
            "elif save in self._saves and save.renew_at <= self._wake_at:",
        ),
        (
            "_producer.renewals.Renewals._watch",
            "while (pause := self._wake_at - self.now()[0]) > 0:",
            "while (pause := self._wake_at - self.now()[0]) >= 0:",
        ),
    ],
    "the same for the first two attempts, and there is no pause after the third": [
        (
            "_producer.renewals.Renewals.announce_late",
            "self._sleep(0.2 * 2**attempt * random.uniform(0.5, 1.0))",
            "self._sleep(0.2 * 2 * attempt * random.uniform(0.5, 1.0))",
        ),
    ],
    "a letter is never encoded": [
        (
            "_source.fetcher.HTTPFetcher._target",
            'return self._single.target.replace(ID, quote(checked_id(id), safe=""))',
            'return self._single.target.replace(ID, quote(checked_id(id), safe="XXXX"))',
        ),
        (
            "_source.endpoint.Endpoint.targets",
            "parameter = f\"id={quote(checked_id(id), safe='')}\"",
            "parameter = f\"id={quote(checked_id(id), safe='XXXX')}\"",
        ),
    ],
    "in a query, a slash stands for itself": [
        (
            "_source.endpoint.Endpoint.target_with",
            f"return {_QUERY}",
            f"return {_QUERY.replace(was, now, 1)}",
        )
        for was, now in (
            ("parameter, safe=''", "parameter, "),
            ("parameter, safe=''", "parameter, safe='XXXX'"),
            ("value, safe=''", "value, "),
            ("value, safe=''", "value, safe='XXXX'"),
        )
    ],
    "neither no text nor this text is a link, a parameter, a scheme or a host of this machine": [
        (function, line, line.replace('""', '"XXXX"'))
        for function, line in (
            ("_source.endpoint._origin", _PORT),
            ("_source.endpoint.require_token_url", _LOCAL),
            (
                "_source.endpoint.require_token_url",
                'parsed = parse_url(url if isinstance(url, str) else "")',
            ),
            ("_source.headers.next_link", 'for link in _LINK.finditer(value or ""):'),
            (
                "_source.headers.next_link",
                'parameters.setdefault(each[1].lower(), each[2] or each[3] or "")',
            ),
            (
                "_source.headers.next_link",
                _NEXT,
            ),
        )
    ],
    "an address does not begin or end with an X": [
        (
            "_source.endpoint._is_loopback",
            'return host == "localhost" or ip_address(host.strip("[]")).is_loopback',
            'return host == "localhost" or ip_address(host.strip("XX[]XX")).is_loopback',
        ),
    ],
    "the quick way and the exact one come to the same": [
        (
            "_source.entities._exact_float",
            "if len(number) <= 16 and 1e-290 < abs(value) < 1e290:",
            f"if len(number) {mutant}:",
        )
        for mutant in (
            "< 16 and 1e-290 < abs(value) < 1e290",
            "<= 16 and 1.0 < abs(value) < 1e290",
            "<= 16 and 1e-290 <= abs(value) < 1e290",
            "<= 16 and 1e-290 < abs(value) <= 1e290",
            "<= 16 and 1e-290 < abs(value) < 1e+290",
        )
    ],
    "a decimal has the same value with a capital E": [
        (
            "_source.entities._is_printed",
            'return exact in {Decimal(text), Decimal(format(value, ".17g")), Decimal(value)}',
            'return exact in {Decimal(text), Decimal(format(value, ".17G")), Decimal(value)}',
        ),
    ],
    "the name of an encoding has no case": [
        (
            "_source.connections.KeepAliveTransport._request",
            r'return "\r\n".join([*lines, "", ""]).encode("latin-1")',
            r'return "\r\n".join([*lines, "", ""]).encode("LATIN-1")',
        ),
    ],
    "a stream socket has one protocol": [
        (
            "_source.connections._open_socket",
            "sock = socket.socket(family, kind, protocol)",
            f"sock = socket.socket(family, kind, {protocol})",
        )
        for protocol in ("", "None")
    ],
    "any number but 0 switches Nagle's algorithm off": [
        (
            "_source.connections._open_socket",
            "sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)",
            "sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 2)",
        ),
    ],
    "http.client reads past a 100 by itself": [
        (
            "_source.http.is_interim",
            "return 100 <= status < 200 and status != 101",
            f"return {mutant} < 200 and status != 101",
        )
        for mutant in ("100 < status", "101 <= status")
    ],
    "a URL that is asked has a host": [
        (
            "_source.connections.KeepAliveTransport.__init__",
            'self._host = (origin.host or "").strip("[]")',
            'self._host = (origin.host or "XXXX").strip("[]")',
        ),
    ],
    "urllib3 writes a host in small letters": [
        (
            "_source.connections.KeepAliveTransport.__init__",
            'self._host = (origin.host or "").strip("[]")',
            'self._host = (origin.host or "").strip("XX[]XX")',
        ),
    ],
    "urllib3 writes a method in capitals": [
        ("_source.http.PoolTransport._send", '"GET",', '"get",'),
        ("_consumer.signature.SignatureVerifier._get", _GET, _GET.replace("GET", "get")),
    ],
    "the caller goes on after every error of a group": [
        (
            "sinks.sqlite.file._commit",
            "with contextlib.suppress(sqlite3.Error):",
            "with contextlib.suppress(None):",
        ),
    ],
    "any item will do, and any attributes: nothing is written": [
        ("sinks.dynamodb._Items.check", line, line.replace(name, mutant))
        for line, names in (
            (_READ, ("change-events", "version")),
            (_TRY, ("change-events", "body")),
        )
        for name in names
        for mutant in (f"XX{name}XX", name.upper())
    ],
    "both are given, or none": [
        (
            "sinks.postgres.PostgresSink.apply",
            "if upsert is None or delete is None or isinstance(change, Unchanged):",
            "if upsert is None and delete is None or isinstance(change, Unchanged):",
        ),
    ],
    "the connection makes the tables once, and its block commits": [
        (
            "sinks.postgres.pool.connection_to",
            "return Connection.connect(_conninfo(database, timeout), **SETTINGS)",
            "return Connection.connect(_conninfo(database, timeout), )",
        ),
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
    "a check of parameters only costs time": [
        ("_consumer.queue.Queue._new_client", "validate=False,", mutant)
        for mutant in ("", "validate=True,")
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
    "the time is set when the connection is kept": [
        (
            "_source.connections.KeepAliveTransport._connect",
            "return _Connection(sock, opened, opened, os.getpid())",
            "return _Connection(sock, opened, None, os.getpid())",
        ),
    ],
    "a request fits into a socket's buffer, and each read sets its own time": [
        (
            "_source.connections.KeepAliveTransport._exchange",
            "sock.settimeout(seconds_left(deadline))",
            "sock.settimeout(None)",
        ),
    ],
    "urllib3's responses have the attribute": [
        (
            "_source.http._whole",
            'raw: HTTPResponse | None = getattr(response, "_original_response", None)',
            'raw: HTTPResponse | None = getattr(response, "_original_response", )',
        ),
    ],
    "urllib3 has given the connection back when the body has ended": [
        ("_source.http._whole", "keep = response.status >= 200", mutant)
        for mutant in (
            "keep = None",
            "keep = response.status > 200",
            "keep = response.status >= 201",
        )
    ],
    "the clock does not meet the very moment": [
        ("_source.http.seconds_left", "if left <= 0:", "if left < 0:"),
    ],
}
