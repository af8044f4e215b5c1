"""Cameras are swapped with the probability asked for, real pictures prepared as released."""

from dataclasses import replace

import torch

from torch_utils.batch_random import BatchRandom
from training.losses.terms import LossSettings
from training.optimization.schedules import ScheduleValues
from training.step_inputs import Latents, RealBatch, StepContext, draw_latents
from training.steps import sample_density_points
from training.synthesis import condition_cameras
from training.views import real_views

CAMERAS = torch.arange(4.0).view(4, 1).expand(4, 25)
LATENTS = Latents(torch.zeros(4, 7), CAMERAS)


def test_cameras_are_never_or_always_those_of_the_neighbour():
    torch.testing.assert_close(condition_cameras(LATENTS, 0.0), CAMERAS)
    torch.testing.assert_close(condition_cameras(LATENTS, 1.0), CAMERAS.roll(1, 0))
    told = replace(LATENTS, other_camera=CAMERAS + 10)
    torch.testing.assert_close(condition_cameras(told, 1.0), CAMERAS + 10)
    assert not condition_cameras(LATENTS, None).any()


def test_swaps_are_decided_for_each_sample_or_for_all():
    random = BatchRandom((0,), range(4))

    def swaps(**options):
        drawn = [condition_cameras(LATENTS, 0.5, random, **options)[:, 0] for _ in range(100)]
        return torch.stack(drawn) != CAMERAS[:, 0]

    is_swapped = swaps()
    assert 0.4 < float(is_swapped.float().mean()) < 0.6
    assert 0 < int(is_swapped.all(dim=1).sum()) < 30
    is_swapped = swaps(swap_together=True)
    assert bool((is_swapped.all(dim=1) | ~is_swapped.any(dim=1)).all())


def test_latents_take_cameras_of_the_data_set():
    latents = draw_latents(7, CAMERAS, BatchRandom((0,), range(50)))
    assert latents.z.shape == (50, 7)
    assert set(latents.camera[:, 0].tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_real_masks_are_joined_in_minus_one_to_one_and_never_blurred():
    mask = torch.zeros(1, 2, 8, 8)
    mask[:, 1, :, :4] = 1
    real = RealBatch(torch.zeros(1, 3, 8, 8), mask, CAMERAS[:1])
    context = StepContext(ScheduleValues(4, blur_sigma=2.0, pose_swap_probability=0.0))
    full, raw = real_views(real, context, with_mask=True).joined()
    assert full.shape == (1, 5, 8, 8) and raw.shape == (1, 5, 4, 4)
    torch.testing.assert_close(full[:, 3:], 2 * mask - 1)
    assert raw[0, 4, 0].tolist()[0] == 1.0 and raw[0, 4, 0].tolist()[-1] == -1.0


def test_density_points_lie_in_the_box_with_close_neighbours():
    loss = LossSettings(density_points=500, density_distance=0.001)
    points = sample_density_points(0.7, loss, BatchRandom((0,), range(2)))
    first, second = points.chunk(2, dim=1)
    assert first.shape == (2, 500, 3)
    assert 0.34 < float(first.abs().max()) <= 0.35
    assert 0.0008 < float((second - first).std()) < 0.0012
