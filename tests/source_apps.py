"""Services that own entities, in several frameworks and with planted faults."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import socket
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingMixIn
from typing import Annotated
from urllib.parse import parse_qs, quote, unquote, urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import fastapi
import flask
import uvicorn
from fastapi.responses import JSONResponse

from change_events import HTTPFetcher, HTTPListing
from verification.harness.wire import Answer, Server

JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/html; charset=utf-8"}


class Entities:
    """What a service has stored. Each save makes a new state."""

    def __init__(self):
        self.stored = {}
        self.number = 0
        self.down = False

    def save(self, id):
        self.number += 1
        self.stored[id] = {"id": id, "number": f"{self.number:09}"}  # the size stays

    def delete(self, id):
        del self.stored[id]

    def get(self, id):
        if self.down:
            raise ConnectionError("the database is down")
        return self.stored.get(id)

    def existing(self, id):
        entity = self.get(id)
        if entity is None:
            raise LookupError(id)
        return entity

    def page(self, after, limit=2):
        return [self.stored[id] for id in sorted(self.stored) if id > after][:limit]

    @contextlib.contextmanager
    def failing(self):
        self.down = True
        yield
        self.down = False


def tag_of(body):
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


@contextlib.contextmanager
def serving_asgi(app):
    """Yield the URL of an ASGI application."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        # A client that connects before the server is ready waits.
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


class _ThreadingWSGIServer(ThreadingMixIn, WSGIServer):
    pass


class _QuietWSGI(WSGIRequestHandler):
    def log_message(self, *line):
        pass


@contextlib.contextmanager
def serving_wsgi(app):
    """Yield the URL of a WSGI application, in Python's own server."""
    with make_server("127.0.0.1", 0, app, _ThreadingWSGIServer, _QuietWSGI) as server:
        yield from _running(server)


