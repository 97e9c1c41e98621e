"""
Run the tests on each Python that the library supports and this machine has: `make test-all`.

    nox -s test-3.12 -- tests/unit/test_ids.py    some tests on one Python, without coverage
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")

# nox looks for `python3.x` on the PATH. pyenv's shims there answer only for versions that are
# switched on; the interpreters themselves always do.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
os.environ["PATH"] = os.pathsep.join(
    [*map(str, sorted(PYENV.glob("versions/3.*/bin"), reverse=True)), os.environ["PATH"]]
)


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def test(session: nox.Session) -> None:
    """Run all tests with branch coverage, or the tests named after `--`."""
    extras = ",".join(PROJECT["project"]["optional-dependencies"])
    session.install(*nox.project.dependency_groups(PROJECT, "test"), "--editable", f".[{extras}]")
    options = session.posargs or ["--cov", "--cov-report=term"]
    session.run(
        *("python", "-m", "pytest", "-rs", "--numprocesses", "4", "--dist", "worksteal"),
        *options,
        env={"COVERAGE_FILE": f".coverage.{session.python}"},
    )
