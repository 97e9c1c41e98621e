"""The table of the lines that the provers run."""

from __future__ import annotations

import pytest
from coverage import Coverage, CoverageData

from verification.proof import covered


@pytest.fixture
def package(tmp_path):
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "both.py").write_text("a = 1\n# a comment\nb = 2\nc = 3\nd = 4\n")
    (package / "inner" / "one.py").write_text("a = 1\nb = 2\n")
    (package / "neither.py").write_text("a = 1\nb = 2\n")
    (package / "empty.py").write_text("")
    return package


def run_of(file, **arcs):
    """Return what a run has measured that went along these arcs, by file."""
    data = CoverageData(file)
    data.add_arcs(arcs)
    data.write()
    coverage = Coverage(file, branch=True)
    coverage.load()
    return coverage


def test_a_row_says_how_many_lines_each_prover_runs_and_the_last_one_counts_all_modules(
    package, tmp_path, capsys
):
    both, one = str(package / "both.py"), str(package / "inner" / "one.py")
    walk = run_of(tmp_path / "walk", **{both: [(-1, 1), (1, 3), (3, -1)]})
    worlds = run_of(tmp_path / "worlds", **{both: [(-1, 1), (1, 5), (5, -1)], one: [(-1, 1)]})

    covered._print({"walk": walk, "worlds": worlds}, package)

    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["module", "lines", "walk", "worlds", "either"],
        ["both.py", "4", "50%", "50%", "75%"],
        ["inner/one.py", "2", "0%", "50%", "50%"],
        ["all", "modules,", "the", "others", "too", "8", "25%", "38%", "50%"],
    ]
