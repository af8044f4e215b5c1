"""Schedules take the values of spec 8.1 and 8.2."""

import pytest

from mate3d.errors import UserError
from training.optimization import schedules
from training.optimization.schedules import ScheduleSettings


def test_blur_fades_linearly_to_zero():
    settings = ScheduleSettings(blur_initial_sigma=10.0, blur_fade_kimg=200.0)
    assert schedules.blur_sigma(settings, 0) == 10.0
    assert schedules.blur_sigma(settings, 170_000) == pytest.approx(1.5)
    assert schedules.blur_sigma(settings, 200_000) == 0.0
    assert schedules.blur_sigma(settings, 900_000) == 0.0


def test_blur_without_fade_is_off():
    assert schedules.blur_sigma(ScheduleSettings(blur_fade_kimg=0.0), 0) == 0.0


def test_pose_swap_goes_from_always_to_its_final_probability():
    settings = ScheduleSettings(pose_swap_probability=0.5, pose_swap_fade_kimg=1000.0)
    assert schedules.pose_swap_probability(settings, 0) == 1.0
    assert schedules.pose_swap_probability(settings, 500_000) == pytest.approx(0.75)
    assert schedules.pose_swap_probability(settings, 2_000_000) == 0.5


def test_pose_swap_starts_at_its_final_probability_without_fade():
    settings = ScheduleSettings(pose_swap_probability=0.8, pose_swap_fade_kimg=0.0)
    assert schedules.pose_swap_probability(settings, 0) == 0.8


def test_pose_conditioning_can_be_off():
    assert schedules.pose_swap_probability(ScheduleSettings(pose_swap_probability=None), 5) is None


def test_resolution_grows_linearly_and_is_rounded():
    settings = ScheduleSettings(
        resolution_initial=64, resolution_final=128, resolution_fade_kimg=1000.0
    )
    assert schedules.raw_resolution(settings, 0) == 64
    assert schedules.raw_resolution(settings, 492_000) == 95
    assert schedules.raw_resolution(settings, 5_000_000) == 128


def test_resolution_without_fade_is_the_final_one():
    settings = ScheduleSettings(resolution_initial=64, resolution_final=128)
    assert schedules.raw_resolution(settings, 0) == 128


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


def test_schedule_values_collects_what_the_steps_read():
    values = schedules.schedule_values(ScheduleSettings(), 100_000)
    assert (values.resolution, values.blur_sigma) == (64, 5.0)
    assert values.pose_swap_probability == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution_final": 0}, "resolution_final=0; use a whole number from 1 to 4096"),
        ({"blur_fade_kimg": -1.0}, "blur_fade_kimg=-1.0; use a number of at least 0"),
        ({"pose_swap_probability": 1.5}, "pose_swap_probability=1.5; use a number from 0 to 1 or"),
        ({"style_mixing_probability": "some"}, "style_mixing_probability=some; use a number"),
        ({"ema_rampup": float("nan")}, "ema_rampup=nan; use a number"),
    ],
)
def test_impossible_schedules_are_one_line(values, message):
    with pytest.raises(UserError, match=f"schedule.{message}"):
        ScheduleSettings(**values)
