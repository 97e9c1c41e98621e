"""HTTPFetcher(ca_file=, client_cert=, proxy=): real certificates, real TLS, a real proxy."""

from __future__ import annotations

import contextlib
import ssl
import time

import pytest
import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from change_events import (
    ClientCredentials,
    ConfigurationError,
    FetchError,
    HTTPFetcher,
    HTTPListing,
)
from conftest import Source, certificate, serving
from fetching import answering, talking
from forward_proxy import forward_proxy
from verification.harness.wire import Answer, Server

PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()


def pem_of_key(key, encryption=PLAIN):
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    """An authority for clients: its file, and what makes certificates."""
    folder = tmp_path_factory.mktemp("clients")
    key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate(key, ca=True, host="clients.example")
    (folder / "ca.pem").write_bytes(ca.public_bytes(PEM))

    def make(host):
        own = ec.generate_private_key(ec.SECP256R1())
        return certificate(own, host=host, issuer=(ca, key)).public_bytes(PEM), own

    return folder / "ca.pem", make


@contextlib.contextmanager
def secure(context, look_up, source=None):
    """Yield a source at `https://products.example:<port>`, and its URL."""
    source = source or Source()
    source.entities["p1"] = {"id": "p1"}
    with serving(source, context):
        port = int(source.url.rpartition(":")[2])
        look_up["products.example"] = port
        yield source, f"https://products.example:{port}/{{id}}"


@pytest.fixture
def private(authority, look_up):
    """A source whose certificate is from a private authority: it, its URL, the authority's file."""
    ca_file, server = authority
    with secure(server("products.example"), look_up) as (source, url):
        yield source, url, ca_file


# Certificates


@pytest.mark.parametrize("as_type", [str, lambda path: path], ids=["text", "path"])
def test_a_private_authority_is_trusted(private, as_type):
    _, url, ca_file = private

    assert HTTPFetcher(url, ca_file=as_type(ca_file)).fetch("p1").value == {"id": "p1"}


def test_a_bulk_url_and_a_listing_trust_it_too(private):
    source, url, ca_file = private
    base = url.replace("/{id}", "")
    source.answer = lambda id: Answer(200, b'["p1"]') if id == "all" else None

    fetcher = HTTPFetcher(url, bulk_url=base + "/many", ca_file=ca_file)

    assert set(fetcher.fetch_many(["p1"])) == {"p1"}
    assert HTTPListing(base + "/all", ca_file=ca_file).page(None).ids == ["p1"]


def test_another_authority_is_not_trusted(private, clients):
    source, url, _ = private

    with pytest.raises(FetchError, match="certificate verify failed") as caught:
        HTTPFetcher(url, ca_file=clients[0]).fetch("p1")

    assert caught.value.status is None
    assert source.asked == []


def test_the_name_in_the_certificate_is_still_verified(private, look_up):
    source, url, ca_file = private
    look_up["other.example"] = look_up["products.example"]

    with pytest.raises(FetchError, match="certificate verify failed"):
        HTTPFetcher(url.replace("products", "other"), ca_file=ca_file).fetch("p1")

    assert source.asked == []


def asking_for_a_certificate(context, client_ca):
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(client_ca)
    return context


@pytest.fixture
def mutual(authority, clients, look_up):
    """A source that wants a client's certificate: it, its URL, the authority's file."""
    ca_file, server = authority
    context = asking_for_a_certificate(server("products.example"), clients[0])
    with secure(context, look_up) as (source, url):
        yield source, url, ca_file


@pytest.mark.parametrize("files", ["one", "two"])
def test_a_client_s_certificate_is_shown(mutual, clients, tmp_path, files):
    _, url, ca_file = mutual
    chain, key = clients[1]("cache.example")
    both, (cert, private_key) = tmp_path / "both.pem", (tmp_path / "c.pem", tmp_path / "k.pem")
    both.write_bytes(chain + pem_of_key(key))
    cert.write_bytes(chain)
    private_key.write_bytes(pem_of_key(key))

    fetcher = HTTPFetcher(
        url, ca_file=ca_file, client_cert=both if files == "one" else (cert, str(private_key))
    )

    assert fetcher.fetch("p1").value == {"id": "p1"}