@contextlib.contextmanager
def serving_files(directory, handler):
    """Yield the URL of files, in Python's own server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=directory)) as server:
        yield from _running(server)


def _running(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


def fastapi_app(entities):
    app = fastapi.FastAPI()

    @app.exception_handler(LookupError)
    def missing(request, error):
        return JSONResponse({"detail": "no such product"}, 404)

    @app.exception_handler(ConnectionError)
    def down(request, error):
        return JSONResponse({"detail": "try again"}, 503)

    @app.get("/products")
    def listed(id: Annotated[list[str] | None, fastapi.Query()] = None, after: str = ""):
        if id is None:
            return entities.page(after)
        return [entity for each in id if (entity := entities.get(each)) is not None]

    @app.get("/products/{id:path}")
    def product(id: str):
        return entities.existing(id)

    return app


def flask_app(entities):
    app = flask.Flask("products")

    @app.errorhandler(LookupError)
    def missing(error):
        return {"detail": "no such product"}, 404

    @app.errorhandler(ConnectionError)
    def down(error):
        return {"detail": "try again"}, 503

    @app.get("/products/<path:id>")
    def product(id):
        answer = flask.jsonify(entities.existing(id))
        answer.add_etag()
        return answer.make_conditional(flask.request)

    return app


class Files(SimpleHTTPRequestHandler):
    """Serves files as nginx does with a few lines: JSON, and a 404 that is JSON where they are."""

    protocol_version = "HTTP/1.1"
    # Head and body are sent apart, and Nagle's algorithm would delay each body by 40 ms.
    disable_nagle_algorithm = True

    def guess_type(self, path):
        return "application/json"  # otherwise the id `p1.html` would be a page

    def send_error(self, code, message=None, explain=None):
        if code != 404 or not self.path.startswith("/products/"):
            super().send_error(code, message, explain)
            return
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *line):
        pass


class Service(Entities):
    """A service that does everything right. Each subclass has one fault."""

    def __enter__(self):
        self.server = Server(self.respond)
        self.server.__enter__()
        self.url = f"{self.server.url}/products/{{id}}"
        self.bulk_url = f"{self.server.url}/products"
        self.fetcher = HTTPFetcher(self.url, bulk_url=self.bulk_url, bulk_size=10)
        self.listing = HTTPListing(self.bulk_url, entities=True, cursor="after")
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)

    def respond(self, asked):
        parts = urlsplit(asked.path)
        segments = parts.path.split("/")
        if self.down:
            return self.while_down()
        if parts.path == "/products":
            query = parse_qs(parts.query)
            found = self.many(query["id"]) if "id" in query else self.listed(query)
            return Answer(200, json.dumps(found).encode())
        if len(segments) != 3 or segments[1] != "products":
            return self.unrouted()
        return self.one(unquote(segments[2]), asked)

    def one(self, id, asked):
        entity = self.get(id)
        return self.missing(id) if entity is None else self.present(entity, asked)

    def present(self, entity, asked):
        body = json.dumps(entity).encode()
        tag = self.tag(body)
        if asked.headers.get("If-None-Match") == tag:
            return Answer(304, b"", {"ETag": tag})
        return self.encoded(Answer(200, body, {**JSON, "ETag": tag}))

    def tag(self, body):
        return tag_of(body)

    def encoded(self, answer):
        headers = {**answer.headers, "Content-Encoding": "gzip"}
        return replace(answer, body=gzip.compress(answer.body), headers=headers)

    def missing(self, id):
        return Answer(410, b'{"detail": "no such product"}', JSON)

    def unrouted(self):
        return Answer(404, b"<h1>Not Found</h1>", HTML)

    def while_down(self):
        return Answer(500, b'{"detail": "error"}', JSON)

    def many(self, ids):
        return [self.stored[id] for id in reversed(ids) if id in self.stored]

    def listed(self, query):
        return self.page(query.get("after", [""])[0])


class Cached(Service):
    """Answers from a cache for good."""

    def present(self, entity, asked):
        self.cache = getattr(self, "cache", {})
        return super().present(self.cache.setdefault(entity["id"], entity), asked)


class CachedByProcess(Service):
    """Has a cache for each of its processes, and here each connection is one."""

    def present(self, entity, asked):
        self.cache = getattr(self, "cache", {})
        if self.number == 1:
            self.first = asked.connection
        if asked.connection != self.first:
            entity = self.cache.setdefault((asked.connection, entity["id"]), entity)
        return super().present(entity, asked)


class Lagging(Service):
    """Reads a replica that is a save behind."""

    def save(self, id):
        self.replica = self.stored.copy()
        super().save(id)

    def one(self, id, asked):
        entity = self.replica.get(id)
        return self.missing(id) if entity is None else self.present(entity, asked)


class RemembersMisses(Service):
    """Answers for good that an entity is missing, once it was."""

    def one(self, id, asked):
        self.missed = getattr(self, "missed", set())
        if id in self.missed or id not in self.stored:
            self.missed.add(id)
            return self.missing(id)
        return super().one(id, asked)


class RemembersTheDeleted(Service):
    """Answers from a cache what is stored no longer."""

    def one(self, id, asked):
        self.cache = getattr(self, "cache", {}) | self.stored
        return super().present(self.cache[id], asked) if id in self.cache else self.missing(id)


class TagOfSize(Service):
    """Makes its `ETag` as nginx does."""

    def tag(self, body):
        return f'"67406a1b-{len(body):x}"'


class TagOfTheUrl(Service):
    """Answers 304 before it looks."""

    def one(self, id, asked):
        if "If-None-Match" in asked.headers:
            return Answer(304)
        return super().one(id, asked)


class NoTag(Service):
    def present(self, entity, asked):
        return Answer(200, json.dumps(entity).encode())


class FindsAll(Service):
    """Answers 200 for what is missing."""

    def missing(self, id):
        return Answer(200, json.dumps({"id": id}).encode())


class MissesAsHTML(Service):
    def missing(self, id):
        return Answer(404, b"<h1>Not Found</h1>", HTML)


class RouterAnswersJSON(Service):
    """Has the 404 of a router that speaks JSON."""

    def unrouted(self):
        return Answer(404, b'{"detail": "Not Found"}', JSON)


class DecodesEarly(RouterAnswersJSON):
    """Splits the path after it was decoded, as WSGI and ASGI do."""

    def respond(self, asked):
        path, mark, query = asked.path.partition("?")
        encoded = [quote(segment, safe="") for segment in unquote(path).split("/")]
        return super().respond(replace(asked, path="/".join(encoded) + mark + query))


class DecodesTwice(Service):
    def one(self, id, asked):
        return super().one(unquote(id), asked)


class PlusIsASpace(Service):
    def one(self, id, asked):
        return super().one(id.replace("+", " "), asked)


class AnswersAnother(Service):
    """Answers with another entity's body."""

    def present(self, entity, asked):
        return super().present(next(iter(self.stored.values())), asked)


class NoId(Service):
    def present(self, entity, asked):
        return super().present({"data": entity}, asked)


class TellsTheTime(Service):
    """Has something in an entity that changes with each GET."""

    def present(self, entity, asked):
        self.number += 1
        return super().present({**entity, "now": self.number}, asked)


class BrokenGzip(Service):
    def encoded(self, answer):
        return replace(answer, headers={**answer.headers, "Content-Encoding": "gzip"})


class DownIsMissing(Service):
    """Answers 404 when its database is down, and an empty list."""

    def while_down(self):
        return Answer(404, b"[]", JSON)


class DownIsEmpty(Service):
    def while_down(self):
        return Answer(200, b"[]", JSON)


class BulkOfThree(Service):
    """Answers with the first three that were asked for."""

    def many(self, ids):
        return super().many(ids[:3])


class BulkOfAnIndex(Service):
    """Answers from an index that lags."""

    def save(self, id):
        self.index = getattr(self, "index", {})
        self.index[id] = self.stored.get(id) or self.index.get(id)
        super().save(id)
        self.index[id] = self.index[id] or self.stored[id]

    def many(self, ids):
        return [self.index[id] for id in ids if id in self.stored]


class BulkHasDeleted(Service):
    def delete(self, id):
        self.deleted = {id: self.stored[id]}
        super().delete(id)

    def many(self, ids):
        return super().many(ids) + [self.deleted[id] for id in ids if id in self.deleted]


