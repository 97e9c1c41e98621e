"""Runs the command `change-events` in the test's process."""

from __future__ import annotations

from click.testing import CliRunner

from change_events._cli.group import group


def run(*arguments, **settings):
    """Run the command; return click's result."""
    return CliRunner().invoke(group, list(arguments), prog_name="change-events", **settings)
