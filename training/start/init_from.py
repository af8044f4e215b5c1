"""Start training from the weights of another generator: ours, a published MaTe3D, or an EG3D."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mate3d.checkpoint import load_generator
from mate3d.checkpoints.storage import load_document
from mate3d.errors import UserError
from mate3d.generator import Generator, GeneratorConfig
from mate3d.labels import LabelSet, get_label_set
from mate3d.published.conversion import convert_generator
from mate3d.published.names import convert_discriminator_state
from mate3d.published.networks import PublishedNetwork, read_networks
from training.run_folder.retention import CHECKPOINT_FOLDER
from training.run_folder.state_file import STATE_FILE
from training.start import density_to_sdf
from training.start.differences import warn_of_differences
from training.start.other_labels import common_classes, picture_layer, reading_layer
from training.start.weight_filler import WeightFiller, tensors_below
from training.step_inputs import Networks

_logger = logging.getLogger(__name__)

# Without these, and the channels of the backbone, nothing useful could be started from.
_EQUAL_SIZES = (
    "z_dim",
    "w_dim",
    "mapping_layers",
    "plane_resolution",
    "plane_channels",
    "resolution",
)
_CHANNELS = "backbone channels"
# Noise on each class head, relative to its weights' size: they start as the whole head, nearly.
_CLASS_HEAD_NOISE = 0.01
# Empty space that absorbs more along a side of the box is worth a warning; 1 lets 37 % pass.
_FOG = 0.5


@dataclass(frozen=True)
class InitSource:
    """Weights that training starts from, under our names.

    Args:
        path: Where they were read, for messages.
        config: Sizes and conventions of the generator.
        generator: Its state; the moving average where the source has one.
        discriminator: State of the image discriminator, if the source has it.
        semantic_discriminator: State of the image-and-mask discriminator, if the source has it.
    """

    path: str
    config: GeneratorConfig
    generator: Mapping[str, Tensor]
    discriminator: Mapping[str, Tensor] | None = None
    semantic_discriminator: Mapping[str, Tensor] | None = None


def read_source(path: str) -> InitSource:
    """Read a published snapshot (.pkl), a run folder, or what `load_generator` knows.

    Only the first two have discriminators; a run folder's are those of its training state.

    Raises:
        UserError: If it is missing, damaged, or holds no generator.
    """
    if path.endswith(".pkl"):
        return source_from_networks(path, read_networks(path))
    if not (Path(path) / CHECKPOINT_FOLDER).is_dir():
        generator = load_generator(path)
        return InitSource(path, generator.config, generator.state_dict())
    generator, state_file = load_generator(Path(path) / CHECKPOINT_FOLDER), Path(path) / STATE_FILE
    modules = load_document(state_file)["modules"] if state_file.is_file() else {}
    return InitSource(
        path,
        generator.config,
        generator.state_dict(),
        modules.get("discriminator"),
        modules.get("semantic_discriminator"),
    )


def source_from_networks(path: str, networks: Mapping[str, PublishedNetwork]) -> InitSource:
    """Return what a published snapshot's networks hold, the moving average if it is there.

    Raises:
        UserError: If there is no generator, or its weights are not finite.
    """
    network = networks.get("G_ema") or networks.get("G")
    if network is None:
        raise UserError(f"init_from={path}: the snapshot holds no generator, G_ema or G")
    # What renders otherwise than in the lineage matters little to weights that will change.
    conversion = convert_generator(network, strict=False)
    for problem in conversion.problems:
        _logger.warning("init_from=%s: %s", path, problem)
    state = conversion.generator.state_dict()
    discriminators = {
        name: convert_discriminator_state(networks[name].state)
        for name in ("D", "D_semantic")
        if name in networks
    }
    for tensors in (state, *discriminators.values()):
        broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise UserError(f"init_from={path} holds values that are not finite in {broken[0]}")
    return InitSource(
        path,
        conversion.generator.config,
        {name: t for name, t in state.items() if name not in conversion.initialised},
        discriminators.get("D"),
        discriminators.get("D_semantic"),
    )


def initialize_networks(networks: Networks, source: InitSource) -> None:
    """Set the networks' weights from a source and log what came from where.

    What fits is copied by name. For the rest:

    - A source with a single tri-plane gives that branch to texture and to shape: its features
      hold both.
    - A source of densities gives the SDF head `density_to_sdf.sdf_head_tensors`, scaled to a mean
      slope of 1 at the surface, and its colour rows to the colour head.
    - Without class heads of the same labels, every class head starts as the SDF head with a
      little noise. Then min_k max(d_k, 0) = max(d, 0): the parts' union is the whole from the
      first step, no surface has to be undone, and the classes divide the head among themselves as
      the masks tell them to.
    - A source of other labels gives the networks of masks what they know of the classes that both
      have by the same name.
    - Without labels, segmentation super-resolution starts from the image's but for the layers that
      make pictures (spec 8.7), and the image-and-mask discriminator from the image's.

    Args:
        networks: Changed in place. Make the moving average afterwards.
        source: What to start from.

    Raises:
        UserError: If sizes of mapping, trunk or pictures differ.
    """
    generator = networks.generator
    _check_sizes(source, generator.config)
    _logger.info("init_from=%s", source.path)
    warn_of_differences(source.config, generator.config)
    _initialize_generator(generator, source)
    _initialize_discriminators(networks, source)


def _initialize_generator(generator: Generator, source: InitSource) -> None:
    config, filler = source.config, WeightFiller(generator)
    state = _rescaled_mapping(source, generator.config)
    # A beta that the user changed wins; otherwise the source's may have been learned.
    if config.beta != generator.config.beta:
        filler.keep("as configured", "decoder.beta")
    has_same_labels = config.label_set == generator.config.label_set
    filler.fill(
        "copied", {n: t for n, t in state.items() if has_same_labels or not _is_of_labels(n)}
    )
    # A source of densities has no beta to copy.
    filler.keep("as configured", "decoder.beta")
    if config.plane_branches == "single":
        for branch in ("texture", "shape"):
            renamed = {
                name.replace(".to_image.planes.", f".to_image.{branch}."): tensor
                for name, tensor in state.items()
                if ".to_image.planes." in name
            }
            filler.fill(f"of the {branch} branch from the source's one branch", renamed)
    if config.geometry == "density":
        _fill_from_density(filler, generator, source)
    is_sdf = generator.config.geometry == "sdf" and generator.config.with_local_sdfs
    if is_sdf and "decoder.sdf_head.2.weight" in filler.origins:
        _fill_class_heads(filler, generator)
    segmentation = {
        f"segmentation_superresolution.{name}": tensor
        for name, tensor in tensors_below(state, "superresolution").items()
        if ".to_image." not in name
    }
    filler.fill("of segmentation super-resolution from the image's", segmentation)
    if not has_same_labels:
        _fill_class_pictures(filler, source, generator.label_set)
    # What the copies above were made of has been used, though it has no equal here.
    is_used = re.compile(r".*\.to_image\.planes\.|decoder\.density_head\.").match
    filler.report(
        "generator", {n: t for n, t in state.items() if n in filler.targets or not is_used(n)}
    )


def _fill_from_density(filler: WeightFiller, generator: Generator, source: InitSource) -> None:
    config, level = generator.config, source.config.density_level
    if config.geometry == "density" and config.plane_branches == "single":
        return
    density_head = tensors_below(source.generator, "decoder.density_head")
    if len(density_head["2.bias"]) > 1:
        rows = density_to_sdf.color_head_tensors(density_head)
        filler.fill_module("of the colour head from its rows there", "decoder.color_head", rows)
    if config.geometry == "density":
        row = density_to_sdf.density_row_tensors(density_head)
        filler.fill_module("of the density head from its row there", "decoder.density_head", row)
    else:
        head = density_to_sdf.sdf_head_tensors(density_head, level)
        origin = f"of the SDF head: zero where the source's density is {level:g}"
        filler.fill_module(origin, "decoder.sdf_head", head)
    if "decoder.sdf_head.2.weight" in filler.origins:
        _scale_sdf_head(generator, level)


@torch.no_grad()
def _scale_sdf_head(generator: Generator, level: float) -> None:
    """Make the mean slope at the surface 1; the surface stays where it is."""
    surface = density_to_sdf.measure_surface(generator)
    if surface.num_points == 0:
        _logger.warning(
            "  SDF head: no surface found: the source's density never crosses %g here", level
        )
        return
    last = generator.decoder.sdf_head[2]
    last.weight.div_(surface.slope)
    last.bias.div_(surface.slope)
    _logger.info("  SDF head: scaled by 1 / %.4g, the mean slope at its surface", surface.slope)
    _warn_of_fog(generator, surface.empty_distance / surface.slope)


def _fill_class_heads(filler: WeightFiller, generator: Generator) -> None:
    sdf_head = filler.module("decoder.sdf_head")
    for index in range(len(generator.decoder.class_heads)):
        head = density_to_sdf.perturbed(sdf_head, _CLASS_HEAD_NOISE)
        origin = f"of class heads from the SDF head, perturbed by {_CLASS_HEAD_NOISE:.0%}"
        filler.fill_module(origin, f"decoder.class_heads.{index}", head)


def _fill_class_pictures(filler: WeightFiller, source: InitSource, label_set: LabelSet) -> None:
    """Give the layers that make segmentations the channels of the classes that both sets have."""
    pairs = common_classes(get_label_set(source.config.label_set), label_set)
    rows = {
        name: picture_layer(filler.targets[name], tensor, pairs)
        for name, tensor in source.generator.items()
        if name in filler.targets and _makes_class_pictures(name)
    }
    filler.fill("of segmentation super-resolution by classes of the same name", rows)


def _warn_of_fog(generator: Generator, distance: float) -> None:
    """Warn if empty space absorbs, because beta is large against the distances found there."""
    density = generator.decoder.density(torch.tensor(distance)).item()
    if density * generator.config.box_size > _FOG:
        _logger.warning(
            "  SDF head: the source's densities level off, so that empty space is at a distance of "
            "only %.2g; with beta=%.2g its density is %.2g until training has stretched it; "
            "model.generator.beta=%.1g is clear from the start",
            distance,
            generator.decoder.beta.item(),
            density,
            distance / 10,
        )


def _initialize_discriminators(networks: Networks, source: InitSource) -> None:
    own, other = source.semantic_discriminator, source.discriminator
    _fill(networks.discriminator, "discriminator", "copied", other)
    label_set = networks.generator.label_set
    if own is None:
        origin, state, pairs = "from the image discriminator", other, []
    else:
        pairs = common_classes(get_label_set(source.config.label_set), label_set)
        origin, state = "copied", own
    if state is not None and (own is None or source.config.label_set != label_set.name):
        state = {
            name: reading_layer(tensor, label_set.num_classes, pairs)
            if name.endswith(".from_image.weight")
            else tensor
            for name, tensor in state.items()
        }
    _fill(networks.semantic_discriminator, "semantic discriminator", origin, state)


def _fill(
    discriminator: nn.Module, title: str, origin: str, state: Mapping[str, Tensor] | None
) -> None:
    if state is None:
        _logger.info("  %s: keeps its initial values, the source has none", title)
        return
    filler = WeightFiller(discriminator)
    filler.fill(origin, state)
    filler.report(title, state)


def _check_sizes(source: InitSource, config: GeneratorConfig) -> None:
    """Refuse a source that differs in what nothing useful could be started from without."""
    # One tri-plane starts two, but not the other way round.
    names = [*_EQUAL_SIZES, *(["plane_branches"] if source.config.plane_branches == "dual" else [])]
    theirs, ours = (
        {name: getattr(one, name) for name in names} | {_CHANNELS: _backbone_channels(one)}
        for one in (source.config, config)
    )
    differing = [name for name in theirs if theirs[name] != ours[name]]
    if not differing:
        return
    facts = [f"{name} {theirs[name]} (model: {ours[name]})" for name in differing]
    options = [name for name in differing if name != _CHANNELS]
    options += ["channel_base", "channel_max"] if _CHANNELS in differing else []
    values = [f"model.generator.{name}={getattr(source.config, name)}" for name in options]
    raise UserError(
        f"init_from={source.path} has other sizes than the model: {', '.join(facts)}; "
        f"say {' '.join(values)} or choose another source"
    )


def _backbone_channels(config: GeneratorConfig) -> list[int]:
    sides = [2**power for power in range(2, config.plane_resolution.bit_length())]
    return [min(config.channel_base // side, config.channel_max) for side in sides]


def _rescaled_mapping(source: InitSource, config: GeneratorConfig) -> dict[str, Tensor]:
    """Return the generator's state with mapping weights that act the same at another rate."""
    ratio = source.config.mapping_lr_multiplier / config.mapping_lr_multiplier
    return {
        name: tensor * ratio if name.startswith("mapping.layers.") else tensor
        for name, tensor in source.generator.items()
    }


def _is_of_labels(name: str) -> bool:
    """Tell whether a tensor's meaning depends on which labels there are."""
    return _makes_class_pictures(name) or name.startswith("decoder.class_heads.")


def _makes_class_pictures(name: str) -> bool:
    is_picture = name.startswith("segmentation_superresolution.") and ".to_image." in name
    return is_picture and ".affine." not in name
