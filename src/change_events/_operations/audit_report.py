"""What an audit has found."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from change_events._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from change_events._event import Outcome

SHOWN = 1000
"""How many ids of each kind are named in a report."""

PRINTED = 20
"""How many of them are printed."""

LIMITS = {"stale_1_minute": 60.0, "stale_5_minutes": 300.0}
"""Seconds for which entries must be wrong at least, to be counted under the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """
    How many entries in a million have been wrong for longer than some time.

    Attributes:
        least: So many are known to be.
        most: So many can be. More than `least`, because an audit that waits for less than that time
            can't tell for how long an entry has been wrong.
        bound: The rate of the cache is lower than this with 95 % confidence, if what was compared
            is a fair sample of it. (The one-sided bound of Clopper and Pearson, Biometrika 26,
            1934. If nothing was found, it is the rule of three.)
    """

    least: float
    most: float
    bound: float

    def __str__(self) -> str:
        """Return it as text."""
        between = "" if self.least == self.most else f"{_rounded(self.least)} to "
        most, bound = _rounded(self.most), _rounded(self.bound)
        return f"{between}{most} per million, under {bound} with 95 %"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """
    What a repair has done.

    Attributes:
        outcomes: How many looks did what; see `Outcome`.
        failed_ids: The ids that could not be looked at, by their own fault, and why.
    """

    outcomes: Mapping[Outcome, int]
    failed_ids: Mapping[str, str]

    def __str__(self) -> str:
        """Return it as lines of text."""
        looked = ", ".join(f"{number:,} {each.value}" for each, number in self.outcomes.items())
        lines = [f"{sum(self.outcomes.values()):,} ids repaired ({looked or 'none'})"]
        lines += [f"not {printable(id)}: {why}" for id, why in self.failed_ids.items()]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """
    What an audit has found. `print` shows it.

    Attributes:
        compared: How many ids were compared.
        sample: How many were asked for; None: all.
        whole: False if the sink can't name its ids: then only those that are listed were compared.
        by: `bodies`, or `digests` if the sink can't return what is cached. Digests don't show that
            a row was changed by hand.
        missing: How many entities the source has, and the cache has not.
        extra: How many entities the cache has, and the source has not.
        different: How many entities are cached as the source does not have them.
        missing_ids, extra_ids, different_ids: Their ids, up to a thousand each.
        reasons: How many of them are wrong because of what, as far as that can be seen.
        wrong_for: All of them have been wrong for so many seconds at least; 0 if there are none.
        cleared: How many ids differed at first, and did not once the cache had had time to follow.
        undecided: How many ids could not be compared.
        undecided_ids: Up to a thousand of them, and why.
        rates: How many are stale, by the time that they have been stale for: `stale_1_minute`,
            `stale_5_minutes`.
        seconds: How long it lasted.
        last_clean: When the last clean audit of this cache ended, in seconds since the epoch, by
            the clock of its machine. None: there was none, or the sink keeps no state.
    """

    compared: int
    sample: int | None
    whole: bool
    by: str
    missing: int
    extra: int
    different: int
    missing_ids: Sequence[str]
    extra_ids: Sequence[str]
    different_ids: Sequence[str]
    reasons: Mapping[str, int]
    wrong_for: float
    cleared: int
    undecided: int
    undecided_ids: Mapping[str, str]
    rates: Mapping[str, Rate]
    seconds: float
    last_clean: float | None = None
    repairing: Callable[[bool], RepairReport] = field(repr=False, compare=False)

    @property
    def stale(self) -> int:
        """How many entries are wrong."""
        return self.missing + self.extra + self.different

    @property
    def clean(self) -> bool:
        """True if nothing is wrong, and everything could be compared."""
        return not self.stale and not self.undecided

    def repair(self, *, allow_mass_deletion: bool = False) -> RepairReport:
        """
        Look at all the entities that are wrong again, and store what the source says, although the
        digest is the same: a row that was changed by hand has the digest of what was there before.

        Args:
            allow_mass_deletion: Refuse no deletion.

        Raises:
            MassDeletionError: Too many entities seem to be gone. What was repaired stays repaired.
            RuntimeError: `Audit.stop` was called.
        """
        return self.repairing(allow_mass_deletion)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        rates = {
            name: {"least": each.least, "most": each.most, "bound_95": each.bound}
            for name, each in self.rates.items()
        }
        return {
            "clean": self.clean,
            "compared": self.compared,
            "sample": self.sample,
            "whole": self.whole,
            "by": self.by,
            "stale": self.stale,
            "missing": self.missing,
            "extra": self.extra,
            "different": self.different,
            "missing_ids": list(self.missing_ids),
            "extra_ids": list(self.extra_ids),
            "different_ids": list(self.different_ids),
            "reasons": dict(self.reasons),
            "wrong_for": self.wrong_for,
            "cleared": self.cleared,
            "undecided": self.undecided,
            "undecided_ids": dict(self.undecided_ids),
            "per_million": rates,
            "seconds": self.seconds,
            "last_clean": self.last_clean,
        }

    def __str__(self) -> str:
        """Return it as lines of text."""
        what = "all ids" if self.sample is None else "a sample"
        wrong = f"{self.missing:,} missing, {self.extra:,} extra, {self.different:,} different"
        lines = [f"{self.compared:,} compared by their {self.by} ({what}): {wrong}"]
        lines += [
            f"stale for more than {LIMITS[name] / 60:.0f} min: {rate}"
            for name, rate in self.rates.items()
        ]
        if self.stale:
            lines.append(f"wrong for {self.wrong_for:,.0f} s or longer")
        lines += [f"{number:,}: {why}" for why, number in self.reasons.items()]
        for kind in ("missing", "extra", "different"):
            lines += _named(kind, getattr(self, kind), getattr(self, f"{kind}_ids"))
        if self.cleared:
            lines.append(f"{self.cleared:,} differed at first, and changed meanwhile: not reported")
        if self.undecided:
            lines.append(f"{self.undecided:,} could not be compared:")
            shown = list(self.undecided_ids.items())[:PRINTED]
            lines += [f"  {printable(id)}: {why}" for id, why in shown]
        if self.by == "digests":
            lines.append("digests don't show what was changed by hand; give the sink read=")
        if not self.whole:
            lines.append("the sink can't name its ids, so nothing that is not listed was compared")
        if self.last_clean is not None:
            when = dt.datetime.fromtimestamp(self.last_clean, dt.timezone.utc)
            lines.append(f"last clean audit: {when:%Y-%m-%d %H:%M:%S} UTC")
        return "\n".join(lines)


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _named(kind: str, number: int, ids: Sequence[str]) -> list[str]:
    if not number:
        return []
    more = f" and {number - PRINTED:,} more" if number > PRINTED else ""
    return [f"{kind}: {', '.join(printable(id) for id in ids[:PRINTED])}{more}"]


