"""Training schedules, as pure functions of the number of images seen."""

from dataclasses import dataclass
from typing import Annotated

from mate3d.options import NonNegativeFloat, Options, PositiveFloat, Range, Share

_Side = Annotated[int, Range(1, 4096)]


@dataclass(frozen=True)
class ScheduleSettings(Options):
    """Settings of all schedules; counts start with the adversarial training.

    Args:
        resolution_initial: Resolution of raw renders at the start, in pixels.
        resolution_final: Resolution of raw renders after the fade, in pixels.
        resolution_hold_kimg: Thousands of images at the initial resolution before the fade.
        resolution_fade_kimg: Length of the fade, in thousands of images; 0 renders at the final
            resolution throughout.
        blur_initial_sigma: Blur of all images shown to the discriminators at the start, in pixels.
        blur_fade_kimg: Length of the fade to no blur, in thousands of images; 0 disables the blur.
        pose_swap_probability: Final probability of conditioning a head on a camera other than its
            own; null conditions on zeros.
        pose_swap_fade_kimg: Length of the fade from probability 1, in thousands of images.
        style_mixing_probability: Share of heads whose later style rows come from a second latent
            (StyleGAN's style mixing). The release uses 0, StyleGAN2 0.9.
        ema_kimg: Half-life of the moving average of the generator's weights, in thousands of
            images.
        ema_rampup: Upper bound of the half-life as a fraction of all images seen so far; null sets
            no bound.
        beta_initial: Softness of the surface at the start, in world units.
        beta_final: Softness after the fade, in world units; null leaves it at model.generator.beta,
            or to model.generator.learn_beta.
        beta_fade_kimg: Length of the fade, in thousands of images; each image multiplies beta by
            the same factor.
    """

    resolution_initial: _Side = 64
    resolution_final: _Side = 64
    resolution_hold_kimg: NonNegativeFloat = 0.0
    resolution_fade_kimg: NonNegativeFloat = 0.0
    blur_initial_sigma: NonNegativeFloat = 10.0
    blur_fade_kimg: NonNegativeFloat = 200.0
    pose_swap_probability: Share | None = 0.5
    pose_swap_fade_kimg: NonNegativeFloat = 1000.0
    style_mixing_probability: Share = 0.0
    ema_kimg: NonNegativeFloat = 10.0
    ema_rampup: NonNegativeFloat | None = 0.05
    beta_initial: PositiveFloat = 0.1
    beta_final: PositiveFloat | None = None
    beta_fade_kimg: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class ScheduleValues:
    """Values of the schedules at one iteration; names as in `ScheduleSettings`."""

    resolution: int
    blur_sigma: float
    pose_swap_probability: float | None
    style_mixing_probability: float = 0.0
    beta: float | None = None


def schedule_values(settings: ScheduleSettings, images_seen: int) -> ScheduleValues:
    """Evaluate the schedules used by the training steps."""
    return ScheduleValues(
        resolution=raw_resolution(settings, images_seen),
        blur_sigma=blur_sigma(settings, images_seen),
        pose_swap_probability=pose_swap_probability(settings, images_seen),
        style_mixing_probability=settings.style_mixing_probability,
        beta=beta(settings, images_seen),
    )


def faded_fraction(images_seen: float, fade_kimg: float) -> float:
    """Return the completed fraction of a fade, in 0..1; 1 for a fade of length 0."""
    return min(images_seen / (fade_kimg * 1000), 1.0) if fade_kimg > 0 else 1.0


def raw_resolution(settings: ScheduleSettings, images_seen: int) -> int:
    """Return the side of the raw render in pixels, linear during the fade, rounded."""
    faded = max(images_seen - 1000 * settings.resolution_hold_kimg, 0)
    share = faded_fraction(faded, settings.resolution_fade_kimg)
    return round(settings.resolution_initial * (1 - share) + settings.resolution_final * share)


def blur_sigma(settings: ScheduleSettings, images_seen: int) -> float:
    """Return the blur width in pixels; 0 means no blur."""
    return settings.blur_initial_sigma * (1 - faded_fraction(images_seen, settings.blur_fade_kimg))


def pose_swap_probability(settings: ScheduleSettings, images_seen: int) -> float | None:
    """Return the probability of conditioning on another camera; None conditions on zeros."""
    if settings.pose_swap_probability is None:
        return None
    share = faded_fraction(images_seen, settings.pose_swap_fade_kimg)
    return 1 - share + settings.pose_swap_probability * share


def beta(settings: ScheduleSettings, images_seen: int) -> float | None:
    """Return the softness of the surface, in world units; None leaves it as it is.

    The fade is geometric, because the sharpness of a picture depends on the logarithm of beta.
    """
    if settings.beta_final is None:
        return None
    share = faded_fraction(images_seen, settings.beta_fade_kimg)
    return settings.beta_initial ** (1 - share) * settings.beta_final**share


def ema_decay(settings: ScheduleSettings, images_seen: int, batch_size: int) -> float:
    """Return the EMA decay of one iteration: 0.5^(batch / half-life)."""
    half_life = settings.ema_kimg * 1000
    if settings.ema_rampup is not None:
        half_life = min(half_life, images_seen * settings.ema_rampup)
    return 0.5 ** (batch_size / max(half_life, 1e-8))
