"""
What proof, chaos, benchmarks and tests share.

    commands.py    what their commands have in common
    docs.py        writes figures into the docs
    emulators.py   AWS on loopback
    figures.py     a number and its goal
    habits.py      finds habits of language
    judge.py       compares a cache with its source
    parallel.py    work in several processes
    plots.py       the style of our plots
    processes.py   child processes
    progress.py    a line that shows how far a command is
    source.py      a service that owns entities, and savers that change them
    tables.py      lists the tables of the docs that are older than their code
    under_load.py  runs the tests again and again, beside busy loops
    wire.py        HTTP servers and proxies that fail on demand
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
