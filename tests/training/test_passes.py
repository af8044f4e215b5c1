"""Cameras are swapped with the probability asked for, real pictures prepared as released."""

import pytest
import torch

from mate3d.errors import UserError
from training.losses.terms import LossSettings
from training.passes import RealBatch, StepContext, draw_latents, real_with_mask, swap_cameras
from training.schedules import ScheduleValues
from training.steps import sample_density_points

CAMERAS = torch.arange(4.0).view(4, 1).expand(4, 25)


def test_cameras_are_never_or_always_those_of_the_neighbour():
    torch.testing.assert_close(swap_cameras(CAMERAS, 0.0), CAMERAS)
    torch.testing.assert_close(swap_cameras(CAMERAS, 1.0), CAMERAS.roll(1, 0))


def test_cameras_are_zero_without_pose_conditioning():
    assert not swap_cameras(CAMERAS, None).any()


def test_swaps_are_decided_for_each_sample_or_for_all():
    random = torch.Generator().manual_seed(0)
    single = [swap_cameras(CAMERAS, 0.5, random)[:, 0] for _ in range(100)]
    is_swapped = torch.stack(single) != CAMERAS[:, 0]
    assert 0.4 < float(is_swapped.float().mean()) < 0.6
    assert 0 < int(is_swapped.all(dim=1).sum()) < 30
    together = [swap_cameras(CAMERAS, 0.5, random, swap_together=True)[:, 0] for _ in range(100)]
    is_swapped = torch.stack(together) != CAMERAS[:, 0]
    assert bool((is_swapped.all(dim=1) | ~is_swapped.any(dim=1)).all())


def test_latents_take_cameras_of_the_data_set():
    latents = draw_latents(50, 7, CAMERAS, torch.Generator().manual_seed(0))
    assert latents.z.shape == (50, 7)
    assert set(latents.camera[:, 0].tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_real_masks_are_joined_in_minus_one_to_one_and_never_blurred():
    mask = torch.zeros(1, 2, 8, 8)
    mask[:, 1, :, :4] = 1
    real = RealBatch(torch.zeros(1, 3, 8, 8), mask, CAMERAS[:1])
    context = StepContext(ScheduleValues(4, blur_sigma=2.0, pose_swap_probability=0.0))
    full, raw = real_with_mask(real, context)
    assert full.shape == (1, 5, 8, 8) and raw.shape == (1, 5, 4, 4)
    torch.testing.assert_close(full[:, 3:], 2 * mask - 1)
    assert raw[0, 4, 0].tolist()[0] == 1.0 and raw[0, 4, 0].tolist()[-1] == -1.0


def test_density_points_lie_in_the_box_with_close_neighbours():
    loss = LossSettings(density_points=500, density_distance=0.001)
    points = sample_density_points(2, 0.7, loss, torch.Generator().manual_seed(0))
    first, second = points.chunk(2, dim=1)
    assert first.shape == (2, 500, 3)
    assert 0.34 < float(first.abs().max()) <= 0.35
    assert 0.0008 < float((second - first).std()) < 0.0012


@pytest.mark.parametrize("name", ["eikonal_points", "consistency_points", "density_points"])
@pytest.mark.parametrize("value", [0, -1])
def test_subset_without_points_is_refused(name, value):
    with pytest.raises(UserError, match=f"loss.{name}={value} must be at least 1"):
        LossSettings(**{name: value})
