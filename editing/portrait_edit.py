"""Edit a portrait in one call: from mask and prompt to pictures, numbers and a head."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from editing.edited_portrait import EditedPortrait
from editing.guidance.base import Guidance
from editing.masks import (
    PaintedMask,
    check_fit,
    find_mask,
    load_painted_mask,
    resolve_edit_classes,
)
from editing.options import EditOptions, GuidanceOptions, ReportOptions
from editing.portrait import Portrait, open_portrait
from editing.progress import EditProgress
from editing.prompts import log_fixed_parts, named_classes, resolve_label_prompts
from editing.receipt import Receipt
from editing.regions import PaintedView, repainted_classes
from editing.session import EditRequest, run_edit
from mate3d.errors import UserError
from mate3d.generator import Generator
from torch_utils.stages import stage

_logger = logging.getLogger(__name__)


def edit_portrait(
    generator: Generator,
    prompt: str = "",
    *,
    mask: str | Path | Tensor | None = None,  # [H, W] integer
    yaw_degrees: float = 0.0,
    pitch_degrees: float = 0.0,
    views: Sequence[PaintedMask | PaintedView] = (),
    mask_snap: bool = False,
    edit_classes: str | Sequence[str] = "auto",
    prompts: Mapping[str, str] | None = None,
    negative_prompt: str = "",
    source: int | str | Path = 0,
    truncation_psi: float = 0.7,
    num_samples: int = 1,
    options: EditOptions | None = None,
    report: ReportOptions | None = None,
    guidance: Guidance | Callable[[], Guidance] | None = None,
    config_hash: str = "",
    should_stop: Callable[[], bool] = lambda: False,
    progress: EditProgress | None = None,
) -> EditedPortrait:
    """Edit a head by a repainted mask, a prompt, or both.

    Every edit needs a few dozen steps of optimisation: about a minute for the demo on a laptop.

    Example:
        >>> from editing import edit_portrait
        >>> from mate3d import Generator
        >>> generator = Generator.from_pretrained("demo_cat")
        >>> edit = edit_portrait(generator, "a black cat", mask="demo_edit", source=7)
        >>> edit.image.shape
        torch.Size([1, 3, 128, 128])
        >>> edit.receipt.edit_classes
        ('ears',)
        >>> side = edit.render(yaw_degrees=40).image
        >>> surface = edit.mesh(resolution=64)
        >>> receipt = edit.write("outputs/edit_python")

    Args:
        prompt: What the edited parts should look like; may be empty for an edit by mask alone, if
            the options give distillation no weight.
        mask: Repainted mask: a file, the name of an included edit, or label ids. None edits by the
            prompt alone, which keeps the shape.
        yaw_degrees: Yaw of the view of `mask` in degrees.
        pitch_degrees: Pitch of that view in degrees.
        views: Further masks of the same head from other sides; they count as much as `mask`.
        mask_snap: Assign colours that JPEG or anti-aliasing mixed in mask files to a class.
        edit_classes: Classes that may change; see `resolve_edit_classes`.
        prompts: Prompts of single labels, which replace the global one there, by class name.
        source: Head to edit: a seed, a latent file, or the folder of an edit, which this one then
            adds to.
        num_samples: Edits to make with the seeds `options.seed`, `options.seed` + 1 and so on. The
            one with the best `sample_score` is returned.
        options: How the edit is optimised; None is the complete method.
        report: Rim of the measured region; the rest of it is used by `EditedPortrait.write`.
        guidance: The diffusion prior, or a function that loads it when it is needed; None is the
            prior that comes with the project.
        config_hash: Kept in receipt and recipe, to recognise how they were made.
        should_stop: Asked after each step; true ends the edit with what it has.
        progress: Writes states and previews while the edit runs, and resumes an interrupted one;
            None does neither.

    Raises:
        UserError: If mask, classes or prompt do not fit together, or do not fit the head.
    """
    started = time.perf_counter()
    options, report = options or EditOptions(), report or ReportOptions()
    names = (edit_classes,) if isinstance(edit_classes, str) else tuple(edit_classes)
    label_set, with_prior = generator.label_set, bool(options.weights.distillation)
    if mask is None and views and (yaw_degrees or pitch_degrees):
        raise UserError("yaw_degrees and pitch_degrees are those of mask; give each view its own")
    with stage("Rendering the source"):
        portrait = open_portrait(generator, source, truncation_psi=truncation_psi)
        first = portrait.view(portrait.camera(*map(math.radians, (yaw_degrees, pitch_degrees))))
        painted = [] if mask is None else [_painted(portrait, first, mask, mask_snap)]
        painted += [_further_view(portrait, each, mask_snap) for each in views]
    with_mask, views = bool(painted), tuple(painted or [first])
    check_prompt(bool(prompt.strip() or prompts), with_mask=with_mask, with_prior=with_prior)
    request = EditRequest(
        views=views,
        class_ids=resolve_edit_classes(names, views, label_set, with_mask=with_mask),
        prompt=prompt.strip(),
        negative_prompt=negative_prompt,
        seed=portrait.seed if options.seed is None else options.seed,
        config_hash=config_hash,
        label_prompts=resolve_label_prompts(prompts or {}, label_set),
    )
    for number, view in enumerate(painted, start=1):
        what = "the mask" if len(painted) == 1 else f"mask {number} of {len(painted)}"
        check_fit(view, what, may_differ=names != ("auto",))
    repainted, named = repainted_classes(views, label_set), named_classes(prompt, label_set)
    log_fixed_parts("the mask repaints", repainted, request.class_ids, label_set)
    if with_prior:
        named += request.label_prompts
        log_fixed_parts("the prompts name", named, request.class_ids, label_set)
    resolved = ", ".join(label_set.class_names[each] for each in request.class_ids)
    _logger.info("classes that may change: %s", resolved)
    prior = _load(guidance, portrait.ws.device) if with_prior else None
    best, samples, images = None, [], []
    for number in range(num_samples):
        if num_samples > 1:
            _logger.info("sample %d of %d", number + 1, num_samples)
        own = replace(request, seed=(request.seed + number) % 2**32)
        tracked = progress and replace(progress, number=number + 1)
        session = portrait, own, options, report, prior, should_stop
        try:
            edit = run_edit(*session, started=started, progress=tracked)
        except UserError as error:
            if best is None:
                raise
            _logger.warning("sample %d failed: %s", number + 1, error)
            continue
        samples.append({"seed": own.seed, **edit.receipt.summary()})
        images.append(edit.image)
        if best is None or sample_score(edit.receipt) > sample_score(best.receipt):
            best = edit
        if should_stop():
            break
    if num_samples == 1:
        return best
    _logger.info("kept the sample with the highest score, %.3f", sample_score(best.receipt))
    receipt = replace(best.receipt, samples=tuple(samples))
    return replace(best, receipt=receipt, sample_images=tuple(images))


def check_prompt(has_prompt: bool, *, with_mask: bool, with_prior: bool) -> None:
    """Refuse an edit that would do nothing, and say if the prompt is not used.

    Raises:
        UserError: If there is neither a mask nor a prompt that the prior sees, or a prior but no
            prompt.
    """
    if with_prior and not has_prompt:
        raise UserError(
            "prompt is empty; describe how the edited parts should look, or edit by mask alone with"
            " edit=mask_only"
        )
    if not with_prior and not with_mask:
        raise UserError("this edit uses no prior, so it needs a mask; give mask or another edit")
    if not with_prior and has_prompt:
        _logger.warning("the prompt has no effect, because this edit uses no prior")


def sample_score(receipt: Receipt) -> float:
    """Return the score by which the best sample is chosen, the one of `Measures.summary`."""
    return receipt.summary()["score"] or 0.0


def load_guidance(options: GuidanceOptions, device: torch.device) -> Guidance:
    """Load a diffusion prior.

    Raises:
        UserError: If it is missing, damaged or of another kind.
    """
    with stage("Loading the prior"):
        from editing.guidance.loading import load_controlnet_guidance

        return load_controlnet_guidance(options, device)


def _load(guidance: Guidance | Callable[[], Guidance] | None, device: torch.device) -> Guidance:
    if guidance is None:
        return load_guidance(GuidanceOptions(), device)
    return guidance if hasattr(guidance, "predict_noise") else guidance()


def _painted(
    portrait: Portrait, view: PaintedView, mask: str | Path | Tensor, snap: bool
) -> PaintedView:
    """Return the view with a mask painted in it."""
    label_set, resolution = portrait.generator.label_set, portrait.generator.config.resolution
    if isinstance(mask, str | Path):
        label_map = load_painted_mask(find_mask(mask), label_set, resolution, snap=snap)
    else:
        label_map = torch.as_tensor(mask).long()
        label_map = label_map.unsqueeze(0) if label_map.ndim == 2 else label_map
        low, high = label_map.aminmax()
        is_known = 0 <= low and high < label_set.num_classes
        if label_map.shape != view.label_map.shape or not is_known:
            raise UserError(
                f"the mask has shape {list(label_map.shape)} and ids {low}..{high}; use "
                f"{resolution} x {resolution} ids of 0..{label_set.num_classes - 1}"
            )
    return replace(view, label_map=label_map.to(view.label_map.device))


def _further_view(portrait: Portrait, each: PaintedMask | PaintedView, snap: bool) -> PaintedView:
    if isinstance(each, PaintedView):
        return each
    angles = map(math.radians, (each.yaw_degrees, each.pitch_degrees))
    return _painted(portrait, portrait.view(portrait.camera(*angles)), each.mask, snap)
