"""CloudFormation templates. cfn-lint is imported when it is first needed: that takes a second."""

from __future__ import annotations

from typing import Any


def parsed(text: str) -> dict[str, Any]:
    """Return a template as a dictionary."""
    from cfnlint.decode import decode_str  # type: ignore[import-untyped]  # it has no types

    template, errors = decode_str(text)
    if template is None or errors:
        raise ValueError(errors)
    return dict(template)


def findings(text: str, region: str) -> list[str]:
    """Return what cfn-lint says about a template, a line each."""
    from cfnlint.api import ManualArgs, lint  # type: ignore[import-untyped]  # it has no types

    return [
        f"{match.linenumber}: {match.rule.id} {match.message}"
        for match in lint(text, config=ManualArgs(regions=[region]))
    ]
