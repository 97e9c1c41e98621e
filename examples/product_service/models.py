"""Products, as clients send and get them."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, HttpUrl

Name = Annotated[str, Field(min_length=1, max_length=200)]


class NewProduct(BaseModel):
    """What a client says of a product that is to be made. Anything more is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    imageURL: HttpUrl  # noqa: N815  # the names of the wire


class Product(BaseModel):
    """
    A product.

    Attributes:
        id: A UUID, made by the service: an id has to be known before the save, so that it can be
            broadcast.
        name: 1 to 200 characters.
        imageURL: An http(s) URL.
        lastModified: When it was last saved, in UTC, always of the same width. It grows with every
            save: the version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: Name
    imageURL: HttpUrl  # noqa: N815
    lastModified: str  # noqa: N815
