"""Checks of the positions of classes: order, sides, mirrored and shifted masks.

Sums are measured for each class in the pass over the files: area, area * x, area * y.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion, swap_classes
from mate3d.labels import LabelSet, get_label_set, label_set_names
from training.data.doctor.examination import Alignment
from training.data.doctor.findings import Notes

# Class names of each part of a head, over all label sets.
_PARTS = {
    "brows": ("l_brow", "r_brow", "brow", "brows"),
    "eyes": ("l_eye", "r_eye", "eye", "eyes"),
    "nose": ("nose",),
    "mouth": ("mouth", "u_lip", "l_lip", "lips"),
    "upper lip": ("u_lip",),
    "lower lip": ("l_lip",),
    "ears": ("ears",),
    "hair": ("hair",),
    "neck": ("neck",),
    "cloth": ("cloth",),
    "skin": ("skin",),
}
# The first part is above the second in every upright view.
_FACE = (("brows", "eyes"), ("eyes", "nose"), ("eyes", "mouth"), ("nose", "mouth"))
_FACE_OF_CATS = (("ears", "eyes"), ("ears", "nose"), *_FACE[1:])
_BODY = (("upper lip", "lower lip"), ("hair", "mouth"), ("mouth", "neck"), ("nose", "cloth"))
_LARGER = (("skin", "nose"), ("skin", "eyes"), ("skin", "mouth"), ("hair", "brows"))

_MIN_ORDER_SCORE = 0.75
_MIN_ORDER_GAIN = 0.15
_MIN_SHIFT = 0.04
_MIN_GAIN = 0.1
_MIRROR_GAIN = 0.15


def check_geometry(
    masks: Mapping[str, np.ndarray],  # [K, 3], sums of each class
    alignments: Mapping[str, Alignment],
    label_set: LabelSet | None,
    notes: Notes,
) -> dict[str, tuple[float, float]]:
    """Compare the positions of the classes with those on a head.

    Returns:
        For each upright head, how far the nose is to the right of and below the midpoint of the
        eyes, after the repairs.
    """
    if not masks or label_set is None:
        return {}
    alignments = {name: one for name, one in alignments.items() if name in masks}
    heads = _Heads(masks, label_set, notes)
    heads.check_order()
    heads.check_mouth_and_nose()
    heads.check_fit(alignments)
    heads.check_sides()
    return heads.check_upright()


class _Part(NamedTuple):
    """A part of each head; NaN where it is not visible."""

    area: np.ndarray  # [N]
    x: np.ndarray  # [N]
    y: np.ndarray  # [N]


class _Heads:
    """Masks that are repaired after each check."""

    def __init__(self, masks: Mapping[str, np.ndarray], label_set: LabelSet, notes: Notes):
        self.names = sorted(masks)
        self.sums = np.stack([masks[name] for name in self.names])  # [N, K, 3]
        self.label_set = label_set
        self.notes = notes
        classes = label_set.class_names
        is_animal = "ears" in classes and "hair" not in classes
        self.face = _FACE_OF_CATS if is_animal else _FACE
        self.body = () if is_animal else _BODY
        self.mirror_table = _make_table(label_set.mirror_permutation())

    def check_order(self) -> None:
        """Check whether the masks follow another label set."""
        highest = np.flatnonzero(self.sums[:, :, 0].any(axis=0)).max()
        best = max(_MIN_ORDER_SCORE, self._order_score(self.sums) + _MIN_ORDER_GAIN)
        found: tuple[str, np.ndarray] | None = None
        for other in map(get_label_set, label_set_names()):
            if other.num_classes <= highest or other.name == self.label_set.name:
                continue
            try:
                table = find_conversion(other, self.label_set).table
            except UserError:
                continue
            score = self._order_score(_relabel(self.sums, table))
            if score > best:
                best, found = score, (other.name, table)
        if found is not None:
            self.notes.say("label_order", f"fit {found[0]}, not {self.label_set.name}")
            everything = np.full(len(self.names), True)
            self._repair("label_order", everything, _make_table(found[1]))

    def check_mouth_and_nose(self) -> None:
        """Find masks whose mouth is above the nose and below the eyes."""
        classes = self.label_set.class_names
        if "nose" not in classes or [n for n in classes if n in _PARTS["mouth"]] != ["mouth"]:
            return
        parts = self._measure(self.sums)
        mouth, nose, eyes = (parts[part].y for part in ("mouth", "nose", "eyes"))
        is_wrong = (mouth < nose) & ~(eyes >= mouth)
        num_judged = int((~np.isnan(mouth + nose)).sum())
        if not is_wrong.any():
            return
        self.notes.say("mouth_nose_swapped", f"{is_wrong.sum()} of {num_judged} that have both")
        if is_wrong.sum() > num_judged / 2:
            # Assume the same for masks with only one of the two.
            is_wrong |= np.isnan(mouth) != np.isnan(nose)
        ids = self.label_set.class_id("mouth"), self.label_set.class_id("nose")
        self._repair("mouth_nose_swapped", is_wrong, swap_classes(_make_table(), *ids))

    def check_fit(self, alignments: Mapping[str, Alignment]) -> None:
        """Find masks that do not fit their image; mirrored ones are repaired."""
        own = np.array([alignment.own for alignment in alignments.values()] or [0.0])
        usual = float(np.median(own))
        spread = 1.4826 * float(np.median(np.abs(own - usual)))
        for name, one in sorted(alignments.items(), key=lambda pair: pair[1].own):
            remark = f"fit {one.own:.2f}, usually {usual:.2f}"
            is_better = one.best > max(one.own + _MIN_GAIN, 0.8 * usual)
            if one.mirrored > max(one.own + _MIRROR_GAIN, 0.8 * usual):
                self._mirror(name, f"{remark}, mirrored {one.mirrored:.2f}")
            elif is_better and max(map(abs, one.shift)) >= _MIN_SHIFT:
                right, down = (100 * value for value in one.shift)
                remark += f", {one.best:.2f} at {right:+.0f} % to the right, {down:+.0f} % down"
                self.notes.add("mask_misfit", name, remark)
            elif usual - one.own > max(0.15, 0.35 * usual, 4 * spread):
                self.notes.add("mask_misfit", name, remark)

    def check_sides(self) -> None:
        """Find masks whose left classes are on the right."""
        votes = self._vote_sides(self.sums)
        is_wrong, is_right = votes < 0, votes > 0
        if not is_wrong.any():
            return
        message = f"{is_wrong.sum()} of {(votes != 0).sum()} masks with both sides"
        self.notes.say("left_right_swapped", message)
        is_wrong = ~is_right if is_wrong.sum() > is_right.sum() else is_wrong
        self._repair("left_right_swapped", is_wrong, self.mirror_table)

    def check_upright(self) -> dict[str, tuple[float, float]]:
        """Find heads that are upside down or not faces; return the noses of the others."""
        parts = self._measure(self.sums)
        holds = np.stack([_is_less(parts[a].y, parts[b].y) for a, b in self.face])  # [R, N]
        num_judged = (~np.isnan(holds)).sum(axis=0)
        share = np.where(num_judged >= 2, np.nansum(holds, axis=0) / num_judged.clip(min=1), 1.0)
        turn = parts["nose"].x - parts["eyes"].x
        tilt = parts["nose"].y - parts["eyes"].y
        for i in np.flatnonzero(share <= 0.6):
            if share[i] <= 0.25:
                self.notes.add("upside_down", self.names[i])
            else:
                remark = "eyes, nose and mouth are in the wrong order"
                self.notes.add("mask_misfit", self.names[i], remark)
        shows = np.flatnonzero((share > 0.6) & ~np.isnan(turn))
        return {self.names[i]: (turn[i], tilt[i]) for i in shows}

    def _repair(self, code: str, is_wrong: np.ndarray, table: np.ndarray) -> None:
        self.sums[is_wrong] = _relabel(self.sums[is_wrong], table)
        for i in np.flatnonzero(is_wrong):
            self.notes.add(code, self.names[i], detail=table)

    def _mirror(self, name: str, remark: str) -> None:
        mirrored = self.sums[[self.names.index(name)]]
        mirrored[:, :, 1] = mirrored[:, :, 0] - mirrored[:, :, 1]
        table = self.mirror_table if self._vote_sides(mirrored)[0] < 0 else _make_table()
        self.sums[self.names.index(name)] = _relabel(mirrored, table)[0]
        self.notes.add("mask_mirrored", name, remark, detail=table)

    def _measure(self, sums: np.ndarray) -> dict[str, _Part]:  # [N, K, 3]
        """Merge the classes into parts of heads."""
        parts = {}
        for part, names in _PARTS.items():
            ids = [i for i, name in enumerate(self.label_set.class_names) if name in names]
            parts[part] = _center(sums[:, ids].sum(axis=1))
        return parts

    def _order_score(self, sums: np.ndarray) -> float:  # [N, K, 3]
        """Return the fraction of the rules for heads that these masks satisfy, 0..1."""
        parts = self._measure(sums)
        holds = [_is_less(parts[a].y, parts[b].y) for a, b in (*self.face, *self.body)]
        holds += [_is_less(parts[b].area, parts[a].area) for a, b in _LARGER]
        # Both parts of a pair have about the same height; sides are checked elsewhere.
        y = _center(sums).y
        holds += [_is_less(abs(y[:, a] - y[:, b]), 0.12) for a, b in self.label_set.mirror_pairs]
        known = np.stack(holds)[~np.isnan(holds)]
        return float(known.mean()) if known.size else 0.0

    def _vote_sides(self, sums: np.ndarray) -> np.ndarray:  # [N, K, 3] -> [N]
        """Return 1 if the left classes are on the left, -1 if on the right, 0 if unknown."""
        if self.label_set.left_side is None:
            return np.zeros(len(sums))
        x = _center(sums).x
        votes = [np.sign(x[:, right] - x[:, left]) for left, right in self.label_set.mirror_pairs]
        return np.sign(np.nansum(votes, axis=0))


def _make_table(ids: Sequence[int] = ()) -> np.ndarray:  # [256] uint8
    """Return a table with new ids for the first values, and the identity for the others."""
    return np.array([*ids, *range(len(ids), 256)], dtype=np.uint8)


def _relabel(sums: np.ndarray, table: np.ndarray) -> np.ndarray:  # [N, K, 3] -> [N, K, 3]
    relabelled = np.zeros_like(sums)
    for old, new in zip(range(sums.shape[1]), table.tolist(), strict=False):
        relabelled[:, new] += sums[:, old]
    return relabelled


def _center(sums: np.ndarray) -> _Part:  # [..., 3]
    area = np.where(sums[..., 0] > 0, sums[..., 0], np.nan)
    return _Part(area, sums[..., 1] / area, sums[..., 2] / area)


def _is_less(first: np.ndarray, second: np.ndarray | float) -> np.ndarray:
    """Return 1 where true, 0 where false, NaN where either value is unknown."""
    return np.where(np.isnan(first - second), np.nan, first < second)