def test_without_its_certificate_a_client_is_refused_and_nothing_is_decided(mutual):
    source, url, ca_file = mutual

    with pytest.raises(FetchError) as caught:
        HTTPFetcher(url, ca_file=ca_file).fetch("p1")

    assert caught.value.status is None
    assert source.asked == []


def test_certificates_that_have_changed_are_read_again(mutual, clients, tmp_path):
    """Those of many platforms last for hours."""
    _, url, ca_file = mutual
    mine = tmp_path / "mine.pem"
    unknown = ec.generate_private_key(ec.SECP256R1())
    mine.write_bytes(
        certificate(unknown, host="unknown.example").public_bytes(PEM) + pem_of_key(unknown)
    )
    fetcher = HTTPFetcher(url, ca_file=ca_file, client_cert=mine)
    with pytest.raises(FetchError):
        fetcher.fetch("p1")

    chain, key = clients[1]("cache.example")
    mine.write_bytes(chain)  # something is writing it
    with pytest.raises(FetchError, match=r"mine\.pem' can't be used") as caught:
        fetcher.fetch("p1")
    assert caught.value.status is None

    mine.write_bytes(chain + pem_of_key(key))
    assert fetcher.fetch("p1").value == {"id": "p1"}

    mine.unlink()
    assert fetcher.fetch("p1").value == {"id": "p1"}  # on the connection that is kept


def test_a_file_that_is_gone_is_an_outage_that_names_it(private, tmp_path):
    _, url, ca_file = private
    copy = tmp_path / "ca.pem"
    copy.write_bytes(ca_file.read_bytes())
    fetcher = HTTPFetcher(url, ca_file=copy)
    copy.unlink()

    with pytest.raises(FetchError, match=r"ca\.pem' can't be used: .*No such file") as caught:
        fetcher.fetch("p1")

    assert caught.value.status is None


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_a_password(clients, tmp_path):
    chain, key = clients[1]("cache.example")
    path = tmp_path / "mine.pem"
    path.write_bytes(chain + pem_of_key(key, serialization.BestAvailableEncryption(b"x")))

    with pytest.raises(ConfigurationError, match="its key is encrypted"):
        HTTPFetcher("https://products.example/{id}", client_cert=path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, "ca_file='/nowhere/ca.pem' can't be used: .*No such file"),
        ({"ca_file": ""}, "ca_file= must be a file's path"),
        ({"ca_file": False}, "ca_file= must be a file's path"),
        ({"client_cert": "/nowhere/c.pem"}, "client_cert='/nowhere/c.pem' can't be used"),
        ({"client_cert": ("/nowhere/c", "/nowhere/k")}, "client_cert='/nowhere/c, /nowhere/k'"),
        ({"client_cert": ("a", "b", "c")}, "client_cert= must be one file or a pair of files"),
        ({"client_cert": ("a", None)}, "client_cert= must be a file's path"),
        ({"client_cert": 7}, "client_cert= must be a file's path"),
        ({"client_cert": ()}, "client_cert= must be one file or a pair of files"),
    ],
)
def test_files_that_can_not_be_used_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        HTTPFetcher("https://products.example/{id}", **settings)


def test_certificates_for_http_are_refused(authority):
    with pytest.raises(ConfigurationError, match=r"are for https, and http://products\.example is"):
        HTTPFetcher("http://products.example/{id}", ca_file=authority[0])


@pytest.mark.parametrize("setting", ["ca_file", "client_cert", "proxy"])
def test_a_pool_has_certificates_and_a_proxy_of_its_own(authority, tmp_path, clients, setting):
    chain, key = clients[1]("cache.example")
    mine = tmp_path / "mine.pem"
    mine.write_bytes(chain + pem_of_key(key))
    value = {"ca_file": authority[0], "client_cert": mine, "proxy": "http://proxy:3128"}[setting]
    with (
        urllib3.PoolManager() as pool,
        pytest.raises(ConfigurationError, match="pool= has certificates and a proxy of its own"),
    ):
        HTTPFetcher("https://products.example/{id}", pool=pool, **{setting: value})


# Proxies


@pytest.fixture
def proxy():
    with forward_proxy() as running:
        yield running


USER = "me@here:p:s/ü"
QUOTED = "me%40here:p%3As%2F%C3%BC"


