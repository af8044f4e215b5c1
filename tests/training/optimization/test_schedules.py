"""Schedules take the values of spec 8.1 and 8.2."""

import pytest

from mate3d.errors import UserError
from training.optimization import schedules
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
        ("pose_swap_probability", {"pose_swap_fade_kimg": 0.0}, 0, 0.5),
        ("pose_swap_probability", {"pose_swap_probability": None}, 5, None),
        ("raw_resolution", {"resolution_fade_kimg": 1000.0}, 0, 64),
        ("raw_resolution", {"resolution_fade_kimg": 1000.0}, 492_000, 95),
        ("raw_resolution", {"resolution_fade_kimg": 1000.0}, 5_000_000, 128),
        ("raw_resolution", {"resolution_fade_kimg": 0.0}, 0, 128),
    ],
)
def test_values_fade_from_first_to_last(function, settings, images_seen, value):
    fixed = {"resolution_initial": 64, "resolution_final": 128, "pose_swap_probability": 0.5}
    found = getattr(schedules, function)(ScheduleSettings(**fixed | settings), images_seen)
    assert found == (None if value is None else pytest.approx(value))


def test_average_halves_after_its_half_life():
    settings = ScheduleSettings(ema_kimg=10.0, ema_rampup=None)
    decay = schedules.ema_decay(settings, images_seen=0, batch_size=32)
    assert decay ** (10_000 / 32) == pytest.approx(0.5)


def test_average_ramps_up_with_the_images_seen():
    settings = ScheduleSettings(ema_kimg=10.0, ema_rampup=0.05)
    assert schedules.ema_decay(settings, images_seen=0, batch_size=32) == 0.0
    half_life = 0.05 * 64_000
    decay = schedules.ema_decay(settings, images_seen=64_000, batch_size=32)
    assert decay == pytest.approx(0.5 ** (32 / half_life))
    late = schedules.ema_decay(settings, images_seen=10_000_000, batch_size=32)
    assert late == pytest.approx(0.5 ** (32 / 10_000))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("resolution_final", 0),
        ("blur_fade_kimg", -1.0),
        ("pose_swap_probability", 1.5),
        ("style_mixing_probability", "some"),
        ("ema_rampup", float("nan")),
    ],
)
def test_impossible_schedules_are_named(option, value):
    with pytest.raises(UserError, match=f"schedule.{option}={value}"):
        ScheduleSettings(**{option: value})
