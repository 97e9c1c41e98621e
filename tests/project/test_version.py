"""`change_events.__version__` is the distribution's, and costs nothing before it is read."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import change_events


def test_the_version_is_that_of_the_installed_distribution():
    assert change_events.__version__ == version("change-events")


def test_the_version_is_not_imported_by_a_star_import():
    assert "__version__" not in change_events.__all__


def test_an_import_of_the_package_does_not_load_importlib_metadata():
    script = (
        "import sys; before = 'importlib.metadata' in sys.modules; import change_events; "
        "change_events.broadcasting; print(before, 'importlib.metadata' in sys.modules)"
    )

    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout

    assert printed == "False False\n"
