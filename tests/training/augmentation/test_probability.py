"""Steering of the probability: ADA paper, section 3.1."""

import math

import pytest

from training.augmentation import AdaptiveProbability, AugmentSettings


def adaptive(**options: float) -> AdaptiveProbability:
    return AdaptiveProbability(AugmentSettings(mode="adaptive", **options))


def feed(steered: AdaptiveProbability, sign: float, iterations: int, images: int = 64) -> None:
    for _ in range(iterations):
        steered.update(sign, images)


def test_overfitting_takes_probability_from_zero_to_one_in_ramp_kimg():
    steered = adaptive(ramp_kimg=500.0)
    feed(steered, 0.9, iterations=250_000 // 64)
    assert steered.probability == pytest.approx(0.5, abs=1e-3)
    feed(steered, 0.9, iterations=10_000)
    assert steered.probability == 1.0


def test_probability_sinks_to_zero_and_rests_at_the_target_and_with_broken_signs():
    steered = adaptive(probability=0.001)
    feed(steered, 0.5, iterations=4)
    assert steered.probability == pytest.approx(0.001 - 4 * 64 / 500_000)
    feed(steered, 0.5, iterations=8)
    assert steered.probability == 0
    steered = adaptive(probability=0.3, target=0.5)
    feed(steered, 0.5, iterations=4)
    feed(steered, math.nan, iterations=4)
    assert steered.probability == 0.3


@pytest.mark.parametrize("settings", [AugmentSettings(), AugmentSettings("fixed", 0.3)])
def test_sign_is_the_mean_over_images_where_the_probability_stays_too(settings: AugmentSettings):
    steered = AdaptiveProbability(settings)
    for sign, images in ((1.0, 10), (1.0, 10), (0.2, 30), (0.2, 30)):
        assert steered.sign == 0
        steered.update(sign, images)
    assert steered.sign == pytest.approx(0.4)
    assert steered.probability == settings.probability


def test_resumed_steering_is_the_uninterrupted_one_unless_it_is_fixed_now():
    whole, resumed = adaptive(), adaptive()
    for index in range(101):
        whole.update(math.sin(index), 32)
        resumed.update(math.sin(index), 32)
        if index == 50:
            state, resumed = resumed.state_dict(), adaptive()
            resumed.load_state_dict(state)
    assert resumed.state_dict() == whole.state_dict()
    fixed = AdaptiveProbability(AugmentSettings("fixed", 0.3))
    fixed.load_state_dict(whole.state_dict())
    assert fixed.probability == 0.3
