"""Differences to a source generator that prevent copying weights or change their meaning."""

import logging
from collections.abc import Iterator

from mate3d.generator import GeneratorConfig
from mate3d.options import as_text

_logger = logging.getLogger(__name__)

# Options that change the meaning of the same weights.
_GENERATOR_OPTIONS = (
    "camera_scale",
    "box_size",
    "background",
    "sr_input_resolution",
    "sr_noise_mode",
)
_RENDERING_OPTIONS = ("near", "far", "density_activation", "importance_bins", "white_background")
# Sizes of optional parts, and the consequence of a difference.
_PART_SIZES = {
    "hidden_width": "the whole decoder is reinitialised",
    "num_features": "layers that write or read colour features are reinitialised",
    "sr_channels": "super-resolution is reinitialised, in whole or in part",
}
_LABEL_OPTIONS = ("semantic_sharpness", "background_class")


def warn_of_differences(source: GeneratorConfig, model: GeneratorConfig) -> None:
    """Log one line for each option that prevents copying or changes the meaning of weights."""
    for line in (*_lost_parts(source, model), *_other_meanings(source, model)):
        _logger.warning("  %s", line)


def _lost_parts(source: GeneratorConfig, model: GeneratorConfig) -> Iterator[str]:
    """Yield the parts that cannot be copied because of their sizes, and the options to match."""
    for name, consequence in _PART_SIZES.items():
        theirs, ours = as_text(getattr(source, name)), as_text(getattr(model, name))
        if theirs != ours:
            yield (
                f"{consequence}: {name}={ours}, the source has {theirs}; "
                f"model.generator.{name}={theirs} copies what the source learned"
            )


def _other_meanings(source: GeneratorConfig, model: GeneratorConfig) -> Iterator[str]:
    """Yield the options that differ, and how to keep the source's values."""
    if source.plane_layout != model.plane_layout:
        yield (
            f"plane_layout={model.plane_layout}, the source has {source.plane_layout}: the third "
            f"plane has other axes; set model.generator.plane_layout={source.plane_layout} to "
            "keep its shapes"
        )
    has_beta = source.geometry == model.geometry == "sdf"
    names = (*_GENERATOR_OPTIONS, *(["beta"] if has_beta else []))
    labels = _LABEL_OPTIONS if source.label_set == model.label_set else ()
    for theirs, ours, chosen, title, option in (
        (source, model, names, "", "model.generator."),
        (source.rendering, model.rendering, _RENDERING_OPTIONS + labels, "rendering.", ""),
    ):
        for name in chosen:
            was, now = as_text(getattr(theirs, name)), as_text(getattr(ours, name))
            if was != now:
                kept = f"{option}{title}{name}={was} keeps it"
                yield f"{title}{name}={now}, the source has {was}; {kept}"
