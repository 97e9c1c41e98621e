"""The mutants of `sinks` that live, and why, as in survivors.py."""

from __future__ import annotations

_READ = 'self.read("change-events", "version")'
_TRY = '"change-events", {"body": None}, "attribute_exists(id) AND attribute_not_exists(id)", {}'
_CHECK = '"health_check_interval": 0,'

OF_THE_SINKS = {
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
    "Redis reads its words in any case": [
        (
            "sinks.redis.RedisSink.ids",
            'page = (b"LIMIT", b"0", b"%d" % limit)',
            'page = (b"limit", b"0", b"%d" % limit)',
        ),
    ],
    "one PING more in a second": [
        ("sinks.redis.server._client_of", _CHECK, _CHECK.replace("0", "1")),
    ],
}
