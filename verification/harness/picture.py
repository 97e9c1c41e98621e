"""
Draw the library's modules and their imports from the code: `make picture`.

    python -m verification.harness.picture

Writes docs/explanation/architecture.svg. A box is a room; a line in it is a module, with the
modules of the same room that it imports. An arrow leads from a room to one that it imports, unless
other arrows lead there, too.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import networkx as nx

from verification.harness.rooms import (
    PACKAGE,
    edges,
    imports_between_rooms,
    imports_of,
    modules_by_room,
)

if TYPE_CHECKING:
    import grimp

PICTURE = Path(__file__).parents[2] / "docs" / "explanation" / "architecture.svg"

# Where each room is: its row, and its left and right edge in pixels.
PLACES = {
    "pytest_plugin": (0, 20, 320),
    "__main__": (0, 370, 980),
    "testing": (1, 20, 320),
    "_cli": (1, 370, 980),
    "_worker": (2, 370, 980),
    "_operations": (3, 370, 655),
    "integrations": (3, 695, 980),
    "_consumer": (4, 370, 980),
    "_producer": (5, 20, 320),
    "_source": (5, 370, 655),
    "sinks": (5, 695, 980),
    "values": (6, 20, 980),
}
NOTES = {
    "pytest_plugin": "the test kit as fixtures",
    "__main__": "starts the command",
    "_cli": "the command change-events",
    "_worker": "the public Worker",
    "testing": "the test kit",
    "_operations": "look, check, repair",
    "integrations": "other ways to run a consumer",
    "_consumer": "receive an id, look, store",
    "_producer": "broadcast, then save",
    "_source": "GET entities",
    "sinks": "keep caches",
    "values": "modules that all rooms share",
}
WIDTH = 1000
GAP = 46
"""Between two rows."""

LINE = 19
CHARACTER = 7.3
"""The height of a line, and the width of a character in it: a little more than in most fonts."""

INK, FAINT, EDGE, PAPER = "#1f2328", "#59636e", "#8c959f", "#ffffff"
FILLS = {
    "_producer": "#fff4e5",
    "_consumer": "#e8f3ff",
    "_source": "#eaf7ee",
    "sinks": "#eaf7ee",
    "__main__": "#f3effc",
    "_cli": "#f3effc",
    "_worker": "#e8f3ff",
    "_operations": "#f3effc",
    "integrations": "#f3effc",
    "testing": "#f6f8fa",
    "pytest_plugin": "#f6f8fa",
    "values": "#fdf6d8",
}
MONOSPACE = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
SANS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


@dataclass(slots=True)
class Box:
    """A room's box: its place, and its lines: an indent, a module, what the module imports."""

    left: int
    right: int
    top: int = 0
    lines: list[tuple[int, str, str]] = field(default_factory=list)

    @property
    def bottom(self) -> int:
        """Where the box ends."""
        return self.top + 34 + LINE * len(self.lines) + (6 if self.lines else 0)


def draw(graph: grimp.ImportGraph) -> str:
    """Return the picture of a graph of imports, as SVG."""
    boxes = _boxes(graph)
    height = max(box.bottom for box in boxes.values()) + 20
    svg = ET.Element(
        "svg",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
    )
    ET.SubElement(svg, "title").text = f"The modules of {PACKAGE} and their imports"
    ET.SubElement(svg, "rect", width=str(WIDTH), height=str(height), fill=PAPER)
    for one, other in sorted(nx.transitive_reduction(imports_between_rooms(graph)).edges):
        _arrow(svg, boxes[one], boxes[other])
    for room, box in boxes.items():
        _box(svg, room, box)
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"


def _boxes(graph: grimp.ImportGraph) -> dict[str, Box]:
    """Place the rooms, row by row; each row is as high as its highest room."""
    rooms = modules_by_room(graph)
    boxes = {
        room: Box(left, right, lines=_lines(graph, rooms[room], right - left))
        for room, (_, left, right) in PLACES.items()
    }
    top = 20
    for row in range(max(row for row, _, _ in PLACES.values()) + 1):
        here = [boxes[room] for room, place in PLACES.items() if place[0] == row]
        for box in here:
            box.top = top
        top = max(box.bottom for box in here) + GAP
    return boxes


def _lines(graph: grimp.ImportGraph, modules: list[str], width: int) -> list[tuple[int, str, str]]:
    """Return a room's lines: importers first, and none for a package that is empty."""
    if len(modules) == 1:  # the room is the module
        return []
    inside: nx.DiGraph[str] = nx.DiGraph()
    inside.add_nodes_from(modules)
    inside.add_edges_from(edge for edge in edges(graph) if set(edge) <= set(modules))
    packages = set(modules) & {module.rpartition(".")[0] for module in modules}
    outermost = min(packages, key=len, default=PACKAGE)
    names = {module: module.removeprefix(f"{outermost}.") for module in modules}
    names |= dict.fromkeys(packages & {outermost}, "__init__")
    lines = []
    for module in nx.lexicographical_topological_sort(inside):
        name = names[module]
        if name == "__init__" and not inside.degree(module):
            continue
        imported = ", ".join(sorted(names[each] for each in inside.successors(module)))
        indent = len(f"{name} → ")
        first, *more = textwrap.wrap(imported, int((width - 28) / CHARACTER) - indent) or [""]
        lines.append((0, name, f"\u00a0→ {first}" if first else ""))
        lines += [(indent, "", each) for each in more]
    return lines


def _box(svg: ET.Element, room: str, box: Box) -> None:
    ET.SubElement(
        svg,
        "rect",
        x=str(box.left),
        y=str(box.top),
        width=str(box.right - box.left),
        height=str(box.bottom - box.top),
        rx="6",
        fill=FILLS[room],
        stroke=EDGE,
    )
    title = {"x": str(box.left + 14), "y": str(box.top + 22), "fill": INK}
    title |= {"font-family": SANS, "font-size": "15", "font-weight": "600"}
    text = ET.SubElement(svg, "text", title)
    text.text = f"{room} "
    note = {"fill": FAINT, "font-size": "13", "font-weight": "400"}
    ET.SubElement(text, "tspan", note).text = f" {NOTES[room]}"
    for number, (indent, name, rest) in enumerate(box.lines):
        x = box.left + 14 + round(indent * CHARACTER)
        style = {"x": str(x), "y": str(box.top + 44 + LINE * number), "fill": INK}
        style |= {"font-family": MONOSPACE, "font-size": "12"}
        text = ET.SubElement(svg, "text", style)
        text.text = name
        ET.SubElement(text, "tspan", fill=FAINT).text = rest


def _arrow(svg: ET.Element, one: Box, other: Box) -> None:
    """Draw an arrow from the bottom of a box to the top of a lower one: straight, if it can be."""
    top, bottom = one.bottom, other.top - 7
    left, right = max(one.left, other.left), min(one.right, other.right)
    if left < right:
        start = end = (left + right) // 2
        path = f"M{start} {top}V{bottom}"
    else:
        start, end = (
            (one.right - 24, other.left + 24)
            if one.left < other.left
            else (one.left + 24, other.right - 24)
        )
        path = f"M{start} {top}V{bottom - GAP // 2 + 7}H{end}V{bottom}"
    ET.SubElement(svg, "path", {"d": path, "fill": "none", "stroke": EDGE, "stroke-width": "1.5"})
    head = f"M{end - 5} {bottom - 1}L{end} {other.top - 1}L{end + 5} {bottom - 1}Z"
    ET.SubElement(svg, "path", d=head, fill=EDGE)


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw(imports_of(PACKAGE)), encoding="utf-8")
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    main()
