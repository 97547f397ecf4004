"""Parameters of every number of dimensions, in every role: they are decoded in their shape, or there is a reason."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghnfast.ops.decode import Role
from ghnfast.prediction.layout import Sizes, row_of
from ghnfast.prediction.slots import form_of


@pytest.mark.parametrize("role", Role)
@given(shape=st.lists(st.integers(0, 9), max_size=6).map(tuple))
def test_a_form_fits_its_parameter_or_has_a_reason(role: Role, shape: tuple[int, ...]) -> None:
    form = form_of(shape, int(role))
    if form.reason is None:
        assert len(row_of(form, False, Sizes(8, 8, 3, 10, True))) == 12 * 8
        assert 1 <= len(form.shape) <= 4
        assert len(shape) in (2, 3, 4) or role in (Role.BIAS, Role.NORM_WEIGHT)
        if role is not Role.POSITION:  # of those, whole squares are decoded
            assert math.prod(form.shape) == math.prod(shape)
