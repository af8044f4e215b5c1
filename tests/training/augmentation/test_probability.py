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


def test_probability_sinks_below_the_target_to_zero_at_least():
    steered = adaptive(probability=0.001)
    feed(steered, 0.5, iterations=4)
    assert steered.probability == pytest.approx(0.001 - 4 * 64 / 500_000)
    feed(steered, 0.5, iterations=8)
    assert steered.probability == 0


def test_probability_rests_at_the_target_and_with_broken_signs():
    steered = adaptive(probability=0.3, target=0.5)
    feed(steered, 0.5, iterations=4)
    feed(steered, math.nan, iterations=4)
    assert steered.probability == 0.3


def test_sign_is_the_mean_over_images_of_the_interval():
    steered = adaptive(interval=2)
    steered.update(1.0, 10)
    assert steered.sign == 0
    steered.update(0.2, 30)
    assert steered.sign == pytest.approx(0.4)


def test_feedback_settles_where_the_sign_is_the_target():
    steered = adaptive(ramp_kimg=20.0)
    for _ in range(2000):
        steered.update(1 - steered.probability, 64)
    assert steered.probability == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("settings", [AugmentSettings(), AugmentSettings("fixed", 0.3)])
def test_probability_that_is_not_adaptive_stays_and_the_sign_is_known(settings: AugmentSettings):
    steered = AdaptiveProbability(settings)
    feed(steered, 0.9, iterations=8)
    assert steered.probability == settings.probability
    assert steered.sign == pytest.approx(0.9)


def test_resumed_steering_is_the_uninterrupted_one():
    whole, first, second = adaptive(), adaptive(), adaptive()
    signs = [math.sin(i) for i in range(101)]
    for sign in signs:
        whole.update(sign, 32)
    for sign in signs[:50]:
        first.update(sign, 32)
    second.load_state_dict(first.state_dict())
    for sign in signs[50:]:
        second.update(sign, 32)
    assert second.state_dict() == whole.state_dict()


def test_resuming_with_a_fixed_probability_takes_the_new_one():
    adapted = adaptive()
    feed(adapted, 1.0, iterations=400)
    fixed = AdaptiveProbability(AugmentSettings("fixed", 0.3))
    fixed.load_state_dict(adapted.state_dict())
    assert fixed.probability == 0.3
