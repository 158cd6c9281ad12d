import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.pool.quantities import BadQuantity, quantity


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("8000m", 8),
        ("1.5Ti", 1.5 * 1024**4),
        ("500m", Fraction(1, 2)),
        ("2e3", 2000),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("128974848", 128974848),
        ("129e6", 129_000_000),
        ("123Mi", 123 * 1024**2),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("-1", -1),
        ("100n", Fraction(1, 10**7)),
        (4, 4),
        (0.5, Fraction(1, 2)),
    ],
)
def test_it_means_what_kubernetes_means_by_it(text, means):
    assert quantity(text) == means


@pytest.mark.parametrize(
    "text", ["", "m", "1.5 Ti", "eight", "1KI", "0x10", "1e999", "١", "9" * 41, "1Mim", "nan", "--1"]
)
def test_what_is_none_is_refused_with_its_text(text):
    with pytest.raises(BadQuantity, match="quantity"):
        quantity(text)


@given(st.text())
def test_nothing_else_comes_of_a_text(text):
    with contextlib.suppress(BadQuantity):
        quantity(text)
