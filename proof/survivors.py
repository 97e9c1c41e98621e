"""The mutants that live, and why: for each reason the function, its line, and what the mutant makes of that."""

from __future__ import annotations

SURVIVORS: dict[str, list[tuple[str, str, str]]] = {}
