"""Whether the classes lie where a head has them: orders, sides, mirrored and shifted masks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion, swap_classes
from mate3d.labels import LabelSet, get_label_set, label_set_names
from training.data.doctor.alignment import Alignment
from training.data.doctor.examination import Shape
from training.data.doctor.findings import LEAVES_OUT, Kind, Notes
from training.data.doctor.masks import Shapes, join_shapes, relabel

# Ordered as repairs are applied.
GEOMETRY_KINDS = (
    Kind(
        "label_order",
        "error",
        "masks follow another label set",
        "The classes lie where a head has other ones: the ids are those of another label set with "
        "other numbers for the same classes.",
        "converts the ids; cameras that were estimated from these masks stay wrong, so prepare "
        "such a data set again",
    ),
    Kind(
        "mouth_nose_swapped",
        "error",
        "mouth above the nose",
        "The ids of mouth and nose are exchanged.",
        "exchanges the two ids; cameras that were estimated from these masks stay wrong, so "
        "prepare such a data set again",
    ),
    Kind(
        "left_right_swapped",
        "error",
        "left and right classes exchanged",
        "Classes l_... must be on the left of the image. Often an image was mirrored without "
        "exchanging them, or the person's own left is meant.",
        "exchanges the pairs of classes",
    ),
    Kind(
        "upside_down",
        "error",
        "heads upside down",
        "The eyes lie below nose or mouth; often a lost rotation tag.",
        LEAVES_OUT,
    ),
    Kind(
        "mask_mirrored",
        "warning",
        "masks mirrored against their image",
        "The mask fits the image far better when mirrored; one of them was flipped alone.",
        "mirrors the masks (and exchanges left and right classes)",
    ),
    Kind(
        "mask_misfit",
        "warning",
        "masks that do not fit their image, or look like no face",
        "The borders fit the edges of the image at another place or nowhere, or eyes, nose and "
        "mouth are not above each other: another crop, another image, a failed segmentation.",
    ),
)
# Names of classes that are a part of a head, over all label sets.
_PARTS = {
    "brows": ("l_brow", "r_brow", "brow", "brows"),
    "eyes": ("l_eye", "r_eye", "eye", "eyes"),
    "nose": ("nose",),
    "mouth": ("mouth", "u_lip", "l_lip", "lips"),
    "upper lip": ("u_lip",),
    "lower lip": ("l_lip",),
    "hair": ("hair",),
    "neck": ("neck",),
    "cloth": ("cloth",),
    "skin": ("skin",),
}
# The first part lies above the second one in every upright view.
_FACE = (
    ("brows", "eyes"),
    ("eyes", "nose"),
    ("eyes", "mouth"),
    ("nose", "mouth"),
)
_FACE_OF_CATS = (("ears", "eyes"), ("ears", "nose"), *_FACE[1:])
_BODY = (
    ("upper lip", "lower lip"),
    ("hair", "mouth"),
    ("mouth", "neck"),
    ("nose", "cloth"),
)
_LARGER = (("skin", "nose"), ("skin", "eyes"), ("skin", "mouth"), ("hair", "brows"))

_MIN_ORDER_SCORE = 0.75
_MIN_ORDER_GAIN = 0.15
_MIN_SHIFT = 0.04
_MIN_GAIN = 0.1
_MIRROR_GAIN = 0.15

Parts = Mapping[str, Shape]


def check_geometry(
    shapes: Mapping[str, Shapes],
    alignments: Mapping[str, Alignment],
    label_set: LabelSet,
    notes: Notes,
) -> dict[str, Parts]:
    """Compare the places of the classes with those on a head.

    Args:
        shapes: Shapes by id of each mask.
        alignments: Fit of mask and image.
        label_set: Meaning of the ids.
        notes: Gets what is wrong.

    Returns:
        Parts of each upright head ("eyes", "nose", ...), as they are after the repairs.
    """
    shapes = dict(shapes)
    _check_order(shapes, label_set, notes)
    _check_mouth_and_nose(shapes, label_set, notes)
    _check_fit(shapes, alignments, label_set, notes)
    _check_sides(shapes, label_set, notes)
    return _check_upright(shapes, label_set, notes)


def _make_table(ids: Sequence[int]) -> np.ndarray:  # [256] uint8
    """Return new ids of the first values; the others stay as they are."""
    return np.array([*ids, *range(len(ids), 256)], dtype=np.uint8)


def _relabel(
    code: str, names: Sequence[str], table: np.ndarray, shapes: dict[str, Shapes], notes: Notes
) -> None:
    for name in names:
        shapes[name] = relabel(shapes[name], table)
        notes.add(code, name, detail=table)


def _find_parts(shapes: Shapes, label_set: LabelSet) -> Parts:
    """Join the classes of a mask to parts of a head; parts that do not occur are left out."""
    ids = {name: index for index, name in enumerate(label_set.class_names)}
    members = _PARTS | ({"ears": ("ears",)} if _is_animal(label_set) else {})
    found = {
        part: [shapes[ids[name]] for name in names if ids.get(name) in shapes]
        for part, names in members.items()
    }
    return {part: join_shapes(one) for part, one in found.items() if one}


def _is_animal(label_set: LabelSet) -> bool:
    return "ears" in label_set.class_names and "hair" not in label_set.class_names


def _are_above(parts: Parts, relations: Sequence[tuple[str, str]]) -> list[bool]:
    """Tell which of the relations hold, of those that can be judged."""
    return [parts[a].y < parts[b].y for a, b in relations if a in parts and b in parts]


def _face(label_set: LabelSet) -> tuple[tuple[str, str], ...]:
    return _FACE_OF_CATS if _is_animal(label_set) else _FACE


def _order_score(all_shapes: Sequence[Shapes], label_set: LabelSet) -> float:
    """Return how much of what holds for heads holds for these masks, 0..1."""
    body = () if _is_animal(label_set) else _BODY
    holds: list[bool] = []
    for shapes in all_shapes:
        parts = _find_parts(shapes, label_set)
        holds += _are_above(parts, (*_face(label_set), *body))
        holds += [parts[a].area > parts[b].area for a, b in _LARGER if a in parts and b in parts]
        for left, right in label_set.mirror_pairs:
            if left in shapes and right in shapes:
                # Both halves of a pair lie at about the same height; sides are judged elsewhere.
                holds.append(abs(shapes[left].y - shapes[right].y) < 0.12)
    return float(np.mean(holds)) if holds else 0.0


def _check_order(shapes: dict[str, Shapes], label_set: LabelSet, notes: Notes) -> None:
    """Find the label set that the masks follow instead of the one that is named, if any."""
    own = _order_score(list(shapes.values()), label_set)
    highest = max((max(one) for one in shapes.values() if one), default=0)
    best, best_table, best_name = max(_MIN_ORDER_SCORE, own + _MIN_ORDER_GAIN), None, ""
    for other in map(get_label_set, label_set_names()):
        if other.num_classes <= highest or other.name == label_set.name:
            continue
        try:
            table = find_conversion(other, label_set).table
        except UserError:
            continue
        score = _order_score([relabel(one, table) for one in shapes.values()], label_set)
        if score > best:
            best, best_table, best_name = score, table, other.name
    if best_table is not None:
        notes.say("label_order", f"they fit {best_name}, not {label_set.name}")
        _relabel("label_order", sorted(shapes), _make_table(best_table), shapes, notes)


def _check_mouth_and_nose(shapes: dict[str, Shapes], label_set: LabelSet, notes: Notes) -> None:
    """Find masks whose mouth lies above the nose, below the eyes."""
    names = label_set.class_names
    if "nose" not in names or [n for n in names if n in _PARTS["mouth"]] != ["mouth"]:
        return
    mouth, nose = label_set.class_id("mouth"), label_set.class_id("nose")
    judged = {n: one for n, one in shapes.items() if mouth in one and nose in one}
    wrong = [n for n, one in judged.items() if _is_mouth_above_nose(one, mouth, nose, label_set)]
    if not wrong:
        return
    notes.say("mouth_nose_swapped", f"{len(wrong)} of {len(judged)} masks that show both")
    if len(wrong) > len(judged) / 2:
        # What holds for the most holds for those that show one of the two only.
        right = set(judged) - set(wrong)
        wrong = [n for n, one in shapes.items() if n not in right and (mouth in one or nose in one)]
    table = swap_classes(_make_table([]), mouth, nose)
    _relabel("mouth_nose_swapped", sorted(wrong), table, shapes, notes)


def _is_mouth_above_nose(shapes: Shapes, mouth: int, nose: int, label_set: LabelSet) -> bool:
    eyes = _find_parts(shapes, label_set).get("eyes")
    is_upright = eyes is None or eyes.y < min(shapes[mouth].y, shapes[nose].y)
    return is_upright and shapes[mouth].y < shapes[nose].y


def _check_fit(
    shapes: dict[str, Shapes],
    alignments: Mapping[str, Alignment],
    label_set: LabelSet,
    notes: Notes,
) -> None:
    """Find masks that do not lie on their image; mirrored ones are turned."""
    own = np.array([alignment.own for alignment in alignments.values()])
    usual = float(np.median(own)) if alignments else 0.0
    spread = 1.4826 * float(np.median(np.abs(own - usual))) if alignments else 0.0
    swap = _make_table(label_set.mirror_permutation())
    for name, one in sorted(alignments.items(), key=lambda pair: pair[1].own):
        if one.mirrored > max(one.own + _MIRROR_GAIN, 0.8 * usual):
            remark = f"fit {one.own:.2f} as it is, {one.mirrored:.2f} mirrored"
            mirrored = {i: replace(shape, x=1 - shape.x) for i, shape in shapes[name].items()}
            table = swap if _side_vote(mirrored, label_set) < 0 else _make_table([])
            shapes[name] = relabel(mirrored, table)
            notes.add("mask_mirrored", name, remark, detail=table)
        elif one.best > max(one.own + _MIN_GAIN, 0.8 * usual) and _is_shift(one):
            right, down = (100 * value for value in one.shift)
            notes.add("mask_misfit", name, f"fits {right:+.0f} % to the right, {down:+.0f} % down")
        elif usual - one.own > max(0.15, 0.35 * usual, 4 * spread):
            notes.add("mask_misfit", name, f"fit {one.own:.2f}, usually {usual:.2f}")


def _is_shift(alignment: Alignment) -> bool:
    return max(abs(alignment.shift[0]), abs(alignment.shift[1])) >= _MIN_SHIFT


def _side_vote(shapes: Shapes, label_set: LabelSet) -> int:
    """Return 1 if the classes on the left lie on the left, -1 if on the right, 0 if unknown."""
    if label_set.left_side is None:
        return 0
    votes = [
        np.sign(shapes[right].x - shapes[left].x)
        for left, right in label_set.mirror_pairs
        if left in shapes and right in shapes
    ]
    return int(np.sign(sum(votes)))


def _check_sides(shapes: dict[str, Shapes], label_set: LabelSet, notes: Notes) -> None:
    votes = {name: _side_vote(one, label_set) for name, one in shapes.items()}
    wrong = [name for name, vote in votes.items() if vote < 0]
    right = {name for name, vote in votes.items() if vote > 0}
    if not wrong:
        return
    message = f"{len(wrong)} of {len(wrong) + len(right)} masks that show both sides"
    notes.say("left_right_swapped", message)
    if len(wrong) > len(right):
        wrong = [name for name in votes if name not in right]
    table = _make_table(label_set.mirror_permutation())
    _relabel("left_right_swapped", sorted(wrong), table, shapes, notes)


def _check_upright(
    shapes: Mapping[str, Shapes], label_set: LabelSet, notes: Notes
) -> dict[str, Parts]:
    upright = {}
    for name in sorted(shapes):
        parts = _find_parts(shapes[name], label_set)
        holds = _are_above(parts, _face(label_set))
        share = np.mean(holds) if len(holds) >= 2 else 1.0
        if share <= 0.25:
            notes.add("upside_down", name)
        elif share <= 0.6:
            notes.add("mask_misfit", name, "eyes, nose and mouth are not above each other")
        else:
            upright[name] = parts
    return upright
