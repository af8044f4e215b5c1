"""Hair of procedural people: a cap around the skull, locks framing the face, long hair."""

import torch
from torch import Tensor

from mate3d.procedural.attributes import smoothstep
from mate3d.procedural.people.head import PersonHead
from mate3d.procedural.people.person import PersonParameters
from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import (
    RoundCone,
    RoundCones,
    ball,
    chain,
    round_cone_profile,
    smooth_intersection,
    smooth_union,
    stack_points,
)

_FACE_CUT_DEPTH = 0.012
_GROOVE_DEPTH = 0.0026
_GROOVE_COUNT = 17
_GROOVE_RADIUS = 0.12
_CURL_DEPTH = 0.0085
_CURL_FREQUENCY = 72.0
_RECEDING = 0.085
_OPENING_BOTTOM = -0.16


class PersonHair:
    """Hair of a batch of people; the parting makes it asymmetric, so points are not folded."""

    def __init__(self, parameters: PersonParameters, head: PersonHead) -> None:
        column = parameters.columns()
        self._one = torch.ones_like(column["hair"])
        self._volume, self._curls = column["hair_volume"], column["curls"]
        self._missing = 1 - column["hair"]
        self.parting = column["parting"]
        self._place_cap(column, head)
        self._place_locks(column, head)
        self._place_length(column)
        # Grooves and curls make the gradient longer than 1; `_flatness` compensates.
        groove = _GROOVE_DEPTH * (_GROOVE_COUNT * 1.6 + 1) / _GROOVE_RADIUS
        self._groove_depth = _GROOVE_DEPTH * (1 - 0.7 * self._curls)
        taper = 1.5 * (1 - self._least) * self._thickness / 0.2
        steepness = (
            taper + groove * (1 - 0.7 * self._curls) + _CURL_DEPTH * _CURL_FREQUENCY * self._curls
        )
        self._flatness = 1 / (1 + steepness)
        self._relief = self._groove_depth + _CURL_DEPTH * self._curls

    def _place_cap(self, column: dict[str, Tensor], head: PersonHead) -> None:
        one, width, fringe = self._one, column["face_width"], column["fringe"]
        self._thickness = 0.008 + 0.026 * self._volume
        self._least = 0.18 + 0.40 * (column["hair_length"] / 0.3).clamp(max=1)
        hairline = 0.172 * column["forehead"] - 0.035 * fringe
        radius = 0.110 * width
        self._opening_length = hairline - radius - _OPENING_BOTTOM
        self._opening_radii = ((0.158 - 0.03 * column["hair_length"]) * width, radius)
        ear_center = stack_points(0.160 * width, -0.030, 0.014, like=one)
        ear_radius = 0.075 * (1 - column["hair_length"] / 0.35).clamp(min=0)
        self._ear = ball(ear_center, ear_radius)
        self._crown_z = head.cranium_center[:, 2:]

    def _place_locks(self, column: dict[str, Tensor], head: PersonHead) -> None:
        """Place two locks that sweep from the parting over the forehead to the temples."""
        one, width, fringe = self._one, column["face_width"], column["fringe"]
        forehead, volume = column["forehead"], self._volume
        start_x, start_y = 0.062 * self.parting, 0.207 * forehead
        start = torch.cat([start_x, start_y, _front_of_cranium(head, start_x, start_y)], dim=-1)
        locks, radii = {}, (0.024 * volume, 0.028 * volume, 0.018 * volume)
        for side in (-1.0, 1.0):
            middle_x = 0.45 * start_x + side * 0.072 * width
            middle_y = (0.197 - 0.072 * fringe) * forehead
            middle_z = _front_of_cranium(head, middle_x, middle_y) + 0.026 - 0.008 * fringe
            middle = torch.cat([middle_x, middle_y, middle_z], dim=-1)
            end = stack_points(
                side * 0.128 * width, 0.146 - 0.090 * fringe, 0.020 + 0.026 * fringe, like=one
            )
            locks[side] = chain((start, middle, end), radii)
        self._lock_cones = RoundCones(
            {
                "left_start": locks[-1.0][:1],
                "left_end": locks[-1.0][1:],
                "right_start": locks[1.0][:1],
                "right_end": locks[1.0][1:],
            }
        )

    def _place_length(self, column: dict[str, Tensor]) -> None:
        one, width, length = self._one, column["face_width"], column["hair_length"]
        drop = 0.05 + 0.41 * length
        volume = 0.5 + 0.5 * self._volume
        # Hair covers the ears from chin length on.
        is_long = (length / 0.45).clamp(max=1)
        out = 0.014 * is_long
        side = RoundCone(
            stack_points(
                0.108 * width + 0.008 * is_long, 0.050, -0.045 + 0.028 * is_long, like=one
            ),
            torch.cat([out, -drop, 0.020 * length], dim=-1),
            (0.038 + 0.012 * is_long) * volume,
            (0.028 + 0.010 * length) * volume,
        )
        back = RoundCone(
            stack_points(0.0, 0.040, -0.092, like=one),
            torch.cat([torch.zeros_like(drop), -drop, -0.010 * length], dim=-1),
            0.090 * one,
            0.098 * one,
        )
        self._folded_cones = RoundCones({"side": [side], "back": [back], "ear": [self._ear]})

    def strand_angle(self, place: Coordinates) -> tuple[Tensor, Tensor]:  # each [B, N]
        """Return the angle around the crown, constant along a strand, and the distance to it."""
        x, _, z = place
        x, z = x - 0.05 * self.parting, z - self._crown_z
        radius = (x.square() + z.square()).clamp_(min=1e-12).sqrt_()
        return torch.atan2(x, z), radius

    def distance(
        self,
        place: Coordinates,
        cranium: Tensor,  # [B, N] distance to the skull
        above: Tensor | None,  # [B, N] height above the lower edge of the hat, if there are hats
    ) -> Tensor:  # [B, N]
        """Return the distance to all hair; a lower bound near grooves and curls."""
        x, y, z = place
        folded = (x.abs(), y, z)
        # Hair is thinner towards ears and nape.
        rise = smoothstep(y, 0.02, 0.22)
        hair = cranium - self._thickness * (self._least + (1 - self._least) * rise)
        solids = self._folded_cones.distances(folded)
        hair = smooth_union(hair, smooth_union(solids["side"], solids["back"], 0.05), 0.035)
        hair = smooth_intersection(hair, -self._face_opening(folded), 0.04)
        hair = smooth_union(hair, self._lock_distance(place), 0.022)
        hair = smooth_intersection(hair, -solids["ear"], 0.02)
        angle, radius = self.strand_angle(place)
        wave = (_GROOVE_COUNT * angle + 1.2 * (6 * angle).sin() + 9 * self.parting * y).cos_()
        fade = (radius * (1 / _GROOVE_RADIUS)).clamp_(max=1)
        bound = hair - self._relief
        hair = hair + self._groove_depth * wave * fade
        if bool((self._curls > 0).any()):
            bumps = (x * _CURL_FREQUENCY).cos_() * (y * _CURL_FREQUENCY).sin_()
            hair = hair - _CURL_DEPTH * self._curls * bumps * (z * _CURL_FREQUENCY).sin_()
        # Far from the relief, the smooth surface minus its depth is the tighter bound.
        hair = torch.maximum(hair * self._flatness, bound) + _RECEDING * self._missing
        return hair if above is None else smooth_intersection(hair, above, 0.01)

    def _face_opening(self, folded: Coordinates) -> Tensor:
        """Return the distance to the face's opening in the hair: an upright oval column."""
        x, y, z = folded
        along = y - _OPENING_BOTTOM
        profile = round_cone_profile(x, along, self._opening_length, *self._opening_radii)
        return smooth_intersection(profile, _FACE_CUT_DEPTH - z, 0.03)

    def _lock_distance(self, place: Coordinates) -> Tensor:
        locks = self._lock_cones.distances(place)
        left = smooth_union(locks["left_start"], locks["left_end"], 0.012)
        right = smooth_union(locks["right_start"], locks["right_end"], 0.012)
        return smooth_union(left, right, 0.012)


def _front_of_cranium(head: PersonHead, x: Tensor, y: Tensor) -> Tensor:  # [B, 1] each
    """Return z of the skull's front at (x, y); beyond the skull, z near its rim."""
    width, height, depth = head.cranium_radii
    level = (x / width).square() + ((y - head.cranium_center[:, 1:2]) / height).square()
    return head.cranium_center[:, 2:] + depth * (1 - level).clamp(min=0.02).sqrt()
