"""What is built and published, and that the files that say how agree with each other."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS = PROJECT["tool"]
PYTHONS = [
    name.rpartition(" ")[2]
    for name in PROJECT["project"]["classifiers"]
    if re.search(r":: 3\.\d+$", name)
]

needs_workflows = pytest.mark.skipif(
    not (ROOT / ".github").exists(), reason="an unpacked sdist has no workflows"
)


# The distributions


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the sdist and the wheel; return the directory that has them."""
    directory = str(tmp_path_factory.mktemp("dist"))
    for builder in SdistBuilder, WheelBuilder:
        assert list(builder(str(ROOT)).build(directory=directory, versions=["standard"]))
    return Path(directory)


@pytest.fixture(scope="module")
def in_the_wheel(distributions):
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def in_the_sdist(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read()
            for member in archive.getmembers()
            if member.isfile()
        }


def files_of_the_package() -> dict[str, bytes]:
    return {
        path.relative_to(ROOT / "src").as_posix(): path.read_bytes()
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ".egg-info" not in str(path)
    }


def test_the_wheel_has_the_package_and_nothing_else(in_the_wheel):
    files = {name: text for name, text in in_the_wheel.items() if ".dist-info/" not in name}

    assert files == files_of_the_package()
    assert {
        "change_events/py.typed",
        "change_events/cloudformation/autoscaling.yaml",
        "change_events/cloudformation/lambda.yaml",
        "change_events/cloudformation/queue.yaml",
        "change_events/cloudformation/topic.yaml",
        "change_events/kubernetes/keda.yaml",
    } <= files.keys()


def test_the_wheel_has_the_licence_and_the_entry_point(in_the_wheel):
    described = {
        name.partition(".dist-info/")[2]: text.decode()
        for name, text in in_the_wheel.items()
        if ".dist-info/" in name
    }

    assert described.keys() == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    assert described["licenses/LICENSE"] == (ROOT / "LICENSE").read_text()
    assert "change_events = change_events.pytest_plugin" in described["entry_points.txt"]
    assert "change-events = change_events.__main__:main" in described["entry_points.txt"]


def test_the_metadata_has_the_readme_the_urls_and_the_extras_of_users(in_the_wheel):
    (text,) = (text for name, text in in_the_wheel.items() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(text)

    assert metadata.get_payload(decode=True).decode() == (ROOT / "README.md").read_text()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["Requires-Python"] == ">=3.10"
    urls = dict(url.split(", ") for url in metadata.get_all("Project-URL"))
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= urls.keys()
    assert all(
        url.startswith("https://github.com/change-events/change-events") for url in urls.values()
    )
    assert sorted(metadata.get_all("Provides-Extra")) == [
        "cli",
        "django",
        "opentelemetry",
        "postgres",
        "prometheus",
        "redis",
        "sqlalchemy",
        "verify",
    ]


def test_the_sdist_has_the_package_and_what_its_tests_need(in_the_sdist):
    package = {
        name.removeprefix("src/"): text
        for name, text in in_the_sdist.items()
        if name.startswith("src/")
    }

    assert package == files_of_the_package()
    assert {
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "docs/tutorial.md",
        "examples/demo.py",
        "noxfile.py",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/project/test_package.py",
        "verification/harness/structure.py",
    } <= in_the_sdist.keys()


def test_the_sdist_has_nothing_that_only_a_machine_or_ci_needs(in_the_sdist):
    directories = {name.partition("/")[0] for name in in_the_sdist if "/" in name}
    hidden = {name for name in in_the_sdist if re.search(r"(^|/)\.", name)}

    assert directories == {"docs", "examples", "src", "tests", "verification"}
    assert hidden == {".gitignore"}
    assert not [name for name in in_the_sdist if re.search(r"__pycache__|\.pyc$|\.egg-info", name)]


def test_the_package_index_accepts_both(distributions):
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir()],
        check=False,
        capture_output=True,
        text=True,
    )

    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("PASSED") == 2


# The files that say how to build, test and publish


@needs_workflows
def test_the_same_pythons_are_declared_and_tested():
    (nox,) = re.findall(r"python=(\[.*\])", (ROOT / "noxfile.py").read_text())
    matrix = workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python"]

    assert PYTHONS == ["3.10", "3.11", "3.12", "3.13"]
    assert ast.literal_eval(nox) == matrix == PYTHONS
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"


def test_developers_get_every_extra():
    (extras,) = re.findall(r"--group dev --editable '\.\[(.*)\]'", (ROOT / "Makefile").read_text())

    assert extras.split(",") == sorted(PROJECT["project"]["optional-dependencies"])


def test_the_paths_in_pyproject_exist():
    paths = [
        *TOOLS["mutmut"]["source_paths"],
        *TOOLS["mutmut"]["only_mutate"],
        *TOOLS["mutmut"]["also_copy"],
        *TOOLS["mutmut"]["pytest_add_cli_args_test_selection"],
        *TOOLS["mypy"]["files"],
        *TOOLS["pyright"]["include"],
        *(path for path in TOOLS["pyright"]["exclude"] if "*" not in path),
        *TOOLS["pytest"]["ini_options"]["testpaths"],
        *TOOLS["pytest"]["ini_options"]["pythonpath"],
    ]

    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_patterns_in_pyproject_match_something():
    ignores = TOOLS["ruff"]["lint"]["per-file-ignores"]
    sources = [path.relative_to(ROOT).as_posix() for path in (ROOT / "verification").rglob("*.py")]

    assert [pattern for pattern in ignores if not any(ROOT.glob(pattern))] == []
    assert all(
        any(re.search(pattern, source) for source in sources)
        for pattern in TOOLS["mypy"]["exclude"]
    )


def workflow(name: str) -> dict[object, object]:
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text()
    return yaml.safe_load(text)


@needs_workflows
def test_hosted_ci_runs_everything_and_builds_the_distributions():
    ci = workflow("ci")

    assert ci[True].keys() == {"push", "pull_request"}  # to YAML 1.1, `on` is a truth value
    assert ci["permissions"] == {"contents": "read"}
    assert {"run": ".ci/run"} in ci["jobs"]["test"]["steps"]
    assert {"run": "make dist"} in ci["jobs"]["distributions"]["steps"]


@needs_workflows
def test_a_tag_is_published_by_a_job_that_has_no_password():
    release = workflow("release")
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]

    assert release[True] == {"push": {"tags": ["v*"]}}
    assert release["permissions"] == {"contents": "read"}
    assert {"run": "make dist"} in build["steps"]
    assert publish["needs"] == "build"
    assert publish["environment"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["steps"][-1] == {"uses": "pypa/gh-action-pypi-publish@release/v1"}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()
