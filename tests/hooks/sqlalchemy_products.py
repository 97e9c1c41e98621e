"""A table of products beside an `SQLAlchemySink`."""

from __future__ import annotations

from sqlalchemy import text


def upsert(connection, id, value):
    values = {"id": id, "name": value["name"], "n": value["n"]}
    update = text("UPDATE products SET name = :name, n = :n WHERE id = :id")
    if connection.execute(update, values).rowcount == 0:
        connection.execute(text("INSERT INTO products VALUES (:id, :name, :n)"), values)


def delete(connection, id):
    connection.execute(text("DELETE FROM products WHERE id = :id"), {"id": id})


def read(connection, id):
    query = text("SELECT name, n FROM products WHERE id = :id")
    row = connection.execute(query, {"id": id}).one_or_none()
    return row and {"name": row.name, "n": row.n}
