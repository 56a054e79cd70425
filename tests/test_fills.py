"""Fills: what they draw, that they print and come back from JSON, and that parts agree with wholes."""

import json

import numpy as np
import pytest

from irgrow.errors import OptionError
from irgrow.fills import (
    FILLS,
    ONES,
    ZERO,
    Constant,
    Eye,
    FanInUniform,
    Frequencies,
    Given,
    Masked,
    Mean,
    Normal,
    Sinusoid,
    XavierUniform,
    fill_from_json,
    fill_to_json,
    generator,
)

EXAMPLES = [
    ZERO,
    ONES,
    Constant(0.5),
    FanInUniform(2.0),
    XavierUniform(match=True),
    Normal(0.02),
    Eye((1.0, -1.0), "columns"),
    Sinusoid(units=8),
    Frequencies(pairs=3),
    Given(np.arange(6.0).reshape(2, 3)),
    Mean(),
    Masked(XavierUniform(match=True), (1, 3)),
]


def test_every_fill_has_an_example():
    assert {type(f) for f in EXAMPLES} == set(FILLS.values())


@pytest.mark.parametrize("fill", EXAMPLES, ids=str)
def test_json_and_back(fill):
    assert fill_from_json(json.loads(json.dumps(fill_to_json(fill)))) == fill


def test_only_zeros_are_zero():
    assert ZERO.is_zero
    assert Given(np.zeros(3)).is_zero
    assert not any(f.is_zero for f in (ONES, FanInUniform(), Given(np.array([0.0, 1.0])), Eye()))


def test_fan_in_uniform_is_what_the_stock_layers_start_from():
    rng = np.random.default_rng(0)
    values = FanInUniform().draw((200, 25, 2, 2), rng)
    assert abs(values).max() <= 0.1
    assert abs(values).max() > 0.099
    assert abs(FanInUniform().draw((500,), rng, fan_in=400)).max() <= 0.05


def test_xavier_bound():
    values = XavierUniform().draw((30, 70), np.random.default_rng(0))
    assert 0.95 * np.sqrt(6 / 100) < abs(values).max() <= np.sqrt(6 / 100)


def test_eye_blocks_stand_at_the_centre():
    np.testing.assert_array_equal(Eye((1.0, -1.0)).draw((4, 2), np.random.default_rng(0))[2:], -np.eye(2))
    kernel = Eye().draw((3, 3, 5, 3), np.random.default_rng(0))
    np.testing.assert_array_equal(kernel[:, :, 2, 1], np.eye(3))
    assert kernel.sum() == 3


def test_sinusoid_is_the_published_table():
    table = Sinusoid().draw((4, 6), np.random.default_rng(0))
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert table[3, 2] == pytest.approx(np.sin(3 / 10000 ** (2 / 6)), rel=1e-15)
    assert table[3, 3] == pytest.approx(np.cos(3 / 10000 ** (2 / 6)), rel=1e-15)


@pytest.mark.parametrize("fill", [Sinusoid(), Frequencies()])
def test_positional_fills_give_parts_of_the_whole(fill):
    shape = (5, 4) if isinstance(fill, Sinusoid) else (5,)
    whole = fill.draw(shape, np.random.default_rng(0))
    dim = len(shape) - 1
    part = fill.slab(shape, dim, np.array([1, 3]), np.random.default_rng(0))
    np.testing.assert_array_equal(part, np.take(whole, [1, 3], axis=dim))


def test_masked_rows_are_zero():
    values = Masked(ONES, (4,)).slab((6, 2), 0, np.array([3, 4, 5]), np.random.default_rng(0))
    assert values.tolist() == [[1, 1], [0, 0], [1, 1]]


def test_given_values_of_another_shape_are_refused():
    with pytest.raises(OptionError, match="shape"):
        Given(np.zeros((2, 3))).draw((3, 2), np.random.default_rng(0))


def test_generators_depend_on_every_name():
    draws = {generator(*parts).integers(1 << 60) for parts in [(1, "a"), (1, "b"), (2, "a"), (1, "a", "b"), (1, "ab")]}
    assert len(draws) == 5
    assert generator(1, "a").integers(1 << 60) == generator(1, "a").integers(1 << 60)
