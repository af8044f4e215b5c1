"""What is wrong with the pixels of images and masks, from the facts of the one pass."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mate3d.labels import LabelSet, get_label_set, label_set_names
from training.data.doctor.examination import ItemFacts, Shape, describe
from training.data.doctor.findings import Notes

Shapes = Mapping[int, Shape]


def check_pixels(
    items: Sequence[ItemFacts], label_set: LabelSet | None, notes: Notes
) -> dict[str, Shapes]:
    """Find what is wrong with images and masks alone.

    Args:
        items: Facts of the pass.
        label_set: Meaning of the ids, if known.
        notes: Gets what is wrong.

    Returns:
        Shapes by label id of each mask whose ids are known, as they are after the repairs.
    """
    for item in items:
        for code, remark in item.faults.items():
            notes.add(code, item.name, remark)
    _check_sizes(items, notes)
    _find_duplicates(items, notes)
    if label_set is None:
        return {}
    masks = {item.name: item.shapes for item in items if item.shapes}
    skipped = {*notes.names("mask_interpolated"), *notes.names("mask_colors")}
    single = {name: shapes for name, shapes in masks.items() if name not in skipped}
    masks |= _interpret_values(single, label_set, notes)
    return {
        name: {id_: shape for id_, shape in shapes.items() if id_ < label_set.num_classes}
        for name, shapes in masks.items()
    }


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


def _interpret_values(
    masks: Mapping[str, Shapes], label_set: LabelSet, notes: Notes
) -> dict[str, Shapes]:
    """Find out what values beyond the label set mean; return the shapes by id."""
    num_classes = label_set.num_classes
    unknown = {name: shapes for name, shapes in masks.items() if max(shapes) >= num_classes}
    highest = max(map(max, unknown.values()), default=0)
    if highest == num_classes and not any(0 in shapes for shapes in masks.values()):
        table, scaled = np.arange(256).clip(min=1) - 1, tuple(masks)
        notes.say("mask_scaled", "ids from 1")
    else:
        factor, scaled = _find_factor(unknown, num_classes)
        table = (np.arange(256) / factor).round()
        if scaled:
            notes.say("mask_scaled", f"factor {factor:g}")
    for name in scaled:
        notes.add("mask_scaled", name, detail=table.astype(np.uint8))
    strange = {name: shapes for name, shapes in unknown.items() if name not in scaled}
    _note_unknown_ids(strange, len(masks), label_set, notes)
    return {name: relabel(masks[name], table) for name in scaled}


def _find_factor(unknown: Mapping[str, Shapes], num_classes: int) -> tuple[float, tuple[str, ...]]:
    """Return the factor that explains the most masks, the largest of equals, and those masks."""
    spread = (255 / (num_classes - 1), 255 / num_classes)
    best: tuple[float, tuple[str, ...]] = (1.0, ())
    for factor in (*range(2, 128), *(f for f in spread if f != int(f))):
        explained = tuple(n for n, one in unknown.items() if _explains(factor, one, num_classes))
        # Two values, background and one other, are multiples of anything.
        has_evidence = any(len(unknown[name]) >= 3 for name in explained)
        if has_evidence and len(explained) >= max(len(best[1]), 1):
            best = (float(factor), explained)
    return best


def _explains(factor: float, values: Iterable[int], num_classes: int) -> bool:
    # Levels of a factor that is no integer were rounded or cut off.
    tolerance = 0 if factor == int(factor) else 1
    return all(
        abs(value - round(value / factor) * factor) <= tolerance
        and round(value / factor) < num_classes
        for value in values
    )


def _note_unknown_ids(
    strange: Mapping[str, Shapes], num_masks: int, label_set: LabelSet, notes: Notes
) -> None:
    ids = {n: [i for i in one if i >= label_set.num_classes] for n, one in strange.items()}
    shares = {name: sum(strange[name][i].area for i in ids[name]) for name in strange}
    for name in sorted(strange, key=lambda name: -shares[name]):
        listed = ", ".join(map(str, ids[name][:6])) + (", ..." if len(ids[name]) > 6 else "")
        notes.add("mask_unknown_ids", name, f"{listed} on {100 * shares[name]:.1f} % of the pixels")
    if strange:
        notes.say("mask_unknown_ids", f"{label_set.name} allows 0..{label_set.num_classes - 1}")
    if len(strange) > num_masks / 2:
        highest = max(map(max, strange.values()))
        sets = [one for one in map(get_label_set, label_set_names()) if one.num_classes > highest]
        names = ", ".join(one.name for one in sets) or "no known label set"
        notes.say("mask_unknown_ids", f"the ids would fit {names}")


def relabel(shapes: Shapes, table: Sequence[int]) -> dict[int, Shape]:
    """Give shapes the ids of a table; those that get one id are joined."""
    groups: dict[int, list[Shape]] = defaultdict(list)
    for id_, shape in shapes.items():
        if id_ < len(table):
            groups[int(table[id_])].append(shape)
    return {id_: join_shapes(group) for id_, group in groups.items()}


def join_shapes(shapes: Sequence[Shape]) -> Shape:
    """Return common area and centroid."""
    areas = np.array([shape.area for shape in shapes])
    return Shape(
        area=float(areas.sum()),
        x=float(areas @ [shape.x for shape in shapes] / areas.sum()),
        y=float(areas @ [shape.y for shape in shapes] / areas.sum()),
    )