def rates(ages: Sequence[float], compared: int) -> dict[str, Rate]:
    """Return the rates: the stale entries have been stale for at least so many seconds each."""
    most = len(ages)
    found = {}
    for name, limit in LIMITS.items():
        least = sum(age >= limit for age in ages)
        found[name] = Rate(
            least=1e6 * least / max(compared, 1),
            most=1e6 * most / max(compared, 1),
            bound=1e6 * upper_bound(most, compared),
        )
    return found


def upper_bound(found: int, of: int) -> float:
    """
    Return the share that finding so many of so many excludes with 95 % confidence, from above: with
    that share or a larger one, so few are found in at most 5 % of all samples.
    """
    if found >= of:
        return 1.0
    low, high = found / of, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(found, of, middle) > 0.05 else (low, middle)
    return high


def _at_most(found: int, of: int, share: float) -> float:
    """Return how likely so few or fewer are found. (The binomial distribution.)"""
    log = (
        math.lgamma(of + 1)
        - math.lgamma(found + 1)
        - math.lgamma(of - found + 1)
        + found * math.log(share)
        + (of - found) * math.log1p(-share)
    )
    term = math.exp(log)
    total = term
    for number in range(found, 0, -1):  # the terms shrink, because `share` is more than was found
        term *= number * (1 - share) / ((of - number + 1) * share)
        total += term
        if term < total * 1e-9:
            break
    return total
