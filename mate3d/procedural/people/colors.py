"""Unshaded colours of procedural people: skin, eyes, mouth, hair and clothes."""

import torch
from torch import Tensor

from mate3d.labels import CELEBAMASK_HQ
from mate3d.procedural.people.hair import PersonHair
from mate3d.procedural.people.head import PersonHead
from mate3d.procedural.people.person import PersonParameters
from mate3d.procedural.portrait_field import Coordinates
from mate3d.procedural.primitives import along_axis, blend, mix, offset_from, ramp

_BORDER = 0.0022
_LASHES = (0.09, 0.06, 0.06)
_SCLERA = (1.0, 0.99, 0.98)
_PUPIL = (0.03, 0.03, 0.04)
_TEETH = (0.96, 0.94, 0.90)
_TONGUE = (0.72, 0.30, 0.30)
_THROAT = (0.22, 0.06, 0.07)


class PersonColors:
    """Unshaded colour of a batch of people at any point."""

    def __init__(self, parameters: PersonParameters, head: PersonHead, hair: PersonHair) -> None:
        self._head, self._hair = head, hair
        self._colors, self._numbers = parameters.colors(), parameters.columns()

    def _constant(self, color: tuple[float, float, float]) -> Tensor:  # [3, 1]
        return self._colors["skin_color"].new_tensor(color)[:, None]

    def albedo(
        self,
        place: Coordinates,
        part_distances: list[Tensor],  # 18 of [B, N], in order of label id
        head_distance: Tensor,  # [B, N] their minimum
    ) -> Tensor:  # [B, 3, N]
        """Return the colour in 0..1; classes blend over a few thousandths of a unit at borders."""
        distances = dict(zip(CELEBAMASK_HQ.class_names[1:], part_distances, strict=True))
        folded = (place[0].abs(), place[1], place[2])
        skin = self._skin(folded, distances)
        colors = {
            **dict.fromkeys(("skin", "nose", "neck", "l_ear", "r_ear"), skin),
            **dict.fromkeys(("l_eye", "r_eye"), self._eye(place)),
            **dict.fromkeys(("l_brow", "r_brow"), self._colors["brow_color"]),
            **dict.fromkeys(("u_lip", "l_lip"), self._lip(folded)),
            "mouth": self._mouth(folded),
            "hair": self._strands(place),
            "hat": self._hat(place),
            "eye_g": self._colors["glasses_color"],
            "cloth": self._colors["cloth_color"],
        }
        painted = (distances[name] for name in colors)
        return blend(colors.values(), painted, head_distance, _BORDER)

    def _skin(self, folded: Coordinates, distances: dict[str, Tensor]) -> Tensor:
        skin = self._colors["skin_color"]
        x, y, z = folded
        blush = skin * self._constant((1.0, 0.72, 0.68)) + self._constant((0.02, 0.0, 0.0))
        cheek = ((x - 0.088).square() + (y + 0.062).square()).sqrt_()
        tip = (x.square() + (y + 0.068).square() + (z - 0.15).square()).sqrt_()
        ear = distances["l_ear"].minimum(distances["r_ear"])
        rosy = torch.maximum(0.55 * ramp(cheek, 0.055, 0.005), 0.35 * ramp(tip, 0.045, 0.01))
        rosy = torch.maximum(rosy * ramp(z, 0.02, 0.06), 0.35 * ramp(ear, 0.006, 0.0))
        color = mix(skin, blush, rosy)
        color = self._beard(color, folded)
        color = self._eyelids(color, folded)
        return self._nostrils(color, folded)

    def _beard(self, color: Tensor, folded: Coordinates) -> Tensor:
        x, y, z = folded
        # The upper edge rises from the corners of the mouth to the ears, below the cheeks.
        edge = -0.142 + 0.95 * (x - 0.050).clamp(min=0)
        jaw = ramp(y - edge, 0.013, -0.019) * ramp(z, -0.040, -0.010)
        mouth = (x.square() + ((y + 0.142) * 1.9).square()).sqrt_()
        jaw = jaw * ramp(mouth, 0.046, 0.062)
        moustache = ramp((y + 0.110 + 0.22 * x).abs(), 0.018, 0.007) * ramp(x, 0.068, 0.052)
        area = torch.maximum(jaw, moustache) * ramp(y, -0.27, -0.23)
        beard = self._numbers["beard"]
        # Skin shows through stubble: a shadow without the hair's full colour.
        mixed = 0.5 * (self._colors["skin_color"] + self._colors["hair_color"])
        stubble = 0.55 * torch.lerp(mixed, mixed.mean(dim=1, keepdim=True), 0.5)
        color = mix(color, stubble, 0.45 * ramp(beard, 0.0, 0.4) * area)
        return mix(color, 0.88 * self._colors["hair_color"], ramp(beard, 0.4, 0.9) * area)

    def _eyelids(self, color: Tensor, folded: Coordinates) -> Tensor:
        head = self._head
        offset = offset_from(folded, head.eye_center)
        above, below = (along_axis(offset, lid) for lid in (head.upper_lid, head.lower_lid))
        # Dividing by the distance from the lids' hinge narrows the bands towards the corners.
        hinge = (offset[1].square() + offset[2].square()).clamp_(min=1e-9).sqrt_()
        above, below = above / hinge, below / hinge
        near = ramp(head.eye_distance(folded), 0.009, 0.006) * ramp(offset[2], 0.0, 0.008)
        lashes = near * ramp(above, 0.15, 0.08) * ramp(above, -0.05, 0.0)
        rim = near * ramp(below, 0.10, 0.02) * 0.15
        color = mix(color, color * 0.55, rim)
        return mix(color, self._constant(_LASHES), 0.92 * lashes)

    def _nostrils(self, color: Tensor, folded: Coordinates) -> Tensor:
        offset, radii = self._head.nostril_offset(folded), (0.0085, 0.0055, 0.010)
        inside = sum((axis / radius).square() for axis, radius in zip(offset, radii, strict=True))
        return mix(color, color * 0.35, ramp(inside.sqrt(), 1.2, 0.7))

    def _eye(self, place: Coordinates) -> Tensor:
        folded = (place[0].abs(), place[1], place[2])
        head, radius = self._head, self._head.eye_radius
        across, above, front = (axis / radius for axis in offset_from(folded, head.eye_center))
        reach = (across.square() + above.square()).sqrt_() + ramp(front, 0.0, -0.5)
        iris = self._colors["iris_color"]
        sclera = mix(
            self._constant(_SCLERA), self._constant((0.93, 0.87, 0.86)), ramp(reach, 0.75, 1.05)
        )
        # Darker above and at the rim, lighter below, to give the iris depth.
        inner = mix(iris * 0.55, (iris * 1.25 + 0.08).clamp(max=1), ramp(above, 0.35, -0.45))
        inner = mix(inner, iris * 0.25, ramp(reach, 0.43, 0.52))
        color = mix(sclera, inner, ramp(reach, 0.55, 0.51))
        color = mix(color, self._constant(_PUPIL), ramp(reach, 0.27, 0.22))
        # The glints of both eyes are on the same side, as if from a window.
        side = torch.where(place[0] < 0, -across, across)
        glint = ((side + 0.17).square() + (above - 0.24).square()).sqrt_()
        color = mix(color, torch.ones_like(iris), ramp(glint, 0.15, 0.11))
        spark = ((side - 0.20).square() + (above + 0.22).square()).sqrt_()
        return mix(color, torch.ones_like(iris), 0.6 * ramp(spark, 0.085, 0.05))

    def _lip(self, folded: Coordinates) -> Tensor:
        lip = self._colors["lip_color"]
        return mix(lip, lip * 0.30, ramp(self._head.slit_distance(folded), 0.0028, 0.0006))

    def _mouth(self, folded: Coordinates) -> Tensor:
        head = self._head
        depth = (head.mouth_top - folded[1]) / (2 * head.mouth_half_height).clamp(min=0.002)
        color = mix(self._constant(_TEETH), self._constant(_THROAT), ramp(depth, 0.42, 0.50))
        color = mix(color, self._constant(_TONGUE), ramp(depth, 0.62, 0.85))
        closed = ramp(head.mouth_half_height, 0.004, 0.002)
        return mix(color, self._constant(_THROAT), closed.expand_as(depth))

    def _strands(self, place: Coordinates) -> Tensor:
        hair = self._colors["hair_color"]
        angle, _ = self._hair.strand_angle(place)
        sweep = angle + 0.5 * self._numbers["parting"] * place[1]
        fine = (46 * sweep + 2 * (9 * sweep).sin()).cos_() * 0.5 + (17 * sweep).cos_() * 0.5
        shade = 1 + (0.10 + 0.10 * (1 - self._numbers["curls"])) * fine
        light = ramp(place[1], -0.15, 0.22)
        # A ring of gloss around the crown, as on combed hair under a lamp.
        ring = ((place[1] - 0.185 - 0.012 * fine) * (1 / 0.026)).square().neg_().exp_()
        ring = 0.30 * ring * (1 - 0.7 * self._numbers["curls"])
        base = hair * (0.82 + 0.24 * light + ring)[:, None] + (0.012 + 0.10 * ring)[:, None]
        return (base * shade[:, None]).clamp(0, 1)

    def _hat(self, place: Coordinates) -> Tensor:
        hat = self._colors["hat_color"]
        angle = torch.atan2(place[0], place[2] + 0.035)
        ribs = (36 * angle).cos_() * ramp(self._numbers["hat_brim"], 0.5, 0.2)
        return hat * (1 + 0.07 * ribs)[:, None]
