"""Training schedules, as pure functions of the number of images seen."""

from dataclasses import dataclass

from mate3d.option_checks import check_count, check_range

_MOST_PIXELS = 4096


@dataclass(frozen=True)
class ScheduleSettings:
    """Settings of all schedules (spec 8.1, 8.2).

    Args:
        resolution_initial: Side of the raw render at the start, pixels.
        resolution_final: Side of the raw render after the fade.
        resolution_fade_kimg: Length of the fade; 0 renders at the final resolution throughout.
        blur_initial_sigma: Width of the blur of images shown to the discriminators, pixels.
        blur_fade_kimg: Length of its fade to no blur; 0 turns it off.
        pose_swap_probability: Final probability that a sample is conditioned on its neighbour's
            camera; null conditions on zeros.
        pose_swap_fade_kimg: Length of the fade from always swapping.
        style_mixing_probability: Share of heads that take their later style rows from a second
            latent; constant.
        ema_kimg: Half-life of the average of the generator's weights.
        ema_rampup: Upper bound of the half-life as a fraction of the images seen; null for none.
    """

    resolution_initial: int = 64
    resolution_final: int = 64
    resolution_fade_kimg: float = 0.0
    blur_initial_sigma: float = 10.0
    blur_fade_kimg: float = 200.0
    pose_swap_probability: float | None = 0.5
    pose_swap_fade_kimg: float = 1000.0
    style_mixing_probability: float = 0.0
    ema_kimg: float = 10.0
    ema_rampup: float | None = 0.05

    def __post_init__(self):
        for name in ("resolution_initial", "resolution_final"):
            check_count(f"schedule.{name}", getattr(self, name), 1, _MOST_PIXELS)
        for name in (
            "resolution_fade_kimg",
            "blur_initial_sigma",
            "blur_fade_kimg",
            "pose_swap_fade_kimg",
            "ema_kimg",
        ):
            check_range(f"schedule.{name}", getattr(self, name), 0)
        check_range("schedule.style_mixing_probability", self.style_mixing_probability, 0, 1)
        swap, rampup = self.pose_swap_probability, self.ema_rampup
        check_range("schedule.pose_swap_probability", swap, 0, 1, or_null=True)
        check_range("schedule.ema_rampup", rampup, 0, or_null=True)


@dataclass(frozen=True)
class ScheduleValues:
    """Values of the schedules at one iteration; names as in `ScheduleSettings`."""

    resolution: int
    blur_sigma: float
    pose_swap_probability: float | None
    style_mixing_probability: float = 0.0


def schedule_values(settings: ScheduleSettings, images_seen: int) -> ScheduleValues:
    """Evaluate the schedules used by the training steps."""
    return ScheduleValues(
        resolution=raw_resolution(settings, images_seen),
        blur_sigma=blur_sigma(settings, images_seen),
        pose_swap_probability=pose_swap_probability(settings, images_seen),
        style_mixing_probability=settings.style_mixing_probability,
    )


def faded_fraction(images_seen: int, fade_kimg: float) -> float:
    """Return the completed fraction of a fade, in 0..1; 1 for a fade of length 0."""
    return min(images_seen / (fade_kimg * 1000), 1.0) if fade_kimg > 0 else 1.0


def raw_resolution(settings: ScheduleSettings, images_seen: int) -> int:
    """Return the side of the raw render in pixels, linear in the images seen, rounded."""
    share = faded_fraction(images_seen, settings.resolution_fade_kimg)
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


def ema_decay(settings: ScheduleSettings, images_seen: int, batch_size: int) -> float:
    """Return the EMA decay of one iteration: 0.5^(batch / half-life)."""
    half_life = settings.ema_kimg * 1000
    if settings.ema_rampup is not None:
        half_life = min(half_life, images_seen * settings.ema_rampup)
    return 0.5 ** (batch_size / max(half_life, 1e-8))
