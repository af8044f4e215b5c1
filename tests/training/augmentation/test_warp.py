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


def test_filter_is_orthogonal_to_its_shifts_with_the_six_vanishing_moments_that_name_it():
    taps, places = numbers(*SYM6), torch.arange(12, dtype=torch.float64)
    products = [float(taps[2 * i :] @ taps[: 12 - 2 * i]) for i in range(6)]
    assert products == pytest.approx([1, 0, 0, 0, 0, 0], abs=1e-11)
    signs = (-1.0) ** places
    moments = [float((signs * (places / 11) ** power * taps).sum()) for power in range(6)]
    assert moments == pytest.approx([0] * 6, abs=1e-10)


def test_image_comes_back_in_its_place_and_unchanged_elsewhere_by_whole_pixels():
    for side in (4, 6, 16):
        image = PATTERN[..., :side, :side]
        identity = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
        torch.testing.assert_close(warp(image, identity), image, atol=1e-7, rtol=0)
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
def test_linear_images_of_any_size_are_moved_exactly(inverse: torch.Tensor):
    for side in (64, 56):
        x, y = ramp(side)[0]
        expected = inverse[0, :2] @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)
        # Not near the border, where reflected neighbours count.
        middle = slice(side // 2 - 12, side // 2 + 12)
        moved = warp(ramp(side), inverse)[..., middle, middle]
        expected = expected.view(1, 2, side, side)[..., middle, middle]
        torch.testing.assert_close(moved, expected, atol=1e-7, rtol=0)


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
