"""Movements: order, probabilities and strengths of the ADA paper's appendix B."""

import pytest
import torch

from torch_utils.batch_random import BatchRandom
from training.augmentation.dice import Dice
from training.augmentation.geometry import draw_movement
from training.augmentation.settings import AugmentSettings

OFF = {"with_blit": False, "with_geometry": False, "with_color": False}
NUM_SAMPLES = 4000


def movements(probability: float, **options: object) -> torch.Tensor:  # [B, 3, 3]
    settings = AugmentSettings(mode="fixed", **options)
    dice = Dice(BatchRandom((7,), range(NUM_SAMPLES)), probability)
    return draw_movement(settings, dice, side=32)


def moved_share(matrices: torch.Tensor) -> float:
    return float((matrices - torch.eye(3)).abs().amax(dim=(1, 2)).gt(1e-6).float().mean())


def test_shifts_are_whole_pixels_up_to_an_eighth():
    pixels = movements(1.0, **OFF | {"with_blit": True})[:, :2, 2] * 32
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-5, rtol=0)
    assert pixels.abs().max() == 4
    assert float(pixels.mean()) == pytest.approx(0, abs=0.1)


def test_half_of_the_flips_mirror_and_three_of_four_quarter_turns_turn():
    mirrored = movements(0.6, **OFF | {"with_flip": True})
    assert moved_share(mirrored) == pytest.approx(0.3, abs=0.03)
    assert set(torch.linalg.det(mirrored).round().tolist()) == {-1.0, 1.0}
    turned = movements(1.0, **OFF | {"with_quarter_turns": True})
    assert moved_share(turned) == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(turned, turned.round(), atol=1e-6, rtol=0)


def test_one_of_two_rotations_takes_place_with_the_probability():
    matrices = movements(
        0.5, **OFF | {"with_geometry": True, "scale_octaves": 0.0, "translation": 0.0}
    )
    assert moved_share(matrices) == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(
        torch.linalg.det(matrices), torch.ones(NUM_SAMPLES), atol=1e-5, rtol=0
    )


def test_scales_and_stretches_are_log_normal():
    options = {"with_geometry": True, "rotation_degrees": 0.0, "translation": 0.0}
    matrices = movements(1.0, **OFF | options)
    x, y = matrices[:, 0, 0].log2(), matrices[:, 1, 1].log2()
    assert float(((x + y) / 2).std()) == pytest.approx(0.2, abs=0.01)
    assert float(((x - y) / 2).std()) == pytest.approx(0.2, abs=0.01)


def test_general_shifts_are_normal_and_come_last():
    options = {"with_geometry": True, "rotation_degrees": 0.0, "scale_octaves": 0.0}
    assert float(movements(1.0, **OFF | options)[:, :2, 2].std()) == pytest.approx(0.125, abs=0.005)
    # Being the last step, it is the first that a point of the augmented image goes back through.
    matrices = movements(1.0, **OFF | {"with_geometry": True})
    shift = (torch.linalg.inv(matrices[:, :2, :2]) @ matrices[:, :2, 2:]).squeeze(-1)
    assert float(shift.std()) == pytest.approx(0.125, abs=0.005)
