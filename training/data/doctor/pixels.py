"""What is wrong with the pixels of images and masks, from the facts of the one pass."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mate3d.labels import LabelSet, get_label_set, label_set_names
from training.data.doctor.examination import MIN_SPREAD, ImageFacts, ItemFacts, MaskFacts, Shape
from training.data.doctor.findings import Finding, make_finding

# Drawn masks stay below 0.05; smooth resizing makes more than half of the border such pixels.
_MAX_IN_BETWEEN = 0.15
_ONE_CHANNEL = ("values", "grey_channels", "wide")
_CODE_OF_ENCODING = {
    "colors": "mask_colors",
    "bgr_colors": "mask_colors",
    "blended_colors": "mask_blended_colors",
    "foreign_colors": "mask_foreign_colors",
    "grey_channels": "mask_grey_channels",
    "palette_order": "mask_palette_order",
    "wide": "mask_depth",
}


@dataclass(frozen=True)
class MaskReport:
    """Findings of the masks, and what they mean after the repairs that the findings offer.

    Args:
        findings: What is wrong.
        shapes: Shapes by label id of each mask whose ids are known.
    """

    findings: tuple[Finding, ...]
    shapes: Mapping[str, Mapping[int, Shape]]


def check_images(items: Sequence[ItemFacts]) -> tuple[Finding, ...]:
    """Return what is wrong with the images alone, and with masks of another size than theirs."""
    images = {item.name: item.image for item in items if item.image is not None}
    readable = {name: facts for name, facts in images.items() if not facts.error}
    sides = Counter(min(facts.size) for facts in readable.values())
    side = max(sides, key=lambda key: (sides[key], key), default=0)
    broken = {name: facts.error for name, facts in images.items() if facts.error}
    modes = {n: f"mode {f.mode}" for n, f in readable.items() if f.mode != "RGB"}
    oblong = {n: _size(f) for n, f in readable.items() if f.size[0] != f.size[1]}
    odd = {n: _size(f) for n, f in readable.items() if n not in oblong and f.size[0] != side}
    turned = {
        n: f"EXIF orientation {f.orientation}" for n, f in readable.items() if f.orientation != 1
    }
    usual = f"the most are {side} x {side}"
    oblong_sizes = {name: readable[name].size for name in oblong}
    return (
        *_remarked("image_unreadable", broken),
        *_remarked("image_mode", modes),
        *_remarked("image_not_square", oblong, details={"side": side, "sizes": oblong_sizes}),
        *_remarked("image_size", odd, usual, details={"side": side}),
        *_remarked("image_orientation", turned),
        *_named("image_blank", [n for n, f in readable.items() if f.spread < MIN_SPREAD]),
        *_find_duplicates(readable),
        *_remarked("mask_size", _sizes_that_differ(items)),
    )


def _size(facts: ImageFacts | MaskFacts) -> str:
    return f"{facts.size[0]} x {facts.size[1]} px"


def _sizes_that_differ(items: Sequence[ItemFacts]) -> dict[str, str]:
    return {
        item.name: f"mask {_size(item.mask)}, image {_size(item.image)}"
        for item in items
        if item.image is not None
        and item.mask is not None
        and not item.image.error
        and not item.mask.error
        and item.image.size != item.mask.size
    }


def _find_duplicates(images: Mapping[str, ImageFacts]) -> list[Finding]:
    first: dict[str, str] = {}
    remarks: dict[str, str] = {}
    for name, facts in sorted(images.items()):
        # Blank images have a finding of their own.
        if facts.spread >= MIN_SPREAD and first.setdefault(facts.digest, name) != name:
            remarks[name] = f"same as {first[facts.digest]}"
    return _remarked("image_duplicate", remarks)


def check_masks(items: Sequence[ItemFacts], label_set: LabelSet | None) -> MaskReport:
    """Return what is wrong with the masks.

    Args:
        items: Facts of the pass.
        label_set: Meaning of the ids; None skips what depends on it.
    """
    masks = {item.name: item.mask for item in items if item.mask is not None}
    broken = {name: facts.error for name, facts in masks.items() if facts.error}
    masks = {name: facts for name, facts in masks.items() if not facts.error}
    findings = _remarked("mask_unreadable", broken)
    findings += _named("mask_lossy", [name for name, facts in masks.items() if facts.is_lossy])
    masks = {name: facts for name, facts in masks.items() if not facts.is_lossy}
    findings += _find_encodings(masks)
    empty = [name for name, facts in masks.items() if len(facts.shapes) == 1]
    findings += _named("mask_empty", empty)
    masks = {n: f for n, f in masks.items() if len(f.shapes) > 1}
    findings += _find_shared_masks(masks, items)
    smooth = [n for n, f in masks.items() if _is_smooth(f)]
    findings += _named("mask_interpolated", sorted(smooth, key=lambda n: -masks[n].in_between))
    if label_set is None:
        return MaskReport(tuple(findings), {})
    palettes = [n for n, f in masks.items() if f.has_other_palette]
    findings += _named("mask_palette", palettes)
    single = {n: f for n, f in masks.items() if f.encoding in _ONE_CHANNEL and n not in smooth}
    found, tables = _interpret_values(single, label_set)
    findings += found
    shapes = {name: _translate(facts.shapes, tables.get(name)) for name, facts in masks.items()}
    known = range(label_set.num_classes)
    shapes = {n: {i: s for i, s in one.items() if i in known} for n, one in shapes.items()}
    return MaskReport(tuple(findings), shapes)


def _is_smooth(facts: MaskFacts) -> bool:
    return facts.encoding in _ONE_CHANNEL and facts.in_between > _MAX_IN_BETWEEN


def _find_encodings(masks: Mapping[str, MaskFacts]) -> list[Finding]:
    names: dict[str, dict[str, str]] = defaultdict(dict)
    for name, facts in masks.items():
        code = _CODE_OF_ENCODING.get(facts.encoding)
        if code is not None:
            is_swapped = facts.encoding == "bgr_colors"
            remark = f"mode {facts.mode}" + (", red and blue exchanged" if is_swapped else "")
            names[code][name] = remark
    return [finding for code, remarks in names.items() for finding in _remarked(code, remarks)]


def _find_shared_masks(masks: Mapping[str, MaskFacts], items: Sequence[ItemFacts]) -> list[Finding]:
    images = {item.name: item.image.digest for item in items if item.image is not None}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(masks):
        if images.get(name) and masks[name].shapes:
            groups[masks[name].digest].append(name)
    shared = {
        name: f"same mask as {group[0] if name != group[0] else group[1]}"
        for group in groups.values()
        if len({images[name] for name in group}) > 1
        for name in group
    }
    return _remarked("mask_duplicate", shared)


Tables = dict[str, Callable[[int], int]]


def _interpret_values(
    masks: Mapping[str, MaskFacts], label_set: LabelSet
) -> tuple[list[Finding], Tables]:
    """Find out what values beyond the label set mean; also return how to turn them into ids."""
    num_classes = label_set.num_classes
    unknown = {n: f for n, f in masks.items() if max(f.shapes) >= num_classes}
    binary = [n for n, f in unknown.items() if set(f.shapes) == {0, 255}]
    findings = _named("mask_binary", binary)
    unknown = {n: f for n, f in unknown.items() if n not in binary}
    if _counts_from_one(masks, num_classes):
        findings += _named("mask_one_based", list(masks))
        return findings, dict.fromkeys(masks, lambda value: value - 1)
    factor, multiplied = _find_factor(unknown, num_classes)
    findings += _named(
        "mask_multiplied", multiplied, f"factor {factor:g}", details={"factor": factor}
    )
    strange = {n: f for n, f in unknown.items() if n not in multiplied}
    findings += _find_unknown_ids(strange, masks, label_set)
    nowhere = dict.fromkeys(binary, lambda value: num_classes)
    return findings, nowhere | dict.fromkeys(multiplied, lambda value: round(value / factor))


def _counts_from_one(masks: Mapping[str, MaskFacts], num_classes: int) -> bool:
    highest = max((max(facts.shapes) for facts in masks.values()), default=0)
    return highest == num_classes and all(0 not in facts.shapes for facts in masks.values())


def _find_factor(
    unknown: Mapping[str, MaskFacts], num_classes: int
) -> tuple[float, tuple[str, ...]]:
    """Return the factor that explains the most masks, the largest of equals, and those masks."""
    spread = (255 / (num_classes - 1), 255 / num_classes)
    best: tuple[float, tuple[str, ...]] = (1.0, ())
    for factor in (*range(2, 128), *(f for f in spread if f != int(f))):
        explained = tuple(n for n, f in unknown.items() if _explains(factor, f, num_classes))
        # Two values, background and one other, are multiples of anything.
        has_evidence = any(len(unknown[name].shapes) >= 3 for name in explained)
        if has_evidence and len(explained) >= max(len(best[1]), 1):
            best = (float(factor), explained)
    return best


def _explains(factor: float, facts: MaskFacts, num_classes: int) -> bool:
    # Levels of a factor that is no integer were rounded or cut off.
    tolerance = 0 if factor == int(factor) else 1
    return all(
        abs(value - round(value / factor) * factor) <= tolerance
        and round(value / factor) < num_classes
        for value in facts.shapes
    )


def _find_unknown_ids(
    strange: Mapping[str, MaskFacts], masks: Mapping[str, MaskFacts], label_set: LabelSet
) -> list[Finding]:
    remarks, shares = {}, {}
    for name, facts in strange.items():
        ids = [value for value in facts.shapes if value >= label_set.num_classes]
        shares[name] = sum(facts.shapes[value].area for value in ids)
        listed = ", ".join(map(str, ids[:6])) + (", ..." if len(ids) > 6 else "")
        remarks[name] = f"ids {listed} on {100 * shares[name]:.1f} % of the pixels"
    names = sorted(strange, key=lambda name: -shares[name])
    message = f"{label_set.name} allows 0..{label_set.num_classes - 1}"
    if len(strange) > len(masks) / 2:
        highest = max(max(facts.shapes) for facts in strange.values())
        sets = [one for one in map(get_label_set, label_set_names()) if one.num_classes > highest]
        message += f"; the ids would fit {', '.join(s.name for s in sets) or 'no known label set'}"
    return _named("mask_unknown_ids", names, message, remarks=remarks)


def _translate(shapes: Mapping[int, Shape], to_id: Callable[[int], int] | None) -> dict[int, Shape]:
    if to_id is None:
        return dict(shapes)
    return join_shapes((to_id(value), shape) for value, shape in shapes.items())


def join_shapes(parts: Iterable[tuple[int, Shape]]) -> dict[int, Shape]:
    """Merge shapes with the same id to one of their common area and centroid."""
    groups: dict[int, list[Shape]] = defaultdict(list)
    for id_, shape in parts:
        groups[id_].append(shape)
    joined = {}
    for id_, group in groups.items():
        weights = [shape.area for shape in group]
        joined[id_] = Shape(
            area=sum(weights),
            x=float(np.average([shape.x for shape in group], weights=weights)),
            y=float(np.average([shape.y for shape in group], weights=weights)),
        )
    return joined


def _named(code: str, names: Sequence[str], message: str = "", **options) -> list[Finding]:
    return [make_finding(code, names, message, **options)] if names else []


def _remarked(code: str, remarks: Mapping[str, str], message: str = "", **options) -> list[Finding]:
    return _named(code, sorted(remarks), message, remarks=remarks, **options)
