"""Checked by mypy and pyright, never run: listings fit their seam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import assert_type

from change_events import Found, HTTPListing, Listing, Page


class Products:
    def page(self, cursor: str | None, /) -> Page[dict[str, Any]]:
        found = {"p1": Found({"id": "p1"})}
        return Page(list(found), found, cursor=None, total=1)


def listings() -> None:
    listing = HTTPListing(
        "https://products.example.com/products",
        entities=True,
        items="data.products",
        id_of=lambda entity: entity["sku"],
        next="links.next",
        total="X-Total-Count",
        headers={"Authorization": "Bearer token"},
    )
    seams: list[Listing[dict[str, Any]]] = [listing, Products()]
    page = seams[0].page(None)
    assert_type(listing.url, str)
    assert_type(page, Page[dict[str, Any]])
    assert_type(page.ids, Sequence[str])
    assert_type(page.found, Mapping[str, Found[dict[str, Any]]] | None)
    assert_type(page.cursor, str | None)
    assert_type(page.total, int | None)
    HTTPListing("https://products.example.com/", id_of=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no path
    HTTPListing("https://products.example.com/", next=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no path