@pytest.mark.parametrize("user", [None, USER])
def test_http_goes_through_a_proxy(source, proxy, user):
    answering(source, Answer(200, b'{"id": "p1"}'))
    proxy.user = user
    url = proxy.url.replace("//", f"//{QUOTED}@") if user else proxy.url + "/"
    fetcher = HTTPFetcher(source.url + "/v1/{id}?a=b", proxy=url)

    for _ in range(2):
        assert fetcher.fetch("p1").value == {"id": "p1"}

    assert [(method, path) for method, path, _ in proxy.asked] == [
        ("GET", source.url + "/v1/p1?a=b")
    ] * 2
    assert [asked.path for asked in source.asked] == ["/v1/p1?a=b"] * 2
    assert not {"Proxy-Authorization"} & source.asked[0].headers.keys()


@pytest.mark.parametrize("user", [None, USER])
def test_tls_goes_through_a_tunnel_to_the_source_itself(private, proxy, user, look_up):
    source, url, ca_file = private
    port = look_up.pop("products.example")  # only the proxy can reach it
    proxy.user = user
    at = proxy.url.replace("//", f"//{QUOTED}@") if user else proxy.url
    fetcher = HTTPFetcher(url, ca_file=ca_file, proxy=at, headers={"X-Token": "mine"})

    for _ in range(2):
        assert fetcher.fetch("p1").value == {"id": "p1"}

    ((method, target, headers),) = proxy.asked  # one tunnel, which is kept
    assert (method, target) == ("CONNECT", f"products.example:{port}")
    assert "X-Token" not in headers
    assert [asked.headers["X-Token"] for asked in source.asked] == ["mine"] * 2
    assert "Proxy-Authorization" not in source.asked[0].headers


def test_a_user_of_a_proxy_needs_no_password(source, proxy):
    answering(source, Answer(200, b'{"id": "p1"}'))
    proxy.user = "me:"

    fetcher = HTTPFetcher(source.url + "/{id}", proxy=proxy.url.replace("//", "//me@"))

    assert fetcher.fetch("p1").value == {"id": "p1"}


def test_a_proxy_can_have_an_ipv6_address(source, proxy, look_up):
    answering(source, Answer(200, b'{"id": "p1"}'))
    look_up["::1"] = proxy.server_port
    fetcher = HTTPFetcher(source.url + "/{id}", proxy="http://[::1]:3128")

    assert fetcher.fetch("p1").value == {"id": "p1"}
    proxy.user = "me:secret"
    with pytest.raises(FetchError, match=r"the proxy \[::1\]:3128 wants other credentials"):
        fetcher.fetch("p1")


def test_a_tunnel_to_an_ipv6_address_names_it_in_brackets(proxy):
    proxy.status = 403
    with pytest.raises(FetchError):
        HTTPFetcher("https://[::1]/{id}", proxy=proxy.url).fetch("p1")

    assert proxy.asked[0][1] == "[::1]:443"


def test_the_certificate_of_the_source_is_verified_through_a_tunnel(private, proxy):
    source, url, _ = private

    with pytest.raises(FetchError, match="certificate verify failed"):
        HTTPFetcher(url, proxy=proxy.url).fetch("p1")

    assert source.asked == []


def test_bulk_gets_listings_and_token_requests_go_through_a_proxy(source, proxy):
    source.entities["p1"] = {"id": "p1"}
    source.answer = lambda id: Answer(200, b'["p1"]') if id == "all" else None
    issue = Answer(200, b'{"access_token": "t", "token_type": "Bearer"}')
    with Server(lambda asked: issue) as endpoint:
        auth = ClientCredentials(
            endpoint.url + "/token", client_id="a", client_secret="b", proxy=proxy.url
        )
        fetcher = HTTPFetcher(
            source.url + "/{id}", bulk_url=source.url + "/many", proxy=proxy.url, auth=auth
        )

        assert HTTPListing(source.url + "/all", proxy=proxy.url).page(None).ids == ["p1"]
        assert set(fetcher.fetch_many(["p1"])) == {"p1"}

    assert [(method, path) for method, path, _ in proxy.asked] == [
        ("GET", source.url + "/all"),
        ("POST", endpoint.url + "/token"),
        ("GET", source.url + "/many?id=p1"),
    ]
    assert source.asked[-1].headers["Authorization"] == "Bearer t"


