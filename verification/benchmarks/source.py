"""
The service that owns the products, as a process.

    python -m verification.benchmarks.source

It answers every id, and many ids at once, after a latency that the benchmark sets. The benchmark
can also set how many GETs it can serve at once, and let other clients ask for products. It sends no
`ETag`, so every GET gets a body.
"""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from verification.benchmarks.loopback import response, serve
from verification.benchmarks.scarce import Servers

if TYPE_CHECKING:
    from verification.benchmarks.loopback import Send

DESCRIPTION = (
    "a thing that somebody sells, with a text of about the length that such texts have in most "
    "catalogues "
) * 2

PAGE = 100
"""Products on a page of the listing."""


class Source:
    """
    Answers for all products. A save changes a product.

    Attributes:
        gets: Requests for one product.
        bulk_gets: Requests for many.
        pages: Requests for a page of the listing.
    """

    def __init__(self) -> None:
        self.gets = self.bulk_gets = self.pages = 0
        self._servers = Servers(0, 0.0)
        self._still = False
        self._saved: dict[str, int] = {}

    def answer(self, head: bytes, body: bytes, send: Send) -> None:
        """Answer a request."""
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        path = urlsplit(target)
        if method == "GET" and path.path == "/products":
            self.bulk_gets += 1
            found: Any = [self._product(id) for id in parse_qs(path.query)["id"]]
        elif method == "GET" and path.path == "/listing":
            self.pages += 1
            found = self._page(
                **{name: int(each) for name, (each,) in parse_qs(path.query).items()}
            )
        elif method == "GET" and path.path.startswith("/products/"):
            self.gets += 1
            found = self._product(path.path.removeprefix("/products/"))
        else:
            send(self._told(path.path, json.loads(body) if body else {}))
            return
        whole = response(json.dumps(found).encode())
        self._servers.serve(partial(send, whole))

    def _page(self, first: int, end: int) -> dict[str, Any]:
        """Return a page of whole products, or of as many as are left until `end`."""
        after = min(first + PAGE, end)
        return {
            "products": [self._product(f"p{number}") for number in range(first, after)],
            "next": f"/listing?first={after}&end={end}" if after < end else None,
        }

    def _product(self, id: str) -> dict[str, Any]:
        return {
            "id": id,
            "name": f"product {id}",
            # Different each time, because SQLite writes nothing where nothing changes.
            "stock": 0 if self._still else self.gets + self.bulk_gets,
            "edition": self._saved.get(id, 0),
            "description": DESCRIPTION,
        }

    def _told(self, path: str, body: dict[str, Any]) -> bytes:
        """Do a command of the benchmark: begin to count, save products, or return the counts."""
        if path == "/_bench/begin":
            self._servers.end()
            self._servers = Servers(body.get("servers", 0), body["latency"])
            if body.get("foreground"):
                self._servers.come(body["foreground"])
            self._still = body.get("still", False)
            self.gets = self.bulk_gets = self.pages = 0
        elif path == "/_bench/latency":
            self._servers.latency = body["latency"]
        elif path == "/_bench/save":
            self._saved |= body
            return response(json.dumps({"at": time.monotonic()}).encode())
        elif path == "/_bench/foreground":
            return response(json.dumps(self._servers.state()).encode())
        elif path != "/_bench/state":
            return response(b"{}", status=b"404 Not Found")
        counts = {"gets": self.gets, "bulk_gets": self.bulk_gets, "pages": self.pages}
        return response(json.dumps(counts).encode())


if __name__ == "__main__":
    serve(Source().answer)
