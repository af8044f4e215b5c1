"""Landmarks of people and cats from a label map of any label set.

Classes are looked up by name. Left and right are determined by position in the image, not by class
name, so heads are assumed to be upright. Only reliable landmarks are returned: none of parts cut
off by the image border or mostly hidden by a turned head.
"""

import numpy as np
from skimage.measure import label as label_components
from skimage.morphology import isotropic_dilation

from mate3d.errors import UserError
from mate3d.labels import LabelSet
from mate3d.photo.landmarks import Point

_EYES = ("l_eye", "r_eye", "eyes", "eye")
_LIPS = ("mouth", "u_lip", "l_lip", "lips", "lip")
_EARS = ("l_ear", "r_ear", "ears", "ear")
_MIN_PIXELS = 4
# A part smaller than this fraction of its twin is partly hidden, so its visible centre is wrong.
_HIDDEN_SHARE = 0.35
# Components smaller than this fraction of the largest one are specks.
_STRAY_SHARE = 0.08
# Fitted so that label maps of the average procedural person give the nose of PERSON.
_TIP_FROM_EYES, _TIP_FROM_MOUTH = 0.24, 0.37
# Half the width of closed gaps, as a fraction of the square root of the area.
_GAP_SHARE = 0.06


def is_cat_set(label_set: LabelSet) -> bool:
    """Return whether a label set describes cats: ears and a nose, but no hair."""
    names = label_set.class_names
    return "hair" not in names and "nose" in names and "ears" in names


def landmarks_from_mask(
    label_map: np.ndarray,  # [H, W] integer ids
    label_set: LabelSet,
) -> dict[str, Point]:
    """Return the reliable landmarks of a label map.

    People have `left_eye`, `right_eye`, `nose` (its tip), `left_mouth`, `right_mouth`; cats
    `left_eye`, `right_eye`, `nose`, `mouth` (centres), `left_ear`, `right_ear` (tips).

    Raises:
        UserError: If the label set has no classes for eyes, nose or mouth.
    """
    assert label_map.ndim == 2, label_map.shape
    for part, names in (("eyes", _EYES), ("nose", ("nose",)), ("mouth", _LIPS)):
        if not _class_ids(label_set, names):
            raise UserError(
                f"cannot find landmarks with label set {label_set.name}: no class for the {part}"
            )
    if is_cat_set(label_set):
        return _cat_landmarks(label_map, label_set)
    return _person_landmarks(label_map, label_set)


def _cat_landmarks(label_map: np.ndarray, label_set: LabelSet) -> dict[str, Point]:
    landmarks = {}
    for name, classes in (("nose", ("nose",)), ("mouth", _LIPS)):
        part = _largest(_where(label_map, label_set, classes))
        if part is not None:
            landmarks[name] = _center(part)
    snout = landmarks.get("nose", landmarks.get("mouth"))
    eyes = _by_side(_components(_where(label_map, label_set, _EYES))[:2], snout)
    landmarks |= {f"{side}_eye": _center(eye) for side, eye in eyes.items()}
    ears = _components(_where(label_map, label_set, _EARS))[:2]
    face = _mean_point([*landmarks.values()])
    if face is not None:
        ears = _by_side(ears, snout, hidden_share=0.25)
        landmarks |= {f"{side}_ear": _far_end(ear, face) for side, ear in ears.items()}
    return landmarks


def _person_landmarks(label_map: np.ndarray, label_set: LabelSet) -> dict[str, Point]:
    landmarks = {}
    nose = _largest(_where(label_map, label_set, ("nose",)))
    lips = _largest(_where(label_map, label_set, _LIPS))
    middle = _center(nose) if nose is not None else None
    eyes = _split_eyes(label_map, label_set, middle)
    landmarks |= {f"{side}_eye": _center(eye) for side, eye in eyes.items()}
    right = _right_direction(landmarks)
    base = _nose_base(nose, right) if nose is not None else None
    if lips is not None:
        landmarks |= _mouth_corners(lips, right, base)
    if base is not None:
        landmarks["nose"] = _nose_tip(base, landmarks)
    return landmarks


def _split_eyes(
    label_map: np.ndarray, label_set: LabelSet, middle: Point | None
) -> dict[str, np.ndarray]:
    """Return the eyes by side: one per class if the set has two, else one per component."""
    single = [_largest(_where(label_map, label_set, (name,))) for name in ("l_eye", "r_eye")]
    if all(eye is not None for eye in single):
        return _by_side(single, middle)
    return _by_side(_components(_where(label_map, label_set, _EYES))[:2], middle)


def _nose_base(nose: np.ndarray, right: np.ndarray) -> Point:
    """Return the centre of the nose's lowest third: tip and wings, without the bridge."""
    points = _pixels(nose)
    height = points @ np.array([-right[1], right[0]])
    low, high = height.min(), height.max()
    return _mean_point(points[height >= high - (high - low) / 3])


