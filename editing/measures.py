"""Measure a finished edit: masks, pictures, and named colours."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from editing.losses import mask_iou, psnr_outside
from editing.options import ReportOptions
from editing.outputs import VIEW_YAWS, ViewPair
from editing.portrait import Portrait
from editing.receipt import BeforeAfter, ColorReceipt, LabelReceipt, Measures
from editing.regions import PaintedView, is_member
from mate3d.errors import UserError
from mate3d.labels import LabelSet
from mate3d.metrics.feature_network import load_feature_network
from mate3d.metrics.named_colors import colors_in, load_part_colors, part_color, part_ids

_logger = logging.getLogger(__name__)

_LABELS_NETWORK = "procedural_features"
# With less of the picture outside the region, its PSNR says nothing about the edit.
_MIN_OUTSIDE_SHARE = 0.05
_ALMOST_ALL = f"less than {100 * _MIN_OUTSIDE_SHARE:.0f} % of the picture is outside"
REGION_DEFINITION = (
    "pixels that were repainted or show an edited class in the source or the edited mask, and "
    "pixels closer to them than rim times the picture's side"
)


def measure(
    painted_views: Sequence[tuple[PaintedView, ViewPair]],
    other_views: Sequence[ViewPair],
    *,
    label_set: LabelSet,
    class_ids: Sequence[int],
    prompt: str,
    label_prompts: Mapping[int, str] | None = None,
    options: ReportOptions,
) -> Measures:
    """Measure an edit.

    Args:
        painted_views: Every view in which a mask was painted, and its renders. The first shows
            colours and CLIP score.
        other_views: Renders of other views.
        class_ids: Classes that were allowed to change.
        label_prompts: Prompts of single labels by class id.
    """
    pairs = [pair for _, pair in painted_views]
    regions = [
        edited_pixels(pair.label_maps, class_ids, options.rim, view.repainted(class_ids))
        for view, pair in painted_views
    ]
    psnrs = [_psnr(pair, region) for pair, region in zip(pairs, regions, strict=True)]
    lowest = min((value for value in psnrs if value is not None), default=None)
    inside = torch.cat(regions)
    by_label = {
        class_id: f"{text} {label_set.class_names[class_id]}"
        for class_id, text in (label_prompts or {}).items()
    }
    text = ", ".join([*by_label.values(), *filter(None, [prompt])])
    words = colors_in(prompt)
    for class_id, own in by_label.items():
        named = colors_in(own).items()
        words |= {part: word for part, word in named if class_id in part_ids(part, label_set)}
    return Measures(
        labels=_measure_labels(painted_views, label_set, class_ids),
        colors=_measure_colors(pairs[0], words, label_set, class_ids),
        clip_score=_measure_clip(pairs[0], text, options.clip),
        psnr_outside_region_db=lowest,
        psnr_outside_region_other_views_db=tuple(
            _psnr(pair, edited_pixels(pair.label_maps, class_ids, options.rim))
            for pair in other_views
        ),
        region={
            "definition": REGION_DEFINITION,
            "rim": options.rim,
            "share_of_picture": inside.float().mean().item(),
            "note": _ALMOST_ALL if lowest is None else "",
        },
    )


def measure_chain(
    portrait: Portrait,
    painted: Sequence[tuple[Tensor, ViewPair]],
    other_views: Sequence[ViewPair],
    options: ReportOptions,
) -> dict[str, Any]:
    """Compare the last result of a chain with the head before all edits, outside all regions.

    Args:
        painted: Painted cameras of the last edit, each [1, 25], and their renders.
        other_views: Renders at `VIEW_YAWS`.
    """
    label_set, origin = portrait.generator.label_set, replace(portrait, steps=())
    class_ids = sorted({each for step in portrait.steps for each in step.class_ids(label_set)})
    values = []
    for camera, pair in [*painted, *zip(map(portrait.camera, VIEW_YAWS), other_views, strict=True)]:
        whole = ViewPair(origin.render(camera), pair.edited)
        painted_here = [
            view.repainted(class_ids)
            for step in portrait.steps
            for view in step.views
            if torch.equal(view.camera, camera)
        ]
        repainted = torch.stack(painted_here).any(dim=0) if painted_here else None
        maps = *whole.label_maps, pair.label_maps[0]
        values.append(_psnr(whole, edited_pixels(maps, class_ids, options.rim, repainted)))
    known = [value for value in values[: len(painted)] if value is not None]
    return {
        "num_edits": len(portrait.steps),
        "psnr_outside_regions_db": min(known, default=None),
        "psnr_outside_regions_other_views_db": values[len(painted) :],
    }


def edited_pixels(
    label_maps: Sequence[Tensor],  # each [1, H, W]
    class_ids: Sequence[int],
    rim: float,
    repainted: Tensor | None = None,  # [1, 1, H, W] bool
) -> Tensor:  # [1, 1, H, W] bool
    """Return the pixels near an edited class in any of the label maps, or near repainted ones.

    Args:
        rim: Distance that counts as near, as a share of the picture's side.
    """
    near = torch.stack([is_member(each, class_ids) for each in label_maps]).any(dim=0)
    if repainted is not None:
        near = near | repainted[0]
    if not near.any():
        return near.unsqueeze(1)
    distance = torch.from_numpy(distance_transform_edt(~near[0].cpu().numpy()))
    return (distance <= rim * near.shape[-1]).to(near.device).view(1, 1, *near.shape[1:])


def _psnr(pair: ViewPair, region: Tensor) -> float | None:
    if (~region).float().mean() < _MIN_OUTSIDE_SHARE:
        return None
    return psnr_outside(*pair.levels, region.cpu(), value_range=255)


def _stacked(pairs: Sequence[ViewPair], name: str) -> list[Tensor]:
    return [torch.cat(each) for each in zip(*(getattr(p, name) for p in pairs), strict=True)]


def _measure_labels(
    painted_views: Sequence[tuple[PaintedView, ViewPair]],
    label_set: LabelSet,
    class_ids: Sequence[int],
) -> dict[str, LabelReceipt]:
    pairs = [pair for _, pair in painted_views]
    before, after = _stacked(pairs, "label_maps")
    painted = torch.cat([view.label_map for view, _ in painted_views]).to(before)
    seen = _labels_in_pictures(pairs, label_set)
    labels = {}
    for class_id, name in enumerate(label_set.class_names):
        had, has, wanted = (label_map == class_id for label_map in (before, after, painted))
        if not (had | has | wanted).any():
            continue
        removed, added = had & ~wanted, wanted & ~had
        may_change, is_repainted = class_id in class_ids, bool((removed | added).any())
        is_gone = had.any() and not wanted.any()
        labels[name] = LabelReceipt(
            change=("repainted" if is_repainted else "edited") if may_change else "untouched",
            iou=_iou(before, after, painted, painted, class_id),
            iou_by_view=tuple(
                _iou(before[[view]], after[[view]], painted[[view]], painted[[view]], class_id)
                for view in range(len(pairs))
            ),
            removed_pixels=int(removed.sum()),
            left_pixels=int((has if is_gone else has & removed).sum()),
            added_pixels=int(added.sum()),
            gained_pixels=int((has & added).sum()),
            network_iou=_iou(*seen, before, painted, class_id) if seen else BeforeAfter(),
        )
    return labels


def _iou(
    before: Tensor,  # [V, H, W], like all
    after: Tensor,
    wanted_before: Tensor,
    wanted_after: Tensor,
    class_id: int,
) -> BeforeAfter:
    return BeforeAfter(
        mask_iou(before, wanted_before, class_id), mask_iou(after, wanted_after, class_id)
    )


def _labels_in_pictures(pairs: Sequence[ViewPair], label_set: LabelSet) -> list[Tensor] | None:
    """Return what a network sees in source and edited pictures; None if it knows other labels."""
    device = pairs[0].label_maps[0].device
    network = load_feature_network(_LABELS_NETWORK, device)
    if label_set.name not in network.config.label_sets:
        return None
    edited, source = (levels.to(device) / 127.5 - 1 for levels in _stacked(pairs, "levels"))
    return [network.label_maps(pictures, label_set.name) for pictures in (source, edited)]


def _measure_colors(
    pair: ViewPair, words: Mapping[str, str], label_set: LabelSet, class_ids: Sequence[int]
) -> dict[str, ColorReceipt]:
    known, receipts = load_part_colors(label_set.name), {}
    pictures = [levels[0] / 127.5 - 1 for levels in reversed(pair.levels)]
    for part, word in words.items():
        may_change = not set(class_ids).isdisjoint(part_ids(part, label_set))
        if not may_change or part not in known or word not in known[part].means:
            continue
        colors = [
            part_color(picture, label_map[0].cpu(), part, label_set)
            for picture, label_map in zip(pictures, pair.label_maps, strict=True)
        ]
        likely = [{} if color is None else known[part].probabilities(color) for color in colors]
        if any(likely):
            looks = [max(each, key=each.__getitem__) if each else None for each in likely]
            # A part that is gone has no colour at all.
            agreement = BeforeAfter(*(each.get(word, 0.0) for each in likely))
            receipts[part] = ColorReceipt(word, agreement, *looks)
    return receipts


def _measure_clip(pair: ViewPair, prompt: str, model: str | None) -> BeforeAfter | None:
    if model is None or not prompt:
        return None
    from mate3d.metrics.clip import ClipScore

    try:
        score = ClipScore(model, pair.label_maps[0].device)
    except UserError as error:
        # A finished edit is worth more than one of its measures.
        _logger.warning("no CLIP score: %s", error)
        return None
    after, before = (score(levels, [prompt]) for levels in pair.levels)
    return BeforeAfter(before, after)
