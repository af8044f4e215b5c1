"""Head shape of procedural people: one smooth surface split into classes, eyes, brows, mouth.

Heads are mirror-symmetric, so solids are evaluated at (|x|, y, z), the `folded` points.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.procedural.people.person import PersonParameters
from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import (
    RoundCone,
    RoundCones,
    along_axis,
    ball,
    chain,
    ellipsoid_distance,
    extrude_profile,
    offset_from,
    round_cone_profile,
    smooth_intersection,
    smooth_union,
    sphere_distance,
    stack_points,
)

_EAR_HALF_THICKNESS = 0.011
_EAR_EDGE_RADIUS = 0.010
_EAR_LEAN = 0.16
_LID_THICKNESS = 0.0045
# Solids that meet at the symmetry plane are joined by a seam of this width, not a crease.
_SEAM = 0.012
_CRANIUM_DEPTH = 0.06


@dataclass
class Flesh:
    """The skin surface and its division into classes; all tensors are [B, N].

    Args:
        solids: Distances to the round cones that make up the head, by name.
        surface: Distance to the union of skin, nose, ears, lips and neck.
        cranium: Distance to the skull only, which hair and hats are built on.
        face: Distance to the surface without the neck.
        nose: Negative where the surface belongs to the nose; same for the fields below.
    """

    solids: dict[str, Tensor]
    surface: Tensor
    cranium: Tensor
    face: Tensor
    nose: Tensor
    upper_lip: Tensor
    lower_lip: Tensor
    ear: Tensor
    neck: Tensor


class PersonHead:
    """Solids of a batch of heads."""

    def __init__(self, parameters: PersonParameters) -> None:
        column = parameters.columns()
        self._one = torch.ones_like(column["face_width"])
        # Some round cones meet in a seam at the symmetry plane; all others are simply folded.
        self._folded: dict[str, list[RoundCone]] = {}
        self._place_skull(column)
        self._place_eyes(column)
        self._place_ears(column)
        self._place_nose(column)
        self._place_mouth(column)
        self._place_brows(column)
        self._cones = RoundCones(self._folded)
        self._slit_cones = RoundCones({"slit": self._folded["slit"]})

    def _place_skull(self, column: dict[str, Tensor]) -> None:
        one, width = self._one, column["face_width"]
        forehead, chin, cheeks = column["forehead"], column["chin"], column["cheeks"]
        jaw = width * column["jaw_width"]
        self.cranium_center = stack_points(0.0, 0.075 * forehead, -0.040, like=one)
        self.cranium_radii = (0.148 * width, 0.165 * forehead, 0.158 * one)
        face_start = stack_points(0.0, -0.030, -0.026, like=one)
        chin_end = stack_points(0.0, -0.153 - 0.026 * chin, 0.032, like=one)
        self._folded["face"] = chain((face_start, chin_end), (0.126 * width, 0.072 * one))
        jaw_start = stack_points(0.080 * jaw, -0.112, -0.012, like=one)
        jaw_end = stack_points(0.030 * jaw, -0.166 - 0.026 * chin, 0.038, like=one)
        cheek_center = stack_points(0.068 * width, -0.074, 0.036, like=one)
        cheek_radius = 0.053 + 0.014 * cheeks + 0.004 * column["smile"]
        socket_center = stack_points(0.070 * column["eye_spacing"] * width, 0.018, 0.142, like=one)
        socket_radius = 0.080 * (0.5 + 0.5 * column["eye_size"])
        self._seamed_cones = RoundCones(
            {
                "jaw": chain((jaw_start, jaw_end), (0.048 * one, 0.050 * one)),
                "cheek": [ball(cheek_center, cheek_radius)],
                "socket": [ball(socket_center, socket_radius)],
            }
        )
        muzzle_center = stack_points(0.0, -0.135, 0.054, like=one)
        self._folded["muzzle"] = [ball(muzzle_center, 0.056 * one)]
        self._skull_cones = RoundCones(self._folded)
        neck_start = stack_points(0.0, -0.10, -0.045, like=one)
        neck_axis = stack_points(0.0, -0.28, -0.03, like=one)
        neck = column["neck_width"]
        self._folded["neck"] = [RoundCone(neck_start, neck_axis, 0.060 * neck, 0.068 * neck)]

    def _place_eyes(self, column: dict[str, Tensor]) -> None:
        one, size = self._one, column["eye_size"]
        self.eye_radius = 0.048 * size
        center_x = 0.070 * column["eye_spacing"] * column["face_width"]
        self.eye_center = stack_points(center_x, 0.020, 0.085 - self.eye_radius, like=one)
        self.eye_inner_x = center_x - self.eye_radius - _LID_THICKNESS
        self._folded["eye"] = [ball(self.eye_center, self.eye_radius)]
        openness, tilt = column["eye_openness"], 0.36 * (column["eye_tilt"] - 0.42)
        # Lids end in planes through the centre of the eyeball, rotated about its horizontal axis.
        self.upper_lid = _lid_plane(-0.22 + 1.06 * openness, tilt)
        self.lower_lid = -_lid_plane(-0.22 - 0.33 * openness, tilt)

    def _place_ears(self, column: dict[str, Tensor]) -> None:
        one, size = self._one, column["ear_size"]
        self._ear_base = stack_points(0.136 * column["face_width"], -0.022, -0.014, like=one)
        yaw = torch.full_like(one, 0.55)
        self._ear_lateral = stack_points(yaw.cos(), 0.0, -yaw.sin(), like=one)
        self._ear_front = stack_points(yaw.sin(), 0.0, yaw.cos(), like=one)
        self._ear_size = size
        self._ear_length = 0.050 * size
        self._ear_radii = (0.0185 * size, 0.0325 * size)
        self._bowl_radius = 0.026 * size

    def _place_nose(self, column: dict[str, Tensor]) -> None:
        one, width, bridge = self._one, column["nose_width"], column["nose_bridge"]
        length = column["nose_length"]
        tip_y = 0.030 - 0.093 * length
        tip_radius = 0.0225 * (0.6 + 0.4 * width)
        start = stack_points(0.0, 0.030, 0.065 + 0.014 * bridge, like=one)
        tip = stack_points(0.0, tip_y, 0.155 - tip_radius, like=one)
        self._folded["bridge"] = chain((start, tip), (0.0135 * one, tip_radius))
        wing_center = stack_points(0.0200 * width, tip_y - 0.007, 0.114, like=one)
        self._folded["wing"] = [ball(wing_center, 0.0140 * (0.5 + 0.5 * width))]
        self._nostril = stack_points(0.0115 * width, tip_y - 0.021, 0.127, like=one)

    def _place_mouth(self, column: dict[str, Tensor]) -> None:
        one, smile, opening = self._one, column["smile"] - 0.3, column["mouth_opening"]
        fullness = column["lip_fullness"]
        corner_x = 0.057 * column["mouth_width"] * (1 + 0.22 * smile)
        corner_y = -0.133 + 0.017 * smile
        half = 0.021 * opening
        middle = -0.1450 - 0.010 * smile - 0.3 * half
        top, bottom = middle + half, middle - half
        (corner, peak, dip, lower, center, upper_side, lower_side) = self._on_face(
            [
                (corner_x, corner_y),
                (0.014 * one, top + 0.0080 * fullness),
                (0.0 * one, top + 0.0056 * fullness),
                (0.0 * one, bottom - 0.0072 * fullness),
                (0.0 * one, middle),
                (0.64 * corner_x, 0.60 * top + 0.40 * corner_y + 0.0040 * fullness),
                (0.60 * corner_x, 0.68 * bottom + 0.32 * corner_y - 0.0052 * fullness),
            ]
        )
        inward = stack_points(0.0, 0.0, 0.0035, like=one)
        corner = corner - 1.2 * inward
        self._folded["upper_lip"] = chain(
            (dip - inward, peak - inward, upper_side - inward, corner),
            (0.0066 * fullness, 0.0072 * fullness, 0.0052 * fullness, 0.0022 * one),
        )
        self._folded["lower_lip"] = chain(
            (lower - inward, lower_side - inward, corner),
            (0.0094 * fullness, 0.0068 * fullness, 0.0022 * one),
        )
        forward = stack_points(0.0, 0.0, 0.0035, like=one)
        bend = 0.45 * (upper_side + lower_side) + 0.1 * center
        # The gap between the lips, a line if closed; teeth and tongue are deeper.
        slit = (center + forward, bend + 0.6 * forward, corner)
        slit_radii = (half.clamp(min=0.0010), 0.001 + 0.66 * half, 0.001 * one)
        self._folded["slit"] = chain(slit, slit_radii)
        depth = stack_points(0.0, 0.0, 0.003 + 0.55 * half, like=one)
        self._folded["mouth"] = chain([point - depth for point in slit], slit_radii)
        self.mouth_top, self.mouth_half_height = top, half

    def _place_brows(self, column: dict[str, Tensor]) -> None:
        one, thickness = self._one, column["brow_thickness"]
        lift = 0.020 * (column["brow_height"] - 0.5) + 0.040 * (column["eye_size"] - 1)
        arch = 0.012 * (column["brow_arch"] - 0.5)
        center_x = self.eye_center[:, :1]
        places = [
            (center_x - 0.036 * one, 0.099 + lift - 0.5 * arch),
            (center_x + 0.006 * one, 0.106 + lift + arch),
            (center_x + 0.045 * one, 0.089 + lift - 0.4 * arch),
        ]
        sunk = stack_points(0.0, 0.0, 0.0030 * thickness, like=one)
        self._folded["brow"] = chain(
            [point - sunk for point in self._on_face(places)],
            [scale * thickness for scale in (0.0070, 0.0082, 0.0036)],
        )
        self.brow_inner_x = center_x - 0.05

    def _on_face(self, places: list[tuple[Tensor, Tensor]]) -> list[Tensor]:  # [B, 3] each
        """Return the points of the bare face visible from the front at (x, y)."""
        x = torch.cat([x for x, _ in places], dim=-1)
        y = torch.cat([y for _, y in places], dim=-1)
        z = torch.full_like(x, 0.3)
        for _ in range(40):
            place = (x, y, z)
            z = z - self._skull_distance(place, self._skull_cones.distances(place))[1]
        return list(torch.stack([x, y, z], dim=-1).unbind(1))

    def _skull_distance(
        self, folded: Coordinates, solids: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the distances to the cranium, and to its union with face, jaw and cheeks."""
        cranium = ellipsoid_distance(offset_from(folded, self.cranium_center), self.cranium_radii)
        # Deep inside, the gradient of the ellipsoid approximation is longer than 1.
        cranium = cranium.clamp(min=-_CRANIUM_DEPTH)
        x, y, z = folded
        seamed = self._seamed_cones.distances(((x.square() + _SEAM**2).sqrt_(), y, z))
        skull = smooth_union(cranium, solids["face"], 0.05)
        skull = smooth_union(skull, seamed["jaw"], 0.04)
        skull = smooth_union(skull, seamed["cheek"], 0.05)
        skull = smooth_union(skull, solids["muzzle"], 0.03)
        return cranium, smooth_intersection(skull, -seamed["socket"], 0.03)

    def flesh(self, folded: Coordinates) -> Flesh:
        """Return the surface of all skin, and its division into classes."""
        solids = self._cones.distances(folded)
        cranium, face = self._skull_distance(folded, solids)
        face = smooth_union(face, self._lid_distance(folded, solids["eye"]), 0.014)
        nose = smooth_union(solids["bridge"], solids["wing"], 0.012)
        face = smooth_union(face, nose, 0.022)
        upper, lower = solids["upper_lip"], solids["lower_lip"]
        face = smooth_union(face, torch.minimum(upper, lower), 0.007)
        face = smooth_intersection(face, -solids["slit"], 0.003)
        ear = self._ear_distance(folded)
        face = smooth_union(face, ear, 0.012)
        surface = smooth_union(face, solids["neck"], 0.035)
        ear = ear - 0.002
        return Flesh(
            solids=solids,
            surface=surface,
            cranium=cranium,
            face=face,
            nose=nose - 0.003,
            # Halved, so that the gradient at the border between the lips is not longer than 1.
            upper_lip=torch.maximum(upper - 0.0026, 0.5 * (upper - lower)),
            lower_lip=torch.maximum(lower - 0.0026, 0.5 * (lower - upper)),
            ear=ear,
            neck=torch.maximum(0.010 - face, -ear),
        )

    def _lid_distance(self, folded: Coordinates, eye: Tensor) -> Tensor:
        offset = offset_from(folded, self.eye_center)
        opening = torch.maximum(
            along_axis(offset, self.upper_lid), along_axis(offset, self.lower_lid)
        )
        return smooth_intersection(eye - _LID_THICKNESS, -opening, 0.004)

    def nostril_offset(self, folded: Coordinates) -> Coordinates:
        """Return coordinates relative to the nostril."""
        return offset_from(folded, self._nostril)

    def _ear_distance(self, folded: Coordinates) -> Tensor:
        offset = offset_from(folded, self._ear_base)
        # Coordinates in the ear's plane, then in front of it.
        outward, upward = along_axis(offset, self._ear_lateral), offset[1]
        height = along_axis(offset, self._ear_front)
        size, cos, sin = self._ear_size, math.cos(_EAR_LEAN), math.sin(_EAR_LEAN)
        x, y = outward - 0.010 * size, upward + 0.032 * size
        along, across = y * cos + x * sin, x * cos - y * sin
        profile = round_cone_profile(across.abs(), along, self._ear_length, *self._ear_radii)
        plate = extrude_profile(profile, height, _EAR_HALF_THICKNESS, _EAR_EDGE_RADIUS)
        bowl = sphere_distance(
            (outward - 0.019 * size, upward - 0.010 * size, height - 0.022 * size),
            self._bowl_radius,
        )
        return smooth_intersection(plate, -bowl, 0.008)

    def eye_distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to the eyeball."""
        return sphere_distance(offset_from(folded, self.eye_center), self.eye_radius)

    def slit_distance(self, folded: Coordinates) -> Tensor:  # [B, N]
        """Return the distance to the gap between the lips, a line if they are closed."""
        return self._slit_cones.distances(folded)["slit"]


def _lid_plane(angle: Tensor, tilt: Tensor) -> Tensor:  # [B, 1] each -> [B, 3]
    """Return the normal of a plane through the eye's horizontal axis, `angle` above horizontal."""
    up = torch.cat([-tilt.sin(), tilt.cos(), torch.zeros_like(tilt)], dim=-1)
    front = stack_points(0.0, 0.0, 1.0, like=angle)
    return angle.cos() * up - angle.sin() * front