def _nose_tip(base: Point, landmarks: dict[str, Point]) -> Point:
    """Return the tip of the nose, extrapolated from its base.

    When the head turns, the base shifts relative to eyes and mouth, and the tip, which protrudes
    more, shifts further. If an eye or mouth corner is missing, return the base.
    """
    eyes = [landmarks.get("left_eye"), landmarks.get("right_eye")]
    mouth = [landmarks.get("left_mouth"), landmarks.get("right_mouth")]
    if None in (*eyes, *mouth):
        return base
    from_eyes = np.subtract(base, _mean_point(eyes))
    from_mouth = np.subtract(base, _mean_point(mouth))
    return _mean_point([base + _TIP_FROM_EYES * from_eyes + _TIP_FROM_MOUTH * from_mouth])


def _mouth_corners(lips: np.ndarray, right: np.ndarray, nose: Point | None) -> dict[str, Point]:
    """Return the ends of the mouth along the line of the eyes, except one hidden by the nose."""
    points = _pixels(lips)
    along = points @ right
    low, high = along.min(), along.max()
    margin = max((high - low) / 20, 0.5)
    corners = {
        "left_mouth": _mean_point(points[along <= low + margin]),
        "right_mouth": _mean_point(points[along >= high - margin]),
    }
    if nose is not None:
        if np.dot(nose, right) < low:
            del corners["left_mouth"]
        if np.dot(nose, right) > high:
            del corners["right_mouth"]
    return corners


def _right_direction(landmarks: dict[str, Point]) -> np.ndarray:  # [2]
    """Return the direction from the left to the right eye, or the image's x axis without both."""
    if "left_eye" not in landmarks or "right_eye" not in landmarks:
        return np.array([1.0, 0.0])
    direction = np.subtract(landmarks["right_eye"], landmarks["left_eye"])
    return direction / np.linalg.norm(direction)


def _by_side(
    parts: list[np.ndarray],
    middle: Point | None,
    *,
    hidden_share: float = _HIDDEN_SHARE,
) -> dict[str, np.ndarray]:
    """Assign up to two parts to sides, leaving out those that are cut off or mostly hidden.

    The side of a single part is relative to the middle of the face: in profile only the near part
    is visible, and the nose points away from it.
    """
    if len(parts) == 2:
        left, right = sorted(parts, key=lambda part: _center(part)[0])
        sides = {"left": left, "right": right}
        largest = max(left.sum(), right.sum())
        sides = {side: part for side, part in sides.items() if part.sum() > hidden_share * largest}
    elif len(parts) == 1 and middle is not None:
        sides = {"left" if _center(parts[0])[0] < middle[0] else "right": parts[0]}
    else:
        sides = {}
    return {side: part for side, part in sides.items() if not _touches_border(part)}


def _far_end(
    region: np.ndarray,  # [H, W] bool
    origin: Point,
) -> Point:
    """Return the centre of the 3 % of a region's pixels that are farthest from a point."""
    points = _pixels(region)
    distance = np.hypot(*(points - origin).T)
    return _mean_point(points[distance >= np.quantile(distance, 0.97)])


def _class_ids(label_set: LabelSet, names: tuple[str, ...]) -> list[int]:
    return [label_set.class_id(name) for name in names if name in label_set.class_names]


def _where(label_map: np.ndarray, label_set: LabelSet, names: tuple[str, ...]) -> np.ndarray:
    return np.isin(label_map, _class_ids(label_set, names))


def _components(region: np.ndarray) -> list[np.ndarray]:
    """Return the connected components of a region as [H, W] bool, largest first, without specks.

    A part split by a strand of hair or a whisker counts as one.
    """
    if not region.any():
        return []
    gap = max(1.0, _GAP_SHARE * np.sqrt(region.sum()))
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    labels = np.zeros(region.shape, dtype=np.int32)
    joined = isotropic_dilation(region[box], gap)
    labels[box] = label_components(joined, connectivity=2) * region[box]
    areas = np.bincount(labels[box].ravel())[1:]
    smallest = max(_MIN_PIXELS, _STRAY_SHARE * areas.max())
    order = np.argsort(-areas, kind="stable")
    return [labels == index + 1 for index in order if areas[index] >= smallest]


def _largest(region: np.ndarray) -> np.ndarray | None:
    parts = [part for part in _components(region)[:1] if not _touches_border(part)]
    return parts[0] if parts else None


def _touches_border(region: np.ndarray) -> bool:
    return bool(region[[0, -1]].any() or region[:, [0, -1]].any())


def _pixels(region: np.ndarray) -> np.ndarray:  # [N, 2] x, y of pixel centres
    return np.argwhere(region)[:, ::-1] + 0.5


def _center(region: np.ndarray) -> Point:
    return _mean_point(_pixels(region))


def _mean_point(points: np.ndarray | list[Point]) -> Point | None:
    if not len(points):
        return None
    x, y = np.mean(points, axis=0)
    return float(x), float(y)
