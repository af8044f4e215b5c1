"""Schedules take the values of spec 8.1 and 8.2, and the average of weights follows one."""

import pytest
import torch
from torch import nn

from training.optimization import schedules
from training.optimization.ema import make_average, update_average
from training.optimization.schedules import ScheduleSettings


@pytest.mark.parametrize(
    ("function", "settings", "images_seen", "value"),
    [
        ("blur_sigma", {"blur_initial_sigma": 10.0, "blur_fade_kimg": 200.0}, 0, 10.0),
        ("blur_sigma", {"blur_initial_sigma": 10.0, "blur_fade_kimg": 200.0}, 170_000, 1.5),
        ("blur_sigma", {"blur_initial_sigma": 10.0, "blur_fade_kimg": 200.0}, 900_000, 0.0),
        ("blur_sigma", {"blur_fade_kimg": 0.0}, 0, 0.0),
        ("pose_swap_probability", {"pose_swap_fade_kimg": 1000.0}, 0, 1.0),
        ("pose_swap_probability", {"pose_swap_fade_kimg": 1000.0}, 500_000, 0.75),
        ("pose_swap_probability", {"pose_swap_fade_kimg": 1000.0}, 2_000_000, 0.5),
        ("pose_swap_probability", {"pose_swap_probability": None}, 5, None),
        ("beta", {}, 5, None),
        ("beta", {"beta_final": 0.001}, 0, 0.001),
        ("beta", {"beta_final": 0.001, "beta_fade_kimg": 100.0}, 50_000, 0.01),
        ("raw_resolution", {"resolution_fade_kimg": 1000.0}, 0, 64),
        ("raw_resolution", {"resolution_fade_kimg": 1000.0}, 492_000, 95),
        ("raw_resolution", {"resolution_fade_kimg": 1000.0}, 5_000_000, 128),
        ("raw_resolution", {"resolution_fade_kimg": 9.0, "resolution_hold_kimg": 1.0}, 999, 64),
        ("raw_resolution", {"resolution_fade_kimg": 9.0, "resolution_hold_kimg": 1.0}, 5500, 96),
    ],
)
def test_values_fade_from_first_to_last(function, settings, images_seen, value):
    fixed = {"resolution_initial": 64, "resolution_final": 128, "pose_swap_probability": 0.5}
    found = getattr(schedules, function)(ScheduleSettings(**fixed | settings), images_seen)
    assert found == (None if value is None else pytest.approx(value))


def test_average_halves_the_distance_after_its_half_life_and_copies_buffers():
    network = nn.BatchNorm1d(4)
    average = make_average(network)
    assert not average.training and not average.weight.requires_grad
    start = average.weight.clone()
    with torch.no_grad():
        network.weight.add_(1.0)
    network.running_mean.fill_(3.0)
    settings = ScheduleSettings(ema_kimg=0.256, ema_rampup=None)
    for _ in range(8):
        decay = schedules.ema_decay(settings, images_seen=0, batch_size=32)
        update_average(average, network, decay)
    torch.testing.assert_close(average.weight, start + 0.5)
    assert average.running_mean.equal(network.running_mean)


@pytest.mark.parametrize(("images_seen", "half_life"), [(64_000, 3200), (10_000_000, 10_000)])
def test_half_life_of_the_average_ramps_up_with_the_images_seen(images_seen, half_life):
    settings = ScheduleSettings(ema_kimg=10.0, ema_rampup=0.05)
    assert schedules.ema_decay(settings, images_seen=0, batch_size=32) == 0.0
    decay = schedules.ema_decay(settings, images_seen, batch_size=32)
    assert decay == pytest.approx(0.5 ** (32 / half_life))
