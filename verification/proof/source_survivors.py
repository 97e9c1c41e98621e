"""The mutants of `_source` that live, and why, as in survivors.py."""

from __future__ import annotations

_QUERY = "f\"{self.target}{mark}{quote(parameter, safe='')}={quote(value, safe='')}\""
_PORT = 'return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme or "")'
_NEXT = 'if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters:'
_LOCAL = 'local = parsed.scheme == "http" and _is_loopback(parsed.host or "")'

OF_THE_SOURCE = {
    "without an ETag, the header is left out": [
        (
            "_source.headers.request_headers",
            '("If-None-Match", etag or ""),',
            '("If-None-Match", etag or "XXXX"),',
        ),
    ],
    "no clock shows just the end of the timeout": [
        (
            "_source.getter.Getter._get_authorized",
            "if (timeout := left()) <= 0:",
            "if (timeout := left()) < 0:",
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
            ("_source.headers.next_link", _NEXT),
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
    "the clock does not meet the very moment": [
        ("_source.http.seconds_left", "if left <= 0:", "if left < 0:"),
    ],
}