class BulkHasAll(Service):
    """Ignores what was asked for."""

    def many(self, ids):
        return list(self.stored.values())


class BulkAllOrNothing(Service):
    """Answers with nothing if one is missing."""

    def many(self, ids):
        found = super().many(ids)
        return found if len(found) == len(ids) else []


class BulkIsAnObject(Service):
    def many(self, ids):
        return {"products": super().many(ids)}


class BulkIsCached(Service):
    """Answers a bulk GET from a cache for good."""

    def many(self, ids):
        self.cache = getattr(self, "cache", {})
        answer = json.dumps(super().many(ids))
        return json.loads(self.cache.setdefault(tuple(sorted(ids)), answer))


class ListIsCached(Service):
    """Answers each page of its list from a cache for good."""

    def listed(self, query):
        self.cache = getattr(self, "cache", {})
        return json.loads(self.cache.setdefault(str(query), json.dumps(super().listed(query))))


class ListHasOldEntities(Service):
    """Reads the entities of its list from a cache."""

    def listed(self, query):
        self.cache = getattr(self, "cache", {})
        return [self.cache.setdefault(each["id"], each) for each in super().listed(query)]


class VersionTag(Service):
    """Makes its ETag of a version, which is 1 again after a deletion."""

    def save(self, id):
        self.versions = getattr(self, "versions", {})
        self.versions[id] = self.versions.get(id, 0) + 1
        super().save(id)

    def delete(self, id):
        self.versions.pop(id, None)
        super().delete(id)

    def present(self, entity, asked):
        self.version = self.versions[entity["id"]]
        return super().present(entity, asked)

    def tag(self, body):
        return f'"{self.version}"'


class HasOthers(Service):
    """Has entities that the contract did not save, first in its list."""

    def __enter__(self):
        super().__enter__()
        for id in ("!1", "!2", "!3"):
            self.save(id)
        return self


class ListIsEmpty(Service):
    def listed(self, query):
        return []


class ListLacksOne(Service):
    def listed(self, query):
        ids = sorted(self.stored)
        page = super().listed(query)
        return [entity for entity in page if entity["id"] != ids[0]] or page[1:]


class ListHasOneTwice(Service):
    """Begins a page with the last entity of the one before."""

    def listed(self, query):
        after = query.get("after", [""])[0]
        ids = [id for id in sorted(self.stored) if id >= after]
        page = ids[: 2 if after == "" else 3]
        return [self.stored[id] for id in page] if page[1:] else []


class ListHasDeleted(Service):
    def delete(self, id):
        self.deleted = [self.stored[id]]
        super().delete(id)

    def listed(self, query):
        return super().listed(query) if self.stored or query else self.deleted


class ListOfAnIndex(Service):
    """Lists what an entity was at first."""

    def listed(self, query):
        return [{**entity, "number": "000000000"} for entity in super().listed(query)]


class ListNeverEnds(Service):
    def listed(self, query):
        ids = sorted(self.stored)
        after = query.get("after", [""])[0]
        return self.page("" if after == ids[-1] else after)


class ListIsText(Service):
    def listed(self, query):
        return "products"


class ListByOffset(Service):
    """Names a page by its number."""

    def __enter__(self):
        super().__enter__()
        self.listing = HTTPListing(self.bulk_url, next="next", cursor="page", items="products")
        return self

    def listed(self, query):
        start = int(query.get("page", ["0"])[0])
        ids = sorted(self.stored)
        page = [self.stored[id] for id in ids[start : start + 2]]
        return {"products": page, "next": start + 2 if start + 2 < len(ids) else None}


class Tolerant(Service):
    """Answers at any path, and from what it remembers while its database is down."""

    def unrouted(self):
        return Answer(200, json.dumps(next(iter(self.stored.values()))).encode())

    def while_down(self):
        return self.unrouted()


class ListOfIds(Service):
    """Lists ids, all on one page."""

    def __enter__(self):
        super().__enter__()
        self.listing = HTTPListing(self.bulk_url)
        return self

    def listed(self, query):
        return list(self.stored)


class AtTheRoot(Service):
    """Has its entities at the root."""

    def __enter__(self):
        super().__enter__()
        self.fetcher = HTTPFetcher(self.server.url + "/{id}")
        return self

    def respond(self, asked):
        return super().respond(replace(asked, path="/products" + asked.path))


class InTheQuery(RouterAnswersJSON):
    """Has the id in the query."""

    def __enter__(self):
        super().__enter__()
        self.fetcher = HTTPFetcher(self.server.url + "/product?id={id}")
        return self

    def respond(self, asked):
        path = asked.path
        if path.startswith("/product?id="):
            path = path.replace("/product?id=", "/products/")
        return super().respond(replace(asked, path=path))


class RefusesSlashes(Service):
    """Refuses to save what its router could not find."""

    def save(self, id):
        if "/" in id:
            raise ValueError("no slashes")
        super().save(id)


class Hanging(Service):
    """Never answers about an entity that exists."""

    def present(self, entity, asked):
        return Answer(0)
