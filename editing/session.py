"""One edit from the request to its measurements: run the loop, render, measure."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from editing.edited_generator import EditedGenerator
from editing.edited_portrait import EditedPortrait
from editing.guidance.base import Guidance, encode_sides
from editing.loop import EditLoop, EditTarget
from editing.measures import measure, measure_chain
from editing.options import EditOptions, ReportOptions
from editing.outputs import render_views
from editing.portrait import Portrait
from editing.progress import EditProgress
from editing.receipt import Receipt, peak_memory_mib
from editing.recipe import EditStep, StepRecipe, prior_hashes
from editing.regions import PaintedView, make_regions
from mate3d.errors import UserError
from mate3d.options import config_to_dict


@dataclass(frozen=True)
class EditRequest:
    """The user's request.

    Args:
        views: Painted views, at least one; an unpainted one for an edit by prompt alone.
        class_ids: Classes that may change.
        prompt: Text prompt; empty for an edit by mask alone.
        negative_prompt: Negative prompt, often empty.
        seed: Seed of the random views, noise and timesteps.
        config_hash: Hash of the resolved configuration.
        label_prompts: Prompts of single labels by class id.
    """

    views: tuple[PaintedView, ...]
    class_ids: tuple[int, ...]
    prompt: str
    negative_prompt: str
    seed: int
    config_hash: str
    label_prompts: Mapping[int, str]


def run_edit(
    portrait: Portrait,
    request: EditRequest,
    options: EditOptions,
    report: ReportOptions,
    guidance: Guidance | None,
    should_stop: Callable[[], bool],
    *,
    started: float,
    progress: EditProgress | None = None,
) -> EditedPortrait:
    """Optimise to the last step, or until `should_stop` returns true; then render and measure.

    Args:
        guidance: Frozen prior; None for an edit by mask alone.
        progress: Writes states and previews, and resumes; None does neither.
        started: `time.perf_counter()` at the start of the command.
    """
    optimization_started = time.perf_counter()
    generator, views, class_ids = portrait.generator, request.views, request.class_ids
    label_set = generator.label_set
    regions = make_regions(options.region, class_ids, views, portrait.scale, label_set)
    edited = EditedGenerator(
        generator, portrait.ws, *regions, learnable=options.learnable, layers=portrait.layers
    )
    prompt_embeds = None
    if guidance is not None:
        words = options.distillation.view_words
        texts = request.prompt, request.negative_prompt, request.label_prompts
        prompt_embeds = encode_sides(guidance, words, *texts)
    target = EditTarget(views, class_ids, portrait.scale, guidance, prompt_embeds)
    loop = EditLoop(edited, target, options, seed=request.seed)
    if progress is None:
        loop.run(should_stop)
    else:
        started -= (earlier := progress.run(loop, should_stop))
        optimization_started -= earlier
    optimized = time.perf_counter()
    recipe = StepRecipe(
        prompt=request.prompt,
        class_names=tuple(label_set.class_names[class_id] for class_id in class_ids),
        region=options.region,
        scale=portrait.scale,
        config_hash=request.config_hash,
        prompts={label_set.class_names[id_]: text for id_, text in request.label_prompts.items()},
        negative_prompt=request.negative_prompt,
        seed=request.seed,
        options=config_to_dict(options),
        prior_sha256=prior_hashes(guidance),
    )
    finished = replace(portrait, steps=(*portrait.steps, EditStep(recipe, views, edited.settle())))
    return _show(
        finished,
        edited,
        report,
        exact=options.exact,
        started=started,
        history=loop.history,
        num_steps=loop.num_steps,
        num_steps_planned=loop.planned_steps,
        num_steps_skipped=loop.num_skipped,
        seconds={"optimization": round(optimized - optimization_started, 1)},
        config_hash=request.config_hash,
    )


def change_edits(
    portrait: Portrait,
    *,
    strength: float = 1.0,
    without: Sequence[int] = (),
    blend: Portrait | None = None,
    blend_share: float = 0.5,
    apply_to: Portrait | None = None,
) -> Portrait:
    """Return a portrait whose finished edits are scaled, left out, blended, or on another head.

    Args:
        strength: Factor of all changes.
        without: Numbers of edits to leave out, from 1.
        blend: The same head with other edits; they come on top.
        blend_share: Factor of their changes; the portrait's own get the rest.
        apply_to: The head that gets the edits. Painted pixels are painted on it, and the lengths
            of regions are relative to it.

    Raises:
        UserError: If there is no edit, or no edit left, or the heads of a blend differ.
    """
    if not portrait.steps:
        raise UserError(
            f"source={portrait.name} has no edits to change; give the folder of an edit"
        )
    if unknown := sorted(set(without) - set(range(1, len(portrait.steps) + 1))):
        raise UserError(f"without={unknown}: source has the edits 1..{len(portrait.steps)}")
    kept = [each for number, each in enumerate(portrait.steps, 1) if number not in without]
    if blend is not None:
        if not torch.equal(blend.ws, portrait.ws):
            raise UserError("blend: the two edits are of different heads")
        kept = [each.scaled(1 - blend_share) for each in kept]
        kept += [each.scaled(blend_share) for each in blend.steps]
    if not kept:
        raise UserError("without leaves no edit; strength=0 gives the head before all edits")
    steps = tuple(each.scaled(strength) for each in kept)
    if apply_to is None:
        return replace(portrait, steps=steps)
    head = apply_to
    for step in steps:
        views = tuple(_painted_on(head, view) for view in step.views)
        recipe = replace(step.recipe, scale=head.scale)
        head = replace(head, steps=(*head.steps, replace(step, recipe=recipe, views=views)))
    return head


def _painted_on(portrait: Portrait, view: PaintedView) -> PaintedView:
    own = portrait.view(view.camera)
    is_painted = view.source_label_map != view.label_map
    return replace(own, label_map=torch.where(is_painted, view.label_map, own.label_map))


def replay(
    portrait: Portrait, report: ReportOptions | None = None, *, config_hash: str = ""
) -> EditedPortrait:
    """Return the finished edits of a portrait, the last one beside the step before.

    It gives the pictures that the edit gave, on a CPU bit for bit.
    """
    started, last = time.perf_counter(), portrait.steps[-1]
    before = replace(portrait, steps=portrait.steps[:-1])
    regions = last.regions(portrait.generator.label_set)
    edited = EditedGenerator(portrait.generator, portrait.ws, *regions, layers=before.layers)
    edited.fix(last.changes, last.recipe.strength)
    return _show(
        portrait,
        edited,
        report or ReportOptions(),
        exact=bool(last.recipe.options.get("exact", False)),
        started=started,
        history=[],
        num_steps=0,
        num_steps_planned=0,
        config_hash=config_hash,
        seconds={},
    )


def _show(
    portrait: Portrait,
    edited: EditedGenerator,
    report: ReportOptions,
    *,
    exact: bool,
    started: float,
    history: list[dict[str, float]],
    seconds: dict[str, float],
    **facts: Any,
) -> EditedPortrait:
    """Render and measure the last edit of a portrait."""
    step, label_set = portrait.steps[-1], portrait.generator.label_set
    recipe, class_ids = step.recipe, step.class_ids(label_set)
    cameras = [view.camera for view in step.views]
    pairs, other_views = render_views(edited, cameras, exact=exact)
    painted_views = list(zip(step.views, pairs, strict=True))
    measures = measure(
        painted_views,
        other_views,
        label_set=label_set,
        class_ids=class_ids,
        prompt=recipe.prompt,
        label_prompts={label_set.class_id(name): text for name, text in recipe.prompts.items()},
        options=report,
    )
    chain = None
    if len(portrait.steps) > 1:
        chain = measure_chain(portrait, [*zip(cameras, pairs, strict=True)], other_views, report)
    receipt = Receipt(
        **vars(measures),
        prompt=recipe.prompt,
        prompts=recipe.prompts,
        edit_classes=recipe.class_names,
        seconds=seconds | {"total": round(time.perf_counter() - started, 1)},
        peak_memory_mib=peak_memory_mib(portrait.ws.device),
        chain=chain,
        **facts,
    )
    return EditedPortrait(
        edited=edited,
        portrait=portrait,
        painted_views=painted_views,
        other_views=other_views,
        receipt=receipt,
        history=history,
        exact=exact,
        started=started,
    )
