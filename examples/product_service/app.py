"""
The product service's HTTP side.

It checks what a client sends before it calls the repository, so a refused request broadcasts
nothing.
"""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Annotated, Any, Protocol

import jsonpatch
from fastapi import (
    APIRouter,
    Body,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jsonpointer import JsonPointerException
from pydantic import Field, ValidationError

from change_events import PublishError
from product_service.demo_faults import DemoFaultError
from product_service.models import NewProduct, Product
from product_service.repository import (
    MOST_AT_ONCE,
    BusyError,
    ConflictError,
    DeletedProductError,
    UnknownProductError,
)

JSON_PATCH = "application/json-patch+json"

ANSWERS: dict[type[Exception], tuple[HTTPStatus, str]] = {
    UnknownProductError: (HTTPStatus.NOT_FOUND, "there is no such product"),
    DeletedProductError: (HTTPStatus.GONE, "the product has been deleted"),
    ConflictError: (
        HTTPStatus.CONFLICT,
        "the product has been changed since; read it and try again",
    ),
    PublishError: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the change could not be announced, so it was not saved; try again",
    ),
    BusyError: (HTTPStatus.SERVICE_UNAVAILABLE, "too much is being read; try again"),
    DemoFaultError: (HTTPStatus.INTERNAL_SERVER_ERROR, "the save failed, as the request asked for"),
}

router = APIRouter(prefix="/products")


class Repository(Protocol):
    """Where the products are: `ProductRepository`, or `SQLProductRepository`."""

    def get(self, id: str) -> Product: ...  # noqa: D102
    def get_many(self, ids: list[str]) -> list[Product]: ...  # noqa: D102
    def page(self, after: str | None) -> tuple[list[Product], str | None]: ...  # noqa: D102
    def add(self, new: NewProduct) -> Product: ...  # noqa: D102
    def update(self, product: Product) -> Product: ...  # noqa: D102
    def delete(self, product: Product) -> Product: ...  # noqa: D102


class Products(Protocol):
    """What opens a repository for each request, and commits at the end if that is needed."""

    def open(self) -> AbstractContextManager[Repository]: ...  # noqa: D102


def create_app(products: Products) -> FastAPI:
    """Make the service's application."""
    app = FastAPI(title="Products")
    app.state.products = products
    app.include_router(router)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    for error in ANSWERS:
        app.add_exception_handler(error, _answer_error)
    return app


def _repository(request: Request) -> Iterator[Repository]:
    products: Products = request.app.state.products
    with products.open() as repository:
        yield repository


def _require_json_patch(content_type: Annotated[str, Header()] = "") -> None:
    if content_type.partition(";")[0].strip().lower() != JSON_PATCH:
        raise HTTPException(
            415, f"send a JSON Patch, as {JSON_PATCH}", {"Accept-Patch": JSON_PATCH}
        )


# By default FastAPI sends the answer before such a block ends, also if the commit then fails.
Opened = Annotated[Repository, Depends(_repository, scope="function")]
ProductId = Annotated[str, Path(max_length=512)]
ProductIds = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=512)]] | None, Query(max_length=MOST_AT_ONCE)
]


# Plain functions, not coroutines: boto3 blocks, and FastAPI runs these in threads.
@router.get("")
def list_products(
    request: Request,
    response: Response,
    products: Opened,
    after: str | None = None,
    id: ProductIds = None,
) -> list[Product]:
    """
    List the products, 25 a page; the header `Link` has the URL of the next page.

    With `id`, up to a hundred times: list the latest commits of these products, on one page. Those
    that do not exist are left out.
    """
    if id is not None:
        return products.get_many(id)
    page, cursor = products.page(after)
    if cursor is not None:
        url = request.url_for("list_products").include_query_params(after=cursor)
        response.headers["Link"] = f'<{url}>; rel="next"'
    return page


@router.post("", status_code=201)
def create_product(
    new: NewProduct, request: Request, response: Response, products: Opened
) -> Product:
    """Make a product; the header `Location` has its URL."""
    product = products.add(new)
    response.headers["Location"] = str(request.url_for("get_product", id=product.id))
    return product


@router.get("/{id}", response_model=Product)
def get_product(
    id: ProductId, products: Opened, if_none_match: Annotated[str, Header()] = ""
) -> Response:
    """Read a product's latest commit; 304 if the client already has it."""
    body = products.get(id).model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if etag in {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(body, headers={"ETag": etag}, media_type="application/json")


@router.patch("/{id}", dependencies=[Depends(_require_json_patch)])
def patch_product(
    id: ProductId, patch: Annotated[list[dict[str, Any]], Body()], products: Opened
) -> Product:
    """
    Change a product by a JSON Patch (RFC 6902).

    Answers 409 if somebody else changes the product at the same time, or a `test` fails.
    """
    return products.update(_patched(products.get(id), patch))


@router.delete("/{id}")
def delete_product(id: ProductId, products: Opened) -> Product:
    """Delete a product; answer with its last state. From then on, its GET answers 410."""
    return products.delete(products.get(id))


def _patched(product: Product, patch: list[dict[str, Any]]) -> Product:
    try:
        patched = Product.model_validate(
            jsonpatch.apply_patch(product.model_dump(mode="json"), patch)
        )
    except jsonpatch.JsonPatchTestFailed as error:
        raise HTTPException(409, str(error)) from None
    except (jsonpatch.JsonPatchException, JsonPointerException) as error:
        raise HTTPException(422, f"the patch can't be applied: {error}") from None
    except ValidationError as error:
        raise HTTPException(422, _reasons(error)) from None
    if (patched.id, patched.lastModified) != (product.id, product.lastModified):
        raise HTTPException(422, "id and lastModified are the service's own; they can't be changed")
    return patched


async def _answer_error(_: Request, error: Exception) -> JSONResponse:
    status, detail = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    return JSONResponse({"detail": detail}, status)


async def _answer_invalid(_: Request, error: Exception) -> JSONResponse:
    # Not FastAPI's own handler: it repeats the input, which can have text that can't be sent (a
    # lone surrogate).
    assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for this one
    return JSONResponse({"detail": _reasons(error)}, 422)


def _reasons(error: ValidationError | RequestValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, reason['loc']))}: {reason['msg']}" for reason in error.errors()
    )
