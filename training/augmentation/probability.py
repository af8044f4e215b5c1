"""Augmentation probability, controlled by how much a discriminator overfits."""

from typing import Any

from training.augmentation.settings import AugmentSettings


class AdaptiveProbability:
    """Controls the probability of each transform (ADA paper, section 3.1).

    A discriminator that has memorised its training images classifies nearly all of them as real,
    so the mean sign of its logits approaches 1. Above the target the probability increases, below
    it decreases, at a rate of 1 per `ramp_kimg`. In modes "none" and "fixed" it is constant.
    """

    def __init__(self, settings: AugmentSettings):
        self.settings = settings
        self.probability = float(settings.probability)
        self._mean_sign = 0.0
        self._num_updates = 0
        self._sign_sum = 0.0
        self._num_images = 0

    @property
    def sign(self) -> float:
        """Mean sign used for the last adjustment, in [-1, 1]; 0 before the first."""
        return self._mean_sign

    def update(self, real_signs_mean: float, images: int) -> None:
        """Record an iteration; adjust the probability every `interval` iterations.

        Args:
            real_signs_mean: Mean sign of the image discriminator's logits for the iteration's
                augmented real images, over all processes, so that all of them agree.
            images: Number of those images, over all processes.
        """
        self._num_updates += 1
        self._sign_sum += real_signs_mean * images
        self._num_images += images
        if self._num_updates < self.settings.interval:
            return
        self._mean_sign = self._sign_sum / self._num_images
        if self.settings.mode == "adaptive":
            target = self.settings.target
            direction = (self._mean_sign > target) - (self._mean_sign < target)
            step = self._num_images / (self.settings.ramp_kimg * 1000)
            moved = self.probability + direction * step
            self.probability = min(max(moved, 0.0), self.settings.max_probability)
        self._num_updates, self._sign_sum, self._num_images = 0, 0.0, 0

    def state_dict(self) -> dict[str, float | int]:
        """Return the mutable state."""
        return {
            "probability": self.probability,
            "mean_sign": self._mean_sign,
            "num_updates": self._num_updates,
            "sign_sum": self._sign_sum,
            "num_images": self._num_images,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a state.

        A fixed probability keeps its setting; an adaptive one respects the current bound.
        """
        if self.settings.mode == "adaptive":
            self.probability = min(float(state["probability"]), self.settings.max_probability)
        self._mean_sign = float(state["mean_sign"])
        self._num_updates = int(state["num_updates"])
        self._sign_sum = float(state["sign_sum"])
        self._num_images = int(state["num_images"])
