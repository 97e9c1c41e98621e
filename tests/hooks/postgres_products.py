"""A table of products beside a `PostgresSink`."""

from __future__ import annotations


def upsert(connection, id, value):
    connection.execute(
        "INSERT INTO products (id, name, n) VALUES (%s, %s, %s) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, n = excluded.n",
        (id, value["name"], value["n"]),
    )


def delete(connection, id):
    connection.execute("DELETE FROM products WHERE id = %s", (id,))


def read(connection, id):
    row = connection.execute("SELECT name, n FROM products WHERE id = %s", (id,)).fetchone()
    return row and {"name": row[0], "n": row[1]}
