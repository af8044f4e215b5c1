"""One edit from the request to its measurements: run the loop, render, measure."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from editing.edited_generator import EditedGenerator
from editing.edited_portrait import EditedPortrait
from editing.guidance.base import Guidance
from editing.loop import EditLoop, EditTarget
from editing.measures import measure
from editing.options import EditOptions, ReportOptions
from editing.outputs import ViewPair, render_views
from editing.portrait import Portrait
from editing.prompts import log_prompts_without_effect
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
    label_prompts: Mapping[int, str] = field(default_factory=dict)


class EditSession:
    """A portrait being edited.

    Args:
        guidance: Frozen prior; None for an edit by mask alone.
    """

    def __init__(
        self,
        portrait: Portrait,
        request: EditRequest,
        options: EditOptions,
        guidance: Guidance | None,
    ):
        self.portrait, self.request, self.options = portrait, request, options
        self.guidance = guidance
        generator = portrait.generator
        label_set = portrait.generator.label_set
        regions = make_regions(
            options.region, request.class_ids, request.views, portrait.scale, label_set
        )
        self.edited = EditedGenerator(generator, portrait.ws, *regions, learnable=options.learnable)
        self.prompt_embeds = None
        if guidance is not None:
            label_set, by_label = generator.label_set, request.label_prompts
            log_prompts_without_effect(request.prompt, by_label, request.class_ids, label_set)
            texts = request.prompt, request.negative_prompt, by_label
            self.prompt_embeds = guidance.encode_prompt(*texts)
        self.history: list[dict[str, float]] = []
        self.optimization_seconds = 0.0

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Optimise to the last step, or stop earlier if `should_stop` returns true."""
        started = time.perf_counter()
        target = EditTarget(
            views=self.request.views,
            class_ids=self.request.class_ids,
            scale=self.portrait.scale,
            guidance=self.guidance,
            prompt_embeds=self.prompt_embeds,
        )
        loop = EditLoop(self.edited, target, self.options, seed=self.request.seed)
        self.history = loop.run(should_stop)
        self.optimization_seconds = time.perf_counter() - started

    def finish(self, options: ReportOptions, *, started: float) -> EditedPortrait:
        """Render and measure.

        Args:
            started: `time.perf_counter()` at the start of the edit.
        """
        cameras = [view.camera for view in self.request.views]
        pairs, other_views = render_views(self.edited, cameras, exact=self.options.exact)
        painted_views = list(zip(self.request.views, pairs, strict=True))
        recipe = Recipe(
            prompt=self.request.prompt,
            class_names=self._class_names(),
            region=self.options.region,
            scale=self.portrait.scale,
            config_hash=self.request.config_hash,
        )
        return EditedPortrait(
            edited=self.edited,
            recipe=recipe,
            painted_views=painted_views,
            other_views=other_views,
            receipt=self._make_receipt(painted_views, other_views, options, started),
            history=self.history,
            exact=self.options.exact,
            started=started,
        )

    def _make_receipt(
        self,
        views: Sequence[tuple[PaintedView, ViewPair]],
        other_views: Sequence[ViewPair],
        options: ReportOptions,
        started: float,
    ) -> Receipt:
        label_set = self.portrait.generator.label_set
        by_label = [
            f"{text} {label_set.class_names[class_id]}"
            for class_id, text in self.request.label_prompts.items()
        ]
        measures = measure(
            views,
            other_views,
            label_set=label_set,
            class_ids=self.request.class_ids,
            prompt=", ".join([*by_label, self.request.prompt]),
            options=options,
        )
        return Receipt(
            **vars(measures),
            prompt=self.request.prompt,
            edit_classes=self._class_names(),
            num_steps=len(self.history),
            num_steps_planned=self.options.num_steps,
            seconds={
                "optimization": round(self.optimization_seconds, 1),
                "total": round(time.perf_counter() - started, 1),
            },
            peak_memory_mib=peak_memory_mib(self.portrait.ws.device),
            config_hash=self.request.config_hash,
        )

    def _class_names(self) -> tuple[str, ...]:
        label_set = self.portrait.generator.label_set
        return tuple(label_set.class_names[class_id] for class_id in self.request.class_ids)
