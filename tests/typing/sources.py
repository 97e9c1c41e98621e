"""How a user's code reads sources, as a type checker sees it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
from typing_extensions import assert_type

from change_events import (
    Auth,
    ClientCredentials,
    Fetcher,
    Found,
    Gone,
    HTTPFetcher,
    HTTPListing,
    SigV4,
    Unchanged,
)

URL = "https://products.example.com/products/{id}"


class TokenInFile:
    def authorize(
        self, method: str, url: str, headers: Mapping[str, str], /, *, timeout: float
    ) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {Path('/run/token').read_text()}"}

    def renew(self, refused: Mapping[str, str], /) -> bool:
        return False


def sources() -> None:
    token = ClientCredentials(
        "https://login.example.com/token",
        client_id="product-cache",
        client_secret="secret",
        scope="products:read",
        parameters={"audience": "https://products.example.com"},
        secret_in_body=True,
        ca_file=Path("ca.pem"),
        client_cert=("cert.pem", Path("key.pem")),
        proxy="http://proxy.example.com:3128",
    )
    signed = SigV4("execute-api", "eu-west-1", boto3.Session())
    auths: list[Auth] = [token, signed, TokenInFile()]
    fetcher = HTTPFetcher(
        URL,
        auth=auths[0],
        entity="data.product",
        media_types=["text/plain"],
        ca_file="ca.pem",
        client_cert="both.pem",
        proxy="http://proxy.example.com:3128",
    )
    seams: list[Fetcher[dict[str, Any]]] = [fetcher]
    assert_type(seams[0].fetch("p1"), Found[dict[str, Any]] | Unchanged | Gone)
    assert_type(token.authorize("GET", URL, {}, timeout=1.0), Mapping[str, str])
    assert_type(signed.renew({}), bool)
    HTTPListing(URL, auth=signed, entity=lambda item: item["product"], media_types=("a/b",))
    HTTPListing(URL, fetcher=fetcher)
    HTTPListing(URL, fetcher=signed)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no fetcher
    HTTPFetcher(URL, auth=("user", "password"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not an Auth
    HTTPFetcher(URL, entity=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a path
