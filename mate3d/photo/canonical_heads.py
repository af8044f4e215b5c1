"""Where the landmarks of an average head lie in the world.

World axes: y up, a frontal camera looks along -z from +z, and sees world +x at the right. The
person is 2.22 world units a metre, with the origin inside the head between the eyes and the ears,
as portraits of this lineage are framed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mate3d.labels import LabelSet
from mate3d.photo.mask_landmarks import is_cat_set

WorldPoint = tuple[float, float, float]


@dataclass(frozen=True)
class CanonicalHead:
    """Landmarks of an average head.

    Args:
        name: "person" or "cat".
        points: World position of each landmark.
        spread: How far individuals and their measured landmarks lie from `points`: standard
            deviation of an image axis, world units. Landmarks with a small one count for more.
        modes: Independent ways in which individuals differ, each as the shift of some landmarks by
            one standard deviation, world units. `spread` is what they leave unexplained.
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


PERSON = CanonicalHead(
    name="person",
    points=_mirrored(
        {"eye": (0.070, 0.020, 0.085), "mouth": (0.055, -0.135, 0.095)},
        {"nose": (0.0, -0.065, 0.155)},
    ),
    spread={
        "left_eye": 0.006,
        "right_eye": 0.006,
        "nose": 0.010,
        "left_mouth": 0.010,
        "right_mouth": 0.010,
    },
)

# Of the average procedural cat, as `landmarks_from_mask` sees it: a centre of what shows of an eye
# or the mouth, not a point of the anatomy. Ears vary most, but both alike: in length and in tilt.
CAT = CanonicalHead(
    name="cat",
    points=_mirrored(
        {"eye": (0.0857, 0.0066, 0.1243), "ear": (0.1514, 0.2143, -0.0539)},
        {"nose": (0.0, -0.0663, 0.1846), "mouth": (0.0, -0.1156, 0.1809)},
    ),
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
    ),
)


def canonical_head(label_set: LabelSet) -> CanonicalHead:
    """Return the average head that `landmarks_from_mask` finds the landmarks of."""
    return CAT if is_cat_set(label_set) else PERSON
