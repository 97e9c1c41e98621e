"""
The rooms of the library, and which of them can import which.

A room is a package, or a single module. `LAYERS` has the rooms from the top down: a room imports
from lower layers only, and not from other rooms of its own layer. Imports that only a type checker
sees count, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grimp
import networkx as nx

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "change_events"

VALUES = (
    "_aws",
    "_codec",
    "_event",
    "_extras",
    "_from_async",
    "_ids",
    "_meter",
    "_text",
    "_trace_context",
    "exceptions",
    "metrics",
    "traces",
    "typing",
)
"""Modules that both sides share. They can import one another."""

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__", "pytest_plugin"),
    ("_cli", "testing"),
    ("_worker",),
    ("_operations", "integrations"),
    ("_consumer",),
    ("_producer", "_source", "sinks"),
    VALUES,
)

APART = ("_consumer", "_producer")
"""They never import each other, though the producer's layer is below the consumer's."""

ALTERNATIVES = ("integrations", "sinks")
"""Rooms whose modules never import each other. All can import the package's own `__init__`."""


def imports_of(package: str) -> grimp.ImportGraph:
    """Return the graph of a package's imports, without running its code."""
    return grimp.build_graph(package, cache_dir=None)


def broken_rules(graph: grimp.ImportGraph) -> list[str]:
    """Return a line for each import of the library that its rooms do not allow."""
    layers = [grimp.Layer(*rooms, independent=rooms is not VALUES) for rooms in LAYERS]
    found = graph.find_illegal_dependencies_for_layers(layers, {PACKAGE})
    found |= graph.find_illegal_dependencies_for_layers([grimp.Layer(*APART)], {PACKAGE})
    for room in ALTERNATIVES:
        names = {name.rpartition(".")[2] for name in graph.find_children(f"{PACKAGE}.{room}")}
        modules = {name for name in names if not name.startswith("_")}  # the others are shared
        found |= graph.find_illegal_dependencies_for_layers(
            [grimp.Layer(*modules)], {f"{PACKAGE}.{room}"}
        )
    return sorted(
        f"{each.importer} imports {each.imported}: {' -> '.join(_chain(route))}"
        for each in found
        for route in each.routes
    )


def _chain(route: grimp.Route) -> Iterator[str]:
    yield min(route.heads)
    yield from route.middle
    yield min(route.tails)


def room_of(module: str) -> str:
    """Return the room of a module of the library; of the package itself, an empty name."""
    inside = module.removeprefix(PACKAGE).removeprefix(".")
    return "values" if inside in VALUES else inside.partition(".")[0]


def modules_by_room(graph: grimp.ImportGraph) -> dict[str, list[str]]:
    """Return the modules of each room, with their full names."""
    rooms: dict[str, list[str]] = {}
    for module in sorted(graph.modules):
        if room := room_of(module):
            rooms.setdefault(room, []).append(module)
    return rooms


def imports_between_rooms(graph: grimp.ImportGraph) -> nx.DiGraph[str]:
    """Return the rooms, with an edge from each to those that it imports."""
    rooms: nx.DiGraph[str] = nx.DiGraph()
    rooms.add_nodes_from(modules_by_room(graph))
    for importer, imported in edges(graph):
        one, other = room_of(importer), room_of(imported)
        if one and other and one != other:
            rooms.add_edge(one, other)
    return rooms


def edges(graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    """Return the pairs of importing and imported module."""
    return sorted(
        (importer, imported)
        for importer in graph.modules
        for imported in graph.find_modules_directly_imported_by(importer)
    )


def circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Return the sets of modules that import each other, directly or not."""
    found = nx.strongly_connected_components(nx.DiGraph(edges(graph)))
    return sorted(sorted(modules) for modules in found if len(modules) > 1)
