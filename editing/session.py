"""One edit from the request to its measurements: run the loop, render, measure."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from editing.edited_generator import EditedGenerator
from editing.edited_portrait import EditedPortrait
from editing.guidance.base import Guidance, encode_sides
from editing.loop import EditLoop, EditTarget
from editing.measures import measure
from editing.options import EditOptions, ReportOptions
from editing.outputs import render_views
from editing.portrait import Portrait
from editing.progress import EditProgress
from editing.receipt import Receipt, peak_memory_mib
from editing.recipe import Recipe
from editing.regions import PaintedView, make_regions


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
    edited = EditedGenerator(generator, portrait.ws, *regions, learnable=options.learnable)
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
    cameras = [view.camera for view in views]
    pairs, other_views = render_views(edited, cameras, exact=options.exact)
    painted_views = list(zip(views, pairs, strict=True))
    measures = measure(
        painted_views,
        other_views,
        label_set=label_set,
        class_ids=class_ids,
        prompt=request.prompt,
        label_prompts=request.label_prompts,
        options=report,
    )
    names = tuple(label_set.class_names[class_id] for class_id in class_ids)
    receipt = Receipt(
        **vars(measures),
        prompt=request.prompt,
        prompts={label_set.class_names[id_]: text for id_, text in request.label_prompts.items()},
        edit_classes=names,
        num_steps=loop.num_steps,
        num_steps_planned=loop.planned_steps,
        num_steps_skipped=loop.num_skipped,
        seconds={
            "optimization": round(optimized - optimization_started, 1),
            "total": round(time.perf_counter() - started, 1),
        },
        peak_memory_mib=peak_memory_mib(portrait.ws.device),
        config_hash=request.config_hash,
    )
    return EditedPortrait(
        edited=edited,
        recipe=Recipe(request.prompt, names, options.region, portrait.scale, request.config_hash),
        painted_views=painted_views,
        other_views=other_views,
        receipt=receipt,
        history=loop.history,
        exact=options.exact,
        started=started,
    )
