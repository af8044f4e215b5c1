"""The probability of augmentation, steered by how much a discriminator overfits."""

from typing import Any

from training.augmentation.settings import AugmentSettings


class AdaptiveProbability:
    """Steers the probability of each transform (ADA paper, section 3.1).

    A discriminator that knows its training images by heart calls nearly all of them real, so the
    mean sign of its logits nears 1. Above the target the probability grows, below it shrinks, by
    what makes the way from 0 to 1 `ramp_kimg` long. With the modes "none" and "fixed" it stays.

    Args:
        settings: Mode, first value, target and speed.
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
        """The mean sign behind the last adjustment, in [-1, 1]; 0 before the first."""
        return self._mean_sign

    def update(self, real_signs_mean: float, images: int) -> None:
        """Take note of an iteration; every `interval` of them adjust the probability.

        Args:
            real_signs_mean: Mean sign of the image discriminator's logits of the iteration's real
                images as it saw them, over all processes, so that all processes agree.
            images: Number of real images of the iteration, likewise.
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
        """Return all that changes."""
        return {
            "probability": self.probability,
            "mean_sign": self._mean_sign,
            "num_updates": self._num_updates,
            "sign_sum": self._sign_sum,
            "num_images": self._num_images,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        A fixed probability stays as set, and an adaptive one obeys the bound that is set now.
        """
        if self.settings.mode == "adaptive":
            self.probability = min(float(state["probability"]), self.settings.max_probability)
        self._mean_sign = float(state["mean_sign"])
        self._num_updates = int(state["num_updates"])
        self._sign_sum = float(state["sign_sum"])
        self._num_images = int(state["num_images"])
