"""Checks of image and mask pixels, from the facts of the single pass."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from mate3d.labels import LabelSet, get_label_set, label_set_names
from training.data.doctor.examination import ItemFacts, describe
from training.data.doctor.findings import Notes

Masks = dict[str, np.ndarray]  # sums of each value or class, [V, 3]


def check_pixels(items: Sequence[ItemFacts], label_set: LabelSet | None, notes: Notes) -> Masks:
    """Find faults of individual images and masks.

    Returns:
        Sums of each class, [K, 3], for each mask with known ids, after the repairs.
    """
    for item in items:
        for code, remark in item.faults.items():
            notes.add(code, item.name, remark)
    _check_sizes(items, notes)
    _find_duplicates(items, notes)
    if label_set is None:
        return {}
    masks = {item.name: item.sums for item in items if item.sums is not None}
    # The values of these need no interpretation.
    skipped = {*notes.all["mask_interpolated"].names, *notes.all["mask_colors"].names}
    single = {name: sums for name, sums in masks.items() if name not in skipped}
    masks |= _interpret_values(single, label_set, notes)
    known = {name: np.zeros((label_set.num_classes, 3)) for name in masks}
    for name, sums in masks.items():
        known[name][: len(sums)] = sums[: label_set.num_classes]
    return {name: sums for name, sums in known.items() if sums.any()}


def _check_sizes(items: Sequence[ItemFacts], notes: Notes) -> None:
    sizes = {item.name: item.size for item in items if item.size}
    sides = Counter(min(size) for size in sizes.values())
    side = max(sides, key=lambda key: (sides[key], key), default=0)
    for name, size in sizes.items():
        if size != (side, side):
            notes.add("image_size", name, describe(size), detail=side)


def _find_duplicates(items: Sequence[ItemFacts], notes: Notes) -> None:
    first: dict[str, str] = {}
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for item in items:
        if item.image_digest and first.setdefault(item.image_digest, item.name) != item.name:
            notes.add("duplicate", item.name, f"same image as {first[item.image_digest]}")
        if item.mask_digest and item.size:
            groups[item.mask_digest][item.name] = item.image_digest
    for group in groups.values():
        for name in group if len(set(group.values())) > 1 else ():
            other = next(one for one in group if one != name)
            notes.add("duplicate", name, f"same mask as {other}")


def _interpret_values(masks: Masks, label_set: LabelSet, notes: Notes) -> Masks:
    """Interpret values outside the label set; return the masks for which this succeeds."""
    num_classes = label_set.num_classes
    values = {name: np.flatnonzero(sums[:, 0]) for name, sums in masks.items()}
    unknown = {name: one for name, one in values.items() if one.max() >= num_classes}
    highest = max((one.max() for one in unknown.values()), default=0)
    if highest == num_classes and all(one.min() > 0 for one in values.values()):
        notes.say("mask_scaled", "ids from 1")
        table, scaled = np.arange(256).clip(min=1) - 1, list(masks)
    else:
        factor, scaled = _find_factor(unknown, num_classes)
        table = (np.arange(256) / factor).round()
        if scaled:
            notes.say("mask_scaled", f"factor {factor:g}")
    table = table.astype(np.uint8)
    known = {name: np.zeros((256, 3)) for name in scaled}
    for name in scaled:
        notes.add("mask_scaled", name, detail=table)
        np.add.at(known[name], table[: len(masks[name])], masks[name])
    strange = {name: one for name, one in unknown.items() if name not in scaled}
    shares = {name: masks[name][num_classes:, 0].sum() for name in strange}
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        ids = strange[name][strange[name] >= num_classes]
        notes.add("mask_unknown_ids", name, f"{ids.tolist()} on {100 * share:.1f} % of the pixels")
    if strange:
        highest = max(one.max() for one in strange.values())
        sets = [name for name in label_set_names() if get_label_set(name).num_classes > highest]
        fitting = ", ".join(sets) or "no known label set"
        allowed = f"{label_set.name} allows 0..{num_classes - 1}"
        notes.say("mask_unknown_ids", f"{allowed}; these ids would fit {fitting}")
    return known


def _find_factor(unknown: Mapping[str, np.ndarray], num_classes: int) -> tuple[float, list[str]]:
    """Return the factor that explains the most masks (the largest if tied), and those masks."""
    best: tuple[float, list[str]] = (1.0, [])
    spread = {255 / (num_classes - 1), 255 / num_classes} - set(range(256))
    for factor in (*range(2, 128), *sorted(spread, reverse=True)):
        # Levels of a non-integer factor were rounded or truncated.
        tolerance = 0 if isinstance(factor, int) else 1
        explained = [
            name
            for name, values in unknown.items()
            if (values / factor).round().max() < num_classes
            and (np.abs(values - (values / factor).round() * factor) <= tolerance).all()
        ]
        # Two values, background and one other, fit any factor.
        has_evidence = any(len(unknown[name]) >= 3 for name in explained)
        if has_evidence and len(explained) >= max(len(best[1]), 1):
            best = (float(factor), explained)
    return best
