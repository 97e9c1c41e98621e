"""Services that are not ours, as programs: what they answer as they come, and once mended."""

from __future__ import annotations

import contextlib
import getpass
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
import urllib3

from change_events import HTTPFetcher, HTTPListing
from source_apps import Service
from verification.harness.processes import free_port, wait_until

TESTS = Path(__file__).parent
NODE_MODULES = TESTS.parent / "node_modules"
HOWTO = TESTS.parent / "docs" / "howto" / "the-source.md"

ROUTES, FILES_MENDED = re.findall(
    r"^```\n((?:module|etag).*?)^```", HOWTO.read_text(), re.MULTILINE | re.DOTALL
)
"""What the how-to tells owners to add to json-server and to nginx."""


class Source:
    """A service. Each save makes a new state, by HTTP."""

    listing = None
    end = ""
    """The end of an entity's URL."""

    def __init__(self, url):
        self.url = f"{url}/products"
        self.fetcher = HTTPFetcher(f"{self.url}/{{id}}{self.end}")
        self._pool = urllib3.PoolManager(retries=False, timeout=30)
        self._numbers = itertools.count()
        self._saved = set()

    def save(self, id):
        entity = {"id": id, "number": f"{next(self._numbers):09}"}  # the size stays
        if id in self._saved:
            self.ask("PUT", self.url_of(id), entity)
        else:
            self.ask("POST", self.url, entity)
        self._saved.add(id)

    def delete(self, id):
        self.ask("DELETE", self.url_of(id))

    def url_of(self, id):
        return f"{self.url}/{quote(id, safe='')}{self.end}"

    def ask(self, method, url, entity=None):
        response = self._pool.request(method, url, json=entity)
        assert 200 <= response.status < 300, (method, url, response.status, response.data)


@contextlib.contextmanager
def program(*command):
    """Run a program that prints its URL, and ends with its input."""
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running.stdout.readline().strip()
        running.stdin.close()
    assert running.returncode == 0


@contextlib.contextmanager
def listening(command_for):
    """Run the command that a function returns for a port; yield the URL."""
    port = free_port()
    command = command_for(port)
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def answers():
        assert running.poll() is None, f"{command} has ended with status {running.returncode}"
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return urllib3.request("GET", url, retries=False)

    try:
        wait_until(answers)
        yield url
    finally:
        running.terminate()
        running.wait(30)


def node(package):
    """Return the command of node; skip the test if it, or a package for it, is not installed."""
    if shutil.which("node") is None or not (NODE_MODULES / package).is_dir():
        pytest.skip(f"node and {package} are not installed (.ci/run does so)")
    return "node"


def nginx():
    """Return the command of nginx; skip the test if it is not installed."""
    command = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if command is None:
        pytest.skip("nginx is not installed (.ci/run does so)")
    return command


class ByPut(Source):
    """Saves by PUT only."""

    def save(self, id):
        self._saved.add(id)
        super().save(id)


@contextlib.contextmanager
def express(directory):
    with program(node("express"), str(TESTS / "express_source.js")) as url:
        yield ByPut(url)


class JSONServer(Source):
    def __init__(self, url):
        super().__init__(url)
        self.fetcher = HTTPFetcher(f"{self.url}/{{id}}", bulk_url=self.url, bulk_size=10)
        self.listing = HTTPListing(f"{self.url}?_page=1&_limit=2", entities=True)


@contextlib.contextmanager
def json_server(directory, *options):
    database = directory / "db.json"
    database.write_text('{"products": []}')
    command = [node("json-server"), str(NODE_MODULES / "json-server/lib/cli/bin.js"), str(database)]
    address = ["--host", "127.0.0.1", "--port"]
    with listening(lambda port: [*command, *address, str(port), *options]) as url:
        yield JSONServer(url)


@contextlib.contextmanager
def json_server_mended(directory):
    (directory / "routes.js").write_text(ROUTES)
    with json_server(directory, "--middlewares", str(directory / "routes.js")) as service:
        service.listing = HTTPListing(service.url, entities=True)  # all on one page
        yield service


class DRF(Source):
    end = "/"

    def __init__(self, url):
        super().__init__(url)
        self.listing = HTTPListing(f"{self.url}/", entities=True, next="next")

    def ask(self, method, url, entity=None):
        super().ask(method, url if url.endswith("/") else f"{url}/", entity)


@contextlib.contextmanager
def drf(directory, *arguments):
    with program(sys.executable, str(TESTS / "drf_source.py"), *arguments) as url:
        yield DRF(url)


def drf_mended(directory):
    return drf(directory, "mended")


@contextlib.contextmanager
def serving_nginx(directory, lines):
    """Yield the URL of an nginx whose server has these lines."""
    temporary = "".join(
        f"    {each}_temp_path {directory}/{each};\n"
        for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )

    def command(port):
        configuration = directory / "nginx.conf"
        configuration.write_text(
            f"user {getpass.getuser()};\ndaemon off;\npid {directory}/pid;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}"
            f"server {{\nlisten 127.0.0.1:{port};\n{lines}\n}}\n}}\n"
        )
        return [nginx(), "-e", f"{directory}/error.log", "-c", str(configuration)]

    with listening(command) as url:
        yield url


class InFiles(Source):
    """Saves a file, which appears whole."""

    def __init__(self, url, directory):
        super().__init__(url)
        self._directory = directory

    def ask(self, method, url, entity=None):
        path = self._directory / "products" / unquote(url.rpartition("/")[2])
        if method == "DELETE":
            path.unlink()
            return
        path.parent.mkdir(exist_ok=True, parents=True)
        new = self._directory / "new"
        new.write_text(json.dumps(entity))
        new.replace(path)

    def save(self, id):
        self._saved.add(id)
        super().save(id)


@contextlib.contextmanager
def nginx_files(directory, lines="location /products/ { default_type application/json; }"):
    with serving_nginx(directory, f"root {directory};\n{lines}") as url:
        yield InFiles(url, directory)


def nginx_files_mended(directory):
    return nginx_files(directory, FILES_MENDED)


@contextlib.contextmanager
def nginx_proxy(directory, path="/products/"):
    """A service that does everything right, behind nginx."""
    with Service() as service:
        lines = f"location /products/ {{ proxy_pass {service.server.url}{path}; }}"
        with serving_nginx(directory, lines) as url:
            service.fetcher = HTTPFetcher(f"{url}/products/{{id}}")
            service.listing = None
            yield service


def nginx_proxy_mended(directory):
    return nginx_proxy(directory, path="")
