"""Transforms of pixels: binary pixels, grey levels, shifts, and several in turn."""

import pytest
import torch

from pyrovae.data import binarise, binarise_static, from_levels, in_turn, random_shift, to_levels
from pyrovae.errors import InputError

pytestmark = pytest.mark.usefixtures("global_state_stays_put")


@pytest.fixture
def forked_rng():
    with torch.random.fork_rng():
        yield


def test_binarise_is_a_fresh_draw_with_the_grey_value_as_mean(forked_rng):
    torch.manual_seed(0)
    x, n = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]), 20_000
    draws = binarise(x.expand(n, 5))
    assert draws.dtype == x.dtype
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert ((draws.mean(0) - x).abs() <= 4 * (x * (1 - x) / n).sqrt()).all()
    assert not torch.equal(draws, binarise(x.expand(n, 5)))
    torch.manual_seed(0)
    assert torch.equal(draws, binarise(x.expand(n, 5)))


def test_binarise_static_is_one_draw():
    x = torch.full((50, 4), 0.5, dtype=torch.float64)
    draw = binarise_static(x, seed=3)
    assert draw.dtype == x.dtype
    assert torch.equal(draw, binarise_static(x, seed=3))
    assert not torch.equal(draw, binarise_static(x, seed=4))
    assert torch.equal(draw, binarise(x, generator=torch.Generator().manual_seed(3)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_binarise_on_the_gpu():
    x = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(binarise_static(x.cuda()).cpu(), binarise_static(x))


def test_levels():
    levels = torch.arange(256.0)
    assert torch.equal(to_levels(from_levels(levels)), levels)
    assert torch.equal(to_levels(torch.arange(256) / 255), levels)
    x = torch.linspace(0, 1, 1001)
    assert (from_levels(to_levels(x)) - x).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("bad", [-0.1, 256.0, float("nan")])
@pytest.mark.parametrize("convert", [binarise, binarise_static, to_levels, from_levels])
def test_pixels_out_of_range(convert, bad):
    with pytest.raises(InputError, match=r"was given values in .*, expected \[0, "):
        convert(torch.tensor([0.5, bad]))
    with pytest.raises(InputError, match=r"was given torch.uint8, expected floats"):
        convert(torch.zeros(2, dtype=torch.uint8))


def test_shifted_images_are_the_image_elsewhere():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, 3, 5, 7, generator=generator)
    shifted = random_shift(x, 2, generator)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    windows = {
        (down, across): padded[:, :, down : down + 5, across : across + 7]
        for down in range(5)
        for across in range(5)
    }
    found = [
        {place for place, window in windows.items() if torch.equal(window[n], shifted[n])}
        for n in range(200)
    ]
    assert all(len(places) == 1 for places in found)
    assert set().union(*found) == windows.keys(), "every place occurs"


def test_a_shift_by_nothing_changes_nothing():
    x = torch.arange(100.0).reshape(4, 1, 5, 5)
    assert torch.equal(random_shift(x, 0, torch.Generator()), x)


@pytest.mark.parametrize(("shape", "pixels"), [((4, 25), 1), ((4, 1, 5, 5), -1)])
def test_what_cannot_be_shifted_is_refused(shape, pixels):
    with pytest.raises(InputError, match=r"cannot be shifted|pixels is -1"):
        random_shift(torch.zeros(shape), pixels)


def test_transforms_in_turn_are_applied_from_first_to_last():
    assert in_turn() is None
    assert in_turn(lambda x: x + 1, lambda x: 10 * x)(torch.tensor(2.0)) == 30
