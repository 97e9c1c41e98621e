"""The product service as a process: `python -m product_service --help`."""

from __future__ import annotations

import argparse
import logging
import sys

from product_service import demo_faults
from product_service.app import create_app
from product_service.repository import ProductRepository
from product_service.serving import add_serving_arguments, serve
from product_service.sql_repository import SQLProducts


def main() -> int:
    """Run the service; return the exit status."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=arguments.log_level.upper())
    faults = {"before_commit": demo_faults.before_commit} if arguments.demo_faults else {}
    products = (
        SQLProducts(arguments.database)
        if arguments.database
        else ProductRepository(arguments.table, **faults)
    )
    if arguments.create_table:
        products.create_table()
    app = create_app(products)
    if arguments.demo_faults:
        app.add_middleware(demo_faults.DemoFaults)
    return (
        0
        if serve(app, host=arguments.host, port=arguments.port, log_level=arguments.log_level)
        else 1
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m product_service",
        description="The service that owns products: keeps them in DynamoDB or PostgreSQL, and "
        "broadcasts a product's id before every save.",
        epilog="PRODUCT_EVENTS_TOPIC_ARN names the SNS topic to broadcast to; unset, nothing is "
        "broadcast. boto3 finds credentials, Region and endpoint (AWS_ACCESS_KEY_ID, "
        "AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, ...).",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--table", default="products", help="the DynamoDB table (default: %(default)s)"
    )
    place.add_argument(
        "--database",
        metavar="URL",
        help="keep the products in PostgreSQL instead: a URL of SQLAlchemy, such as "
        "postgresql+psycopg://localhost/shop",
    )
    parser.add_argument(
        "--create-table", action="store_true", help="make the table if it does not exist"
    )
    parser.add_argument(
        "--demo-faults",
        action="store_true",
        help=f"let requests make their saves fail or slow, by {demo_faults.HEADER} (DynamoDB only)",
    )
    add_serving_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
