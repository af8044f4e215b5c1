"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with limited data").

`Augmenter` transforms discriminator inputs, `AdaptiveProbability` controls how often.
"""

from training.augmentation.augmenter import Augmenter
from training.augmentation.probability import AdaptiveProbability
from training.augmentation.settings import AugmentSettings

__all__ = ["AdaptiveProbability", "AugmentSettings", "Augmenter"]
