"""What of another generator a model cannot take over, or takes over with another meaning."""

import logging
from collections.abc import Iterator

from mate3d.generator import GeneratorConfig

_logger = logging.getLogger(__name__)

# Options that give the same weights another meaning.
_GENERATOR_OPTIONS = (
    "camera_scale",
    "box_size",
    "background",
    "sr_input_resolution",
    "sr_noise_mode",
)
_RENDERING_OPTIONS = ("near", "far", "density_activation", "importance_bins", "white_background")
# Sizes of parts that training can start without, and what becomes of those where they differ.
_PART_SIZES = {
    "hidden_width": "the whole decoder starts anew",
    "num_features": "layers that make or read colour features start anew",
    "sr_channels": "super-resolution starts anew, in whole or in part",
}
_LABEL_OPTIONS = ("semantic_sharpness", "background_class")


def warn_of_differences(source: GeneratorConfig, model: GeneratorConfig) -> None:
    """Log one line for each option that stops copying or gives the weights another meaning."""
    for line in (*_lost_parts(source, model), *_other_meanings(source, model)):
        _logger.warning("  %s", line)


def _lost_parts(source: GeneratorConfig, model: GeneratorConfig) -> Iterator[str]:
    """Yield what cannot be copied because of its sizes, and the options that make them equal."""
    for name, consequence in _PART_SIZES.items():
        theirs, ours = _shown(getattr(source, name)), _shown(getattr(model, name))
        if theirs != ours:
            yield (
                f"{consequence}: {name}={ours}, the source has {theirs}; "
                f"model.generator.{name}={theirs} copies what the source learned"
            )


def _other_meanings(source: GeneratorConfig, model: GeneratorConfig) -> Iterator[str]:
    """Yield what differs and how to keep the source's way."""
    if source.plane_layout != model.plane_layout:
        yield (
            f"plane_layout={model.plane_layout}, the source has {source.plane_layout}: its third "
            f"plane knows other axes; say model.generator.plane_layout={source.plane_layout} to "
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
            was, now = _shown(getattr(theirs, name)), _shown(getattr(ours, name))
            if was != now:
                kept = f"{option}{title}{name}={was} keeps it"
                yield f"{title}{name}={now}, the source has {was}; {kept}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_shown, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