@pytest.mark.parametrize("status", [400, 403, 404, 407, 410, 502, 503])
def test_a_proxy_that_opens_no_tunnel_is_an_outage_and_never_a_deletion(private, proxy, status):
    source, url, ca_file = private
    proxy.status = status

    with pytest.raises(FetchError) as caught:
        HTTPFetcher(url, ca_file=ca_file, proxy=proxy.url).fetch("p1")

    assert f"the proxy 127.0.0.1:{proxy.server_port}: it answered {status} to CONNECT" in str(
        caught.value
    )
    assert caught.value.status is None
    assert source.asked == []


def test_a_proxy_of_http_that_wants_other_credentials_is_an_outage(source, proxy):
    proxy.user = "me:secret"
    url = proxy.url.replace("//", "//me:wrong-password@")

    with pytest.raises(FetchError, match="wants other credentials: it answered 407") as caught:
        HTTPFetcher(source.url + "/{id}", proxy=url).fetch("p1")

    assert caught.value.status is None
    assert "wrong-password" not in str(caught.value)
    assert source.asked == []


def test_a_407_of_the_source_itself_is_its_own(source, private, proxy):
    secured, url, ca_file = private
    for each in (source, secured):
        answering(each, Answer(407))

    for fetcher in (
        HTTPFetcher(source.url + "/{id}"),
        HTTPFetcher(url, ca_file=ca_file, proxy=proxy.url),
    ):
        with pytest.raises(FetchError, match="answered 407") as caught:
            fetcher.fetch("p1")
        assert caught.value.status == 407


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_down_is_named(free_port, scheme):
    url = f"{scheme}://products.example/{{id}}"

    with pytest.raises(FetchError, match=rf"the proxy 127\.0\.0\.1:{free_port}: .*refused"):
        HTTPFetcher(url, proxy=f"http://me:secret@127.0.0.1:{free_port}").fetch("p1")


@pytest.mark.parametrize(
    ("established", "message"),
    [
        (b"", "without response"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the response is not HTTP"),
        (b"HTTP/1.1 200 x\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\n\r\nHTTP/1.0 204 x\r\n\r\n", ""),
    ],
)
def test_what_a_proxy_answers_to_connect(private, proxy, established, message):
    _, url, ca_file = private
    proxy.established = established
    fetcher = HTTPFetcher(url, ca_file=ca_file, proxy=proxy.url, timeout=2.0)

    if message:
        with pytest.raises(FetchError, match=f"the proxy .*: .*{message}|timed out") as caught:
            fetcher.fetch("p1")
        assert caught.value.status is None
    else:
        assert fetcher.fetch("p1").value == {"id": "p1"}


def trickling(connection):
    connection.recv(65536)
    while True:
        connection.sendall(b"H")
        time.sleep(0.05)  # simulates a slow proxy


def test_a_proxy_that_trickles_is_given_up_at_the_timeout():
    with talking(trickling) as port:
        fetcher = HTTPFetcher(
            "https://products.example/{id}", proxy=f"http://127.0.0.1:{port}", timeout=0.5
        )
        started = time.monotonic()

        with pytest.raises(FetchError, match=r"the proxy .*: timed out"):
            fetcher.fetch("p1")

    assert time.monotonic() - started < 10  # without a limit for the whole, it would never end


def test_the_environment_is_not_read(source, monkeypatch):
    source.entities["p1"] = {"id": "p1"}
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert HTTPFetcher(source.url + "/{id}").fetch("p1").value == {"id": "p1"}


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@proxy.example.com",
        "socks5://me:secret@proxy.example.com",
        "proxy.example.com:3128",
        "http://",
        "http://me:secret@proxy.example.com/path",
        "http://proxy.example.com?secret",
        "http://me:secret@[half",
        "",
        7,
    ],
)
def test_something_else_than_an_http_proxy_is_refused_without_quoting_it(url):
    with pytest.raises(ConfigurationError, match="proxy= must be the URL of an HTTP proxy") as e:
        HTTPFetcher("https://products.example/{id}", proxy=url)

    assert "secret" not in str(e.value)


def test_a_repr_shows_no_password_of_a_proxy():
    fetcher = HTTPFetcher("https://products.example/{id}", proxy="http://me:secret@proxy.example")

    assert "secret" not in repr(fetcher)
    assert "secret" not in repr(fetcher._single.transport._proxy)
    assert "secret" not in repr(fetcher._single)
