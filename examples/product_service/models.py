"""The products that clients send and get."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, HttpUrl

Name = Annotated[str, Field(min_length=1, max_length=200)]


class NewProduct(BaseModel):
    """What a client sends to make a product. Further fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    imageURL: HttpUrl  # noqa: N815  # its name on the wire


class Product(BaseModel):
    """
    A product.

    Attributes:
        id: A UUID that the service makes; in PostgreSQL a number that the database makes.
        name: 1 to 200 characters.
        imageURL: An http(s) URL.
        lastModified: When it was last saved, in UTC, always of the same width. It grows with every
            save, so it is the version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: Name
    imageURL: HttpUrl  # noqa: N815
    lastModified: str  # noqa: N815
