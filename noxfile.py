"""
Run the tests on each Python that the library supports and this machine has: `make test-all`.

    nox -s test-3.12 -- tests/unit/test_ids.py    some tests on one Python, without coverage
    nox -s oldest                                 `make test-oldest`
"""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")

# All that use a dependency, but not all that do so at length.
CORE_TESTS = [
    *("-k", "not TestMachine"),
    "tests/unit",
    "tests/sinks/test_sinks_dynamodb.py",
    "tests/sinks/test_sinks_postgres.py",
    "tests/sinks/test_sinks_redis.py",
    "tests/sinks/test_sinks_redis_cluster.py",
    "tests/sinks/test_sinks_sqlalchemy.py",
    "tests/wire/test_django.py",
    "tests/wire/test_django_commits.py",
    "tests/wire/test_fetcher.py",
    "tests/wire/test_metrics.py",
    "tests/wire/test_publishers.py",
    "tests/wire/test_queue.py",
    "tests/wire/test_signature.py",
    "tests/wire/test_sqlalchemy.py",
    "tests/wire/test_sqlalchemy_commits.py",
]

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


@nox.session(python="3.10", default=False)
def oldest(session: nox.Session) -> None:
    """Run the core tests with the oldest Python and dependencies that the library declares."""
    extras = PROJECT["project"]["optional-dependencies"]
    declared = [*PROJECT["project"]["dependencies"], *chain.from_iterable(extras.values())]
    constraints = Path(session.create_tmp(), "oldest.txt")
    constraints.write_text("\n".join(map(_oldest, declared)), encoding="utf-8")
    session.install(
        *("--constraint", str(constraints)),
        *nox.project.dependency_groups(PROJECT, "core"),
        *("--editable", f".[{','.join(extras)}]"),
    )
    session.run(
        *("python", "-m", "pytest", "-rs", "--numprocesses", "4", "--dist", "worksteal"),
        *(session.posargs or CORE_TESTS),
    )


def _oldest(requirement: str) -> str:
    """Return a constraint: `name==1.2` for `name[extra]>=1.2`."""
    parsed = Requirement(requirement)
    (least,) = [each.version for each in parsed.specifier if each.operator == ">="]
    return f"{parsed.name}=={least}"
