"""Whether the classes lie where a head has them: orders, sides, mirrored and shifted masks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion, swap_classes
from mate3d.labels import LabelSet, get_label_set, label_set_names
from training.data.doctor.alignment import Alignment
from training.data.doctor.examination import Shape
from training.data.doctor.findings import Notes
from training.data.doctor.masks import Shapes, join_shapes, relabel

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
_FACE = (("brows", "eyes"), ("eyes", "nose"), ("eyes", "mouth"), ("nose", "mouth"))
_FACE_OF_CATS = (("ears", "eyes"), ("ears", "nose"), *_FACE[1:])
_BODY = (("upper lip", "lower lip"), ("hair", "mouth"), ("mouth", "neck"), ("nose", "cloth"))
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
    masks = _Masks(shapes, label_set, notes)
    masks.check_order()
    masks.check_mouth_and_nose()
    masks.check_fit(alignments)
    masks.check_sides()
    return masks.check_upright()


class _Masks:
    """Masks that are repaired from check to check."""

    def __init__(self, shapes: Mapping[str, Shapes], label_set: LabelSet, notes: Notes):
        self.shapes = dict(sorted(shapes.items()))
        self.label_set = label_set
        self.notes = notes
        is_animal = "ears" in label_set.class_names and "hair" not in label_set.class_names
        self.face = _FACE_OF_CATS if is_animal else _FACE
        self.body = () if is_animal else _BODY
        members = _PARTS | ({"ears": ("ears",)} if is_animal else {})
        ids = {name: index for index, name in enumerate(label_set.class_names)}
        self.part_ids = {
            part: [ids[name] for name in names if name in ids] for part, names in members.items()
        }
        self.mirror_table = _make_table(label_set.mirror_permutation())

    def check_order(self) -> None:
        """Find the label set that the masks follow instead of the one that is named, if any."""
        highest = max((max(one) for one in self.shapes.values() if one), default=0)
        best = max(_MIN_ORDER_SCORE, self._order_score(range(256)) + _MIN_ORDER_GAIN)
        found: Sequence[int] | None = None
        for other in map(get_label_set, label_set_names()):
            if other.num_classes <= highest or other.name == self.label_set.name:
                continue
            try:
                table = find_conversion(other, self.label_set).table
            except UserError:
                continue
            score = self._order_score(table)
            if score > best:
                best, found, name = score, table, other.name
        if found is not None:
            self.notes.say("label_order", f"they fit {name}, not {self.label_set.name}")
            self._relabel("label_order", self.shapes, _make_table(found))

    def check_mouth_and_nose(self) -> None:
        """Find masks whose mouth lies above the nose, below the eyes."""
        if len(self.part_ids["mouth"]) != 1 or len(self.part_ids["nose"]) != 1:
            return
        (mouth,), (nose,) = self.part_ids["mouth"], self.part_ids["nose"]
        judged = {n: one for n, one in self.shapes.items() if mouth in one and nose in one}
        wrong = {
            name
            for name, one in judged.items()
            if one[mouth].y < one[nose].y and self._eyes_height(one) < one[mouth].y
        }
        if not wrong:
            return
        self.notes.say("mouth_nose_swapped", f"{len(wrong)} of {len(judged)} masks that show both")
        if len(wrong) > len(judged) / 2:
            # What holds for the most holds for those that show one of the two only.
            wrong |= {name for name, one in self.shapes.items() if (mouth in one) != (nose in one)}
        self._relabel("mouth_nose_swapped", wrong, swap_classes(_make_table(), mouth, nose))

    def check_fit(self, alignments: Mapping[str, Alignment]) -> None:
        """Find masks that do not lie on their image; mirrored ones are turned."""
        own = np.array([alignment.own for alignment in alignments.values()] or [0.0])
        usual = float(np.median(own))
        spread = 1.4826 * float(np.median(np.abs(own - usual)))
        for name, one in sorted(alignments.items(), key=lambda pair: pair[1].own):
            remark = f"fit {one.own:.2f}, usually {usual:.2f}"
            is_better = one.best > max(one.own + _MIN_GAIN, 0.8 * usual)
            if one.mirrored > max(one.own + _MIRROR_GAIN, 0.8 * usual):
                mask = {i: replace(shape, x=1 - shape.x) for i, shape in self.shapes[name].items()}
                table = self.mirror_table if self._side_vote(mask) < 0 else _make_table()
                self.shapes[name] = relabel(mask, table)
                remark += f", mirrored {one.mirrored:.2f}"
                self.notes.add("mask_mirrored", name, remark, detail=table)
            elif is_better and max(map(abs, one.shift)) >= _MIN_SHIFT:
                right, down = (100 * value for value in one.shift)
                remark += f", {one.best:.2f} at {right:+.0f} % to the right, {down:+.0f} % down"
                self.notes.add("mask_misfit", name, remark)
            elif usual - one.own > max(0.15, 0.35 * usual, 4 * spread):
                self.notes.add("mask_misfit", name, remark)

    def check_sides(self) -> None:
        """Find masks whose classes of the left lie on the right."""
        votes = {name: self._side_vote(one) for name, one in self.shapes.items()}
        wrong = {name for name, vote in votes.items() if vote < 0}
        right = {name for name, vote in votes.items() if vote > 0}
        if not wrong:
            return
        message = f"{len(wrong)} of {len(wrong | right)} masks that show both sides"
        self.notes.say("left_right_swapped", message)
        wrong = set(votes) - right if len(wrong) > len(right) else wrong
        self._relabel("left_right_swapped", wrong, self.mirror_table)

    def check_upright(self) -> dict[str, Parts]:
        """Find heads that are upside down or no faces; return the parts of the others."""
        upright = {}
        for name, shapes in self.shapes.items():
            parts = self._find_parts(shapes)
            holds = _are_above(parts, self.face)
            share = np.mean(holds) if len(holds) >= 2 else 1.0
            if share <= 0.25:
                self.notes.add("upside_down", name)
            elif share <= 0.6:
                self.notes.add("mask_misfit", name, "eyes, nose and mouth are in another order")
            else:
                upright[name] = parts
        return upright

    def _relabel(self, code: str, names: Iterable[str], table: np.ndarray) -> None:
        for name in sorted(names):
            self.shapes[name] = relabel(self.shapes[name], table)
            self.notes.add(code, name, detail=table)

    def _find_parts(self, shapes: Shapes) -> Parts:
        """Join the classes of a mask to parts of a head; parts that do not occur are left out."""
        found = {p: [shapes[i] for i in ids if i in shapes] for p, ids in self.part_ids.items()}
        return {part: join_shapes(one) for part, one in found.items() if one}

    def _eyes_height(self, shapes: Shapes) -> float:
        parts = self._find_parts(shapes)
        return parts["eyes"].y if "eyes" in parts else 0.0

    def _order_score(self, table: Sequence[int]) -> float:
        """Return how much of what holds for heads holds for masks with the ids of a table, 0..1."""
        holds: list[bool] = []
        for shapes in (relabel(one, table) for one in self.shapes.values()):
            parts = self._find_parts(shapes)
            holds += _are_above(parts, (*self.face, *self.body))
            holds += [parts[a].area > parts[b].area for a, b in _LARGER if {a, b} <= parts.keys()]
            # Both halves of a pair lie at about the same height; sides are judged elsewhere.
            holds += [abs(left.y - right.y) < 0.12 for left, right in self._pairs(shapes)]
        return float(np.mean(holds)) if holds else 0.0

    def _pairs(self, shapes: Shapes) -> list[tuple[Shape, Shape]]:
        pairs = self.label_set.mirror_pairs
        return [(shapes[a], shapes[b]) for a, b in pairs if a in shapes and b in shapes]

    def _side_vote(self, shapes: Shapes) -> int:
        """Return 1 if the classes of the left lie on the left, -1 if on the right, 0 if unknown."""
        if self.label_set.left_side is None:
            return 0
        votes = [np.sign(right.x - left.x) for left, right in self._pairs(shapes)]
        return int(np.sign(sum(votes)))


def _make_table(ids: Sequence[int] = ()) -> np.ndarray:  # [256] uint8
    """Return new ids of the first values; the others stay as they are."""
    return np.array([*ids, *range(len(ids), 256)], dtype=np.uint8)


def _are_above(parts: Parts, relations: Sequence[tuple[str, str]]) -> list[bool]:
    """Tell which of the relations hold, of those that can be judged."""
    return [parts[a].y < parts[b].y for a, b in relations if a in parts and b in parts]
