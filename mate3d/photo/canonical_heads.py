"""World positions of the landmarks of average heads.

World axes: y up; a frontal camera at +z looks along -z and sees world +x on the right. The person
has a scale of 2.22 world units per metre, with the origin inside the head between eyes and ears,
matching EG3D's framing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mate3d.cameras import DEFAULT_FOCAL, DEFAULT_RADIUS
from mate3d.labels import LabelSet
from mate3d.photo.alignment import EG3D_SIDE, FACE_DECIMETRES
from mate3d.photo.landmarks import FIVE_POINTS
from mate3d.photo.mask_landmarks import is_cat_set

WorldPoint = tuple[float, float, float]
# Width of the default rig's image at the world origin, in world units.
_IMAGE_SIDE = DEFAULT_RADIUS / DEFAULT_FOCAL
_SIZE_SPREAD = 0.06


@dataclass(frozen=True)
class CanonicalHead:
    """Landmarks of an average head.

    Args:
        name: "person" or "cat".
        points: World position of each landmark.
        spread: Standard deviation of individuals' measured landmarks from `points`, per image
            axis, in world units. Landmarks with a small spread have more weight.
        modes: Independent modes of variation between individuals, each the shift of some
            landmarks by one standard deviation, in world units. `spread` is the remainder.
    """

    name: str
    points: Mapping[str, WorldPoint]
    spread: Mapping[str, float]
    modes: tuple[Mapping[str, WorldPoint], ...] = ()


def _mirrored(
    sides: Mapping[str, WorldPoint], middle: Mapping[str, WorldPoint]
) -> dict[str, WorldPoint]:
    left = {f"left_{part}": (-x, y, z) for part, (x, y, z) in sides.items()}
    right = {f"right_{part}": (x, y, z) for part, (x, y, z) in sides.items()}
    return left | right | dict(middle)


def _size_mode(points: Mapping[str, WorldPoint]) -> dict[str, WorldPoint]:
    """Return the mode that enlarges a head, since crops are not all equally tight."""
    return {name: tuple(_SIZE_SPREAD * value for value in xyz) for name, xyz in points.items()}


def _person(points: Mapping[str, WorldPoint]) -> CanonicalHead:
    spread = {name: 0.006 if name.endswith("_eye") else 0.010 for name in points}
    return CanonicalHead("person", points, spread, modes=(_size_mode(points),))


PERSON = _person(
    _mirrored(
        {"eye": (0.070, 0.020, 0.085), "mouth": (0.055, -0.135, 0.095)},
        {"nose": (0.0, -0.065, 0.155)},
    )
)


def _ffhq_person() -> CanonicalHead:
    """Return PERSON relative to the centre of FFHQ's crop, scaled to its side."""
    _, eye_height, eye_depth = PERSON.points["right_eye"]
    _, mouth_height, mouth_depth = PERSON.points["right_mouth"]
    height = eye_height - 0.1 * (eye_height - mouth_height)
    depth = eye_depth - 0.1 * (eye_depth - mouth_depth)
    scale = _IMAGE_SIDE / (4.0 * 2 * PERSON.points["right_eye"][0])
    return _person(
        {
            name: (scale * x, scale * (y - height), scale * (z - depth))
            for name, (x, y, z) in PERSON.points.items()
        }
    )


FFHQ_PERSON = _ffhq_person()
EG3D_PERSON = _person(
    {
        name: tuple(_IMAGE_SIDE / EG3D_SIDE * value for value in xyz)
        for name, xyz in zip(FIVE_POINTS, FACE_DECIMETRES.tolist(), strict=True)
    }
)

# Of the average procedural cat, as found by `landmarks_from_mask`: eyes and mouth are centres of
# their visible parts, not anatomical points. Ears vary most, but symmetrically, in length and tilt.
_CAT_POINTS = _mirrored(
    {"eye": (0.0857, 0.0066, 0.1243), "ear": (0.1514, 0.2143, -0.0539)},
    {"nose": (0.0, -0.0663, 0.1846), "mouth": (0.0, -0.1156, 0.1809)},
)
CAT = CanonicalHead(
    name="cat",
    points=_CAT_POINTS,
    spread={
        "left_eye": 0.006,
        "right_eye": 0.006,
        "nose": 0.003,
        "mouth": 0.004,
        "left_ear": 0.008,
        "right_ear": 0.008,
    },
    modes=(
        _mirrored({"ear": (0.006, 0.019, -0.003)}, {}),
        _mirrored({"ear": (0.016, -0.006, -0.007)}, {}),
        _size_mode(_CAT_POINTS),
    ),
)


def canonical_head(
    label_set: LabelSet, framing: Literal["rig", "ffhq", "eg3d"] = "rig"
) -> CanonicalHead:
    """Return the average head that matches the landmarks from `landmarks_from_mask`.

    Args:
        label_set: A label set of people or cats.
        framing: How people were cropped, which determines the world origin that cameras look at:
            "rig" as for procedural people, "ffhq" by `ffhq_crop`, "eg3d" by `eg3d_crop`.
    """
    if is_cat_set(label_set):
        return CAT
    return {"rig": PERSON, "ffhq": FFHQ_PERSON, "eg3d": EG3D_PERSON}[framing]
