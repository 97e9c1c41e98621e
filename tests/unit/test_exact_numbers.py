"""Which numbers in JSON a float would change: exhaustive where it is cheap, random elsewhere."""

from __future__ import annotations

import json
import math
from decimal import Decimal, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from change_events import FetchError
from change_events._source.entities import EntityReader

JSON = {"Content-Type": "application/json"}


def read(text):
    """Return the number that a body with this text has; None if it is refused."""
    try:
        return EntityReader(None).entity(JSON, b'{"n": %b}' % text.encode(), "p1", "GET")["n"]
    except FetchError:
        return None


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["r", ".17g", ".16e"]))
def test_every_float_passes_as_other_languages_print_it(value, form):
    text = json.dumps(value) if form == "r" else format(value, form)

    assert read(text) == value


NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)


@given(NUMBERS.filter(lambda text: set(text) & set(".eE")))
@example("1.23e-323")
@example("9999999999999999.5")
@example("999999999999999.9")
@example("0.000000000000001")
def test_a_number_passes_only_if_its_float_is_printed_like_it(text):
    value = float(text)
    printed = [] if math.isinf(value) else [repr(value), format(value, ".17g"), Decimal(value)]
    with localcontext() as context:
        context.prec = 2000
        passes = Decimal(text) in [Decimal(each) for each in printed]

    assert read(text) == (value if passes else None)


@pytest.mark.parametrize("digits", ["1", "1.1", "9.99999999999999", "1.2345678901"])
def test_fifteen_digits_pass_wherever_a_float_has_as_many(digits):
    for exponent in range(-340, 320):
        text = f"{digits}e{exponent}"
        value = float(text)
        holds = not math.isinf(value) and Decimal(text) == Decimal(repr(value))

        assert (read(text) is not None) == holds
        assert holds or not -307 <= exponent <= 307
