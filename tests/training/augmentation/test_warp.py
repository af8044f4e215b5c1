"""Resampling against filters' defining properties, polynomials, exact shifts and autograd."""

import math

import pytest
import torch

from training.augmentation.geometry import compose, rotation, scaling, translation
from training.augmentation.warp import SYM6, warp

PATTERN = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double() * 2 - 1


def ramp(side: int) -> torch.Tensor:  # [1, 2, side, side]: x and y of each pixel
    place = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / side
    return torch.stack(torch.meshgrid(place, place, indexing="xy"))[None]


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_filter_is_orthogonal_to_its_even_shifts():
    taps = torch.tensor(SYM6, dtype=torch.float64)
    products = [float(taps[2 * i :] @ taps[: 12 - 2 * i]) for i in range(6)]
    assert products == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-11)


def test_filter_has_the_six_vanishing_moments_that_name_it():
    taps = torch.tensor(SYM6, dtype=torch.float64)
    places = torch.arange(12, dtype=torch.float64)
    signs = (-1.0) ** places
    moments = [float((signs * (places / 11) ** power * taps).sum()) for power in range(6)]
    assert moments == pytest.approx([0] * 6, abs=1e-10)


@pytest.mark.parametrize("side", [4, 6, 16])
def test_image_in_its_place_comes_back(side: int):
    image = PATTERN[..., :side, :side]
    identity = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    torch.testing.assert_close(warp(image, identity), image, atol=1e-7, rtol=0)


def test_shift_by_whole_pixels_moves_them_unchanged():
    moved = warp(PATTERN, translation(numbers(3 / 16, 3 / 16), numbers(-2 / 16, -2 / 16)))
    torch.testing.assert_close(moved[:, :, 2:, :13], PATTERN[:, :, :14, 3:], atol=1e-7, rtol=0)


def test_outside_is_the_reflection():
    x, y = ramp(32)[0]
    image = torch.cos(9 * x + 4 * y + 1)[None, None]
    moved = warp(image, translation(numbers(0.75), numbers(0)))
    reflected = torch.cat([image[..., 24:], image[..., 7:-1].flip(-1)], dim=-1)
    torch.testing.assert_close(moved, reflected, atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    "inverse",
    [
        rotation(numbers(0.4)),
        scaling(numbers(0.8), numbers(1.1)),
        translation(numbers(0.031), numbers(-0.017)),
        compose(rotation(numbers(math.pi)), translation(numbers(0.01), numbers(0.02))),
    ],
)
def test_linear_images_are_moved_exactly(inverse: torch.Tensor):
    moved = warp(ramp(64), inverse)
    x, y = ramp(64)[0]
    expected = inverse[0, :2] @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    middle = (slice(None), slice(None), slice(20, 44), slice(20, 44))
    torch.testing.assert_close(
        moved[middle], expected.view(1, 2, 64, 64)[middle], atol=1e-7, rtol=0
    )


def test_views_of_two_sizes_move_alike():
    x, y = ramp(64)[0]
    small_x, small_y = ramp(32)[0]
    inverse = compose(rotation(numbers(0.5)), translation(numbers(0.08), numbers(0.03)))
    large = warp(torch.cos(9 * x + 4 * y)[None, None], inverse)
    small = warp(torch.cos(9 * small_x + 4 * small_y)[None, None], inverse)
    averaged = torch.nn.functional.avg_pool2d(large, 2)
    middle = (..., slice(10, 22), slice(10, 22))
    torch.testing.assert_close(averaged[middle], small[middle], atol=5e-3, rtol=0)


def test_warp_has_exact_first_and_second_derivatives():
    inverse = compose(rotation(numbers(0.9)), translation(numbers(0.3), numbers(0.1)))
    image = PATTERN[:1, :1, :4, :4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: warp(x, inverse), image)
    assert torch.autograd.gradgradcheck(lambda x: warp(x, inverse).sin(), image)


@pytest.mark.gpu
def test_warp_and_its_derivatives_agree_on_gpu_and_cpu():
    inverse = compose(rotation(numbers(0.9, 0.1)), translation(numbers(0.3, 0), numbers(0.1, 0.2)))
    results = []
    for device in ("cpu", "cuda"):
        image = PATTERN.to(device).requires_grad_()
        moved = warp(image, inverse.to(device))
        (gradient,) = torch.autograd.grad(moved.pow(3).sum(), image, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), image)
        results.append([tensor.detach().cpu() for tensor in (moved, gradient, second)])
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)
