"""Whether the classes lie where a head has them: orders, sides, mirrored and shifted masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import LabelSet, get_label_set, label_set_names
from training.data.doctor.alignment import Alignment
from training.data.doctor.examination import Shape
from training.data.doctor.findings import Finding, make_finding
from training.data.doctor.pixels import join_shapes

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
}
# The first part lies above the second one in every upright view.
_ABOVE = (
    ("brows", "eyes"),
    ("eyes", "nose"),
    ("eyes", "mouth"),
    ("nose", "mouth"),
    ("upper lip", "lower lip"),
    ("hair", "mouth"),
    ("mouth", "neck"),
    ("nose", "cloth"),
)
_ABOVE_OF_CATS = (
    ("ears", "eyes"),
    ("ears", "nose"),
    ("eyes", "nose"),
    ("eyes", "mouth"),
    ("nose", "mouth"),
)
# The relations that tell an upright face from one upside down.
_FACE = ("brows", "eyes", "nose", "mouth", "ears")
_LARGER = (("skin", "nose"), ("skin", "eyes"), ("skin", "mouth"), ("hair", "brows"))

_MIN_ORDER_SCORE = 0.75
_MIN_ORDER_GAIN = 0.15
_MIN_SHIFT = 0.04
_MIN_GAIN = 0.1
_MIRROR_GAIN = 0.15

Shapes = Mapping[int, Shape]
Parts = dict[str, Shape]


@dataclass(frozen=True)
class GeometryReport:
    """Findings, and the masks' parts after the repairs that the findings offer.

    Args:
        findings: What is wrong.
        parts: Parts of each head ("eyes", "nose", ...) as they should lie; without the heads that
            are not upright.
    """

    findings: tuple[Finding, ...]
    parts: Mapping[str, Parts]


def check_geometry(
    shapes: Mapping[str, Shapes], alignments: Mapping[str, Alignment], label_set: LabelSet
) -> GeometryReport:
    """Compare the places of the classes with those on a head.

    Args:
        shapes: Shapes by id of each mask.
        alignments: Fit of mask and image.
        label_set: Meaning of the ids.
    """
    findings: list[Finding] = []
    other = _find_other_order(list(shapes.values()), label_set)
    if other is not None:
        table = find_conversion(other, label_set).table
        message = f"they fit {other.name}, not {label_set.name}"
        details = {"source": other.name}
        findings.append(make_finding("label_order", sorted(shapes), message, details=details))
        shapes = {name: _relabel(one, table) for name, one in shapes.items()}
    shapes, swapped = _check_mouth_and_nose(shapes, label_set)
    findings += swapped
    fit_findings, mirrored = _check_fit(alignments)
    shapes = {n: _mirror(one) if n in mirrored else one for n, one in shapes.items()}
    sides = {name: _side_vote(one, label_set) for name, one in shapes.items()}
    swap = {name for name in mirrored if sides.get(name) == -1}
    findings += [
        replace(f, details={"swap": swap}) if f.code == "mask_mirrored" else f for f in fit_findings
    ]
    findings += _check_sides({name: vote for name, vote in sides.items() if name not in swap})
    parts = {name: find_parts(one, label_set) for name, one in shapes.items()}
    not_upright = _check_upright(parts, label_set)
    odd = {name for finding in not_upright for name in finding.names}
    upright = {name: one for name, one in parts.items() if name not in odd}
    return GeometryReport((*findings, *not_upright), upright)


def find_parts(shapes: Shapes, label_set: LabelSet) -> Parts:
    """Join the classes of a mask to parts of a head; parts that do not occur are left out."""
    ids = {name: index for index, name in enumerate(label_set.class_names)}
    members = _PARTS | ({"ears": ("ears",)} if _is_animal(label_set) else {}) | {"skin": ("skin",)}
    parts: Parts = {}
    for part, names in members.items():
        found = [(0, shapes[ids[name]]) for name in names if ids.get(name) in shapes]
        if found:
            parts[part] = join_shapes(found)[0]
    return parts


def _is_animal(label_set: LabelSet) -> bool:
    return "ears" in label_set.class_names and "hair" not in label_set.class_names


def _relations(label_set: LabelSet) -> tuple[tuple[str, str], ...]:
    return _ABOVE_OF_CATS if _is_animal(label_set) else _ABOVE


def _vertical_share(parts: Parts, relations: Sequence[tuple[str, str]]) -> tuple[float, int]:
    """Return the share of the relations that hold, and how many could be judged."""
    holds = [parts[a].y < parts[b].y for a, b in relations if a in parts and b in parts]
    return (sum(holds) / len(holds) if holds else 1.0), len(holds)


def _relabel(shapes: Shapes, table: np.ndarray) -> dict[int, Shape]:
    return join_shapes((int(table[i]), shape) for i, shape in shapes.items() if i < len(table))


def _mirror(shapes: Shapes) -> dict[int, Shape]:
    return {index: replace(shape, x=1 - shape.x) for index, shape in shapes.items()}


def _order_score(all_shapes: Sequence[Shapes], label_set: LabelSet) -> float:
    """Return how much of what holds for heads holds for these masks, 0..1."""
    holds: list[bool] = []
    for shapes in all_shapes:
        parts = find_parts(shapes, label_set)
        relations = [(a, b) for a, b in _relations(label_set) if a in parts and b in parts]
        holds += [parts[a].y < parts[b].y for a, b in relations]
        holds += [parts[a].area > parts[b].area for a, b in _LARGER if a in parts and b in parts]
        for left, right in label_set.mirror_pairs:
            if left in shapes and right in shapes:
                # Both halves of a pair lie at about the same height; sides are judged elsewhere.
                holds.append(abs(shapes[left].y - shapes[right].y) < 0.12)
    return float(np.mean(holds)) if holds else 0.0


def _find_other_order(all_shapes: Sequence[Shapes], label_set: LabelSet) -> LabelSet | None:
    """Return the label set that the masks follow instead of the one that is named, if any."""
    own = _order_score(all_shapes, label_set)
    highest = max((max(shapes) for shapes in all_shapes if shapes), default=0)
    best: tuple[float, LabelSet | None] = (max(_MIN_ORDER_SCORE, own + _MIN_ORDER_GAIN), None)
    for name in label_set_names():
        other = get_label_set(name)
        if other.num_classes <= highest or name == label_set.name:
            continue
        try:
            table = find_conversion(other, label_set).table
        except UserError:
            continue
        score = _order_score([_relabel(shapes, table) for shapes in all_shapes], label_set)
        if score > best[0]:
            best = (score, other)
    return best[1]


def _check_mouth_and_nose(
    shapes: Mapping[str, Shapes], label_set: LabelSet
) -> tuple[Mapping[str, Shapes], list[Finding]]:
    """Find masks whose mouth lies above the nose, below the eyes; exchange them if it is so."""
    names = label_set.class_names
    if "nose" not in names or [n for n in names if n in _PARTS["mouth"]] != ["mouth"]:
        return shapes, []
    mouth, nose = label_set.class_id("mouth"), label_set.class_id("nose")
    judged = {n: one for n, one in shapes.items() if mouth in one and nose in one}
    wrong = [n for n, one in judged.items() if _is_mouth_above_nose(one, mouth, nose, label_set)]
    if not wrong:
        return shapes, []
    message = f"{len(wrong)} of {len(judged)} masks that show both"
    if len(wrong) > len(judged) / 2:
        # What holds for the most holds for those that show one of the two only.
        right = set(judged) - set(wrong)
        wrong = [n for n, one in shapes.items() if n not in right and (mouth in one or nose in one)]
    table = np.arange(256)
    table[[mouth, nose]] = nose, mouth
    exchanged = {n: _relabel(one, table) if n in set(wrong) else one for n, one in shapes.items()}
    details = {"ids": (mouth, nose)}
    return exchanged, [make_finding("mouth_nose_swapped", sorted(wrong), message, details=details)]


def _is_mouth_above_nose(shapes: Shapes, mouth: int, nose: int, label_set: LabelSet) -> bool:
    parts = find_parts(shapes, label_set)
    is_upright = "eyes" not in parts or parts["eyes"].y < min(shapes[mouth].y, shapes[nose].y)
    return is_upright and shapes[mouth].y < shapes[nose].y


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


def _check_sides(votes: Mapping[str, int]) -> list[Finding]:
    wrong = [name for name, vote in votes.items() if vote < 0]
    if not wrong:
        return []
    right = {name for name, vote in votes.items() if vote > 0}
    message = f"{len(wrong)} of {len(wrong) + len(right)} masks that show both sides"
    if len(wrong) > len(right):
        wrong = [name for name in votes if name not in right]
    return [make_finding("left_right_swapped", sorted(wrong), message)]


def _check_upright(parts: Mapping[str, Parts], label_set: LabelSet) -> list[Finding]:
    relations = [(a, b) for a, b in _relations(label_set) if a in _FACE and b in _FACE]
    upside_down, implausible = [], []
    for name, one in parts.items():
        share, number = _vertical_share(one, relations)
        if number >= 2 and share <= 0.25:
            upside_down.append(name)
        elif number >= 2 and share <= 0.6:
            implausible.append(name)
    findings = [make_finding("upside_down", sorted(upside_down))] if upside_down else []
    if implausible:
        findings.append(make_finding("layout_implausible", sorted(implausible)))
    return findings


def _check_fit(alignments: Mapping[str, Alignment]) -> tuple[list[Finding], set[str]]:
    """Return findings about masks that do not lie on their image, and those that are mirrored."""
    if not alignments:
        return [], set()
    own = np.array([alignment.own for alignment in alignments.values()])
    usual = float(np.median(own))
    spread = 1.4826 * float(np.median(np.abs(own - usual)))
    mirrored, shifted, misfit = {}, {}, {}
    for name, one in alignments.items():
        lack = usual - one.own
        if one.mirrored > max(one.own + _MIRROR_GAIN, 0.8 * usual):
            mirrored[name] = f"fit {one.own:.2f} as it is, {one.mirrored:.2f} mirrored"
        elif one.best > max(one.own + _MIN_GAIN, 0.8 * usual) and _is_shift(one):
            right, down = (100 * value for value in one.shift)
            shifted[name] = f"fits better {right:+.0f} % to the right, {down:+.0f} % down"
        elif lack > max(0.15, 0.35 * usual, 4 * spread):
            misfit[name] = f"fit {one.own:.2f}, usually {usual:.2f}"
    order = {name: one.own for name, one in alignments.items()}
    findings = [
        make_finding(code, sorted(remarks, key=order.__getitem__), remarks=remarks)
        for code, remarks in (
            ("mask_mirrored", mirrored),
            ("mask_shifted", shifted),
            ("mask_misfit", misfit),
        )
        if remarks
    ]
    return findings, set(mirrored)


def _is_shift(alignment: Alignment) -> bool:
    return max(abs(alignment.shift[0]), abs(alignment.shift[1])) >= _MIN_SHIFT
