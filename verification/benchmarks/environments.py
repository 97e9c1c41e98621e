"""The environments of the queue server and the contenders, which are made once, in `.bench/`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from functools import cache
from pathlib import Path

from verification.harness import ROOT

DIRECTORY = ROOT / ".bench"

OURS = "ours"
"""The environment of this process."""

PACKAGES = {
    "ministack": ["ministack>=1.5,<1.6"],
    "sqs-workers": ["sqs-workers", "typing-extensions", "urllib3"],
    "dramatiq": ["dramatiq", "dramatiq-sqs", "urllib3"],
    "celery": ["celery[sqs]", "urllib3"],
    "asyncio": ["aiobotocore", "httpx", "aiosqlite"],
}
"""What pip installs, by environment."""

NODE_PACKAGES = ["sqs-consumer", "@aws-sdk/client-sqs", "better-sqlite3"]
NODE = "node"
"""The environment of Node."""


class EnvironmentUnavailableError(Exception):
    """An environment cannot be made here. The text has the reason."""


def python(environment: str) -> str:
    """
    Return an environment's interpreter; make the environment if it does not exist.

    Raises:
        EnvironmentUnavailableError: It cannot be made.
    """
    if environment == OURS:
        return sys.executable
    directory = DIRECTORY / environment
    if not (directory / "made").exists():
        _say(f"{environment}: making an environment for it, once")
        venv.create(directory, with_pip=True, clear=True)
        install = [
            str(directory / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        _run([*install, *PACKAGES[environment]], environment)
        (directory / "made").touch()
    return str(directory / "bin" / "python")


def node() -> Path:
    """
    Return the directory with Node's packages; install them if it does not exist.

    Raises:
        EnvironmentUnavailableError: node or npm is missing, or a package cannot be installed.
    """
    directory = DIRECTORY / NODE
    if not (directory / "made").exists():
        _say("node: installing its packages, once")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "package.json").write_text("{}", encoding="utf-8")
        # better-sqlite3 can need compiling; Debian's node ships its headers.
        headers = {"npm_config_nodedir": "/usr"} if Path("/usr/include/node").is_dir() else {}
        _run(
            [
                "npm",
                "install",
                "--no-fund",
                "--no-audit",
                "--prefix",
                str(directory),
                *NODE_PACKAGES,
            ],
            NODE,
            **headers,
        )
        (directory / "made").touch()
    return directory


@cache
def versions(environment: str) -> dict[str, str]:
    """Return the versions of the packages that matter, in an environment that was made."""
    if environment == NODE:
        listed = _run(["npm", "ls", "--json", "--depth=0", "--prefix", str(node())], NODE)
        packages = {
            name: found["version"] for name, found in json.loads(listed)["dependencies"].items()
        }
        return {"node": _run(["node", "--version"], NODE).strip().removeprefix("v"), **packages}
    listed = _run(
        [python(environment), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        environment,
    )
    installed = {package["name"].lower(): package["version"] for package in json.loads(listed)}
    wanted = [
        package.partition(">")[0].partition("[")[0]
        for package in PACKAGES.get(environment, ["requests"])
    ]
    return {
        name: installed[name]
        for name in ["boto3", "botocore", "urllib3", *wanted]
        if name in installed
    }


def _run(command: list[str], environment: str, **variables: str) -> str:
    try:
        ran = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **variables}
        )
    except FileNotFoundError:
        raise EnvironmentUnavailableError(f"{environment}: {command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[-1:]
        raise EnvironmentUnavailableError(
            f"{environment}: {Path(command[0]).name} failed: {' '.join(reason)}"
        ) from None
    return ran.stdout


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
