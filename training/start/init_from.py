"""Start training from the weights of another generator: ours, published MaTe3D, or EG3D."""

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

# Sizes that must match, along with the backbone's channels; otherwise little could be reused.
_EQUAL_SIZES = (
    "z_dim",
    "w_dim",
    "mapping_layers",
    "plane_resolution",
    "plane_channels",
    "resolution",
)
_CHANNELS = "backbone channels"
# Noise on each class head, relative to its weights' RMS: they start almost equal to the SDF head.
_CLASS_HEAD_NOISE = 0.01
# Warn if the optical depth of empty space along the box exceeds this; at 1, 37 % of light passes.
_FOG = 0.5


@dataclass(frozen=True)
class InitSource:
    """Weights to start training from, under our names.

    Args:
        path: Origin of the weights, for messages.
        config: Sizes and conventions of the generator.
        generator: State of the generator; its EMA if the source has one.
        discriminator: State of the image discriminator, if the source has one.
        semantic_discriminator: State of the image-and-mask discriminator, if the source has one.
    """

    path: str
    config: GeneratorConfig
    generator: Mapping[str, Tensor]
    discriminator: Mapping[str, Tensor] | None = None
    semantic_discriminator: Mapping[str, Tensor] | None = None


def read_source(path: str) -> InitSource:
    """Read a published snapshot (.pkl), a run folder, or anything that `load_generator` accepts.

    Only the first two have discriminators; a run folder's come from its training state.

    Raises:
        UserError: If it is missing, damaged, or contains no generator.
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
    """Return the weights of a published snapshot, with the generator's EMA if available.

    Raises:
        UserError: If there is no generator, or weights are not finite.
    """
    network = networks.get("G_ema") or networks.get("G")
    if network is None:
        raise UserError(f"init_from={path}: the snapshot contains no generator (G_ema or G)")
    # Rendering differences matter little for weights that will be trained further.
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
            raise UserError(f"init_from={path} contains non-finite values in {broken[0]}")
    return InitSource(
        path,
        conversion.generator.config,
        {name: t for name, t in state.items() if name not in conversion.initialised},
        discriminators.get("D"),
        discriminators.get("D_semantic"),
    )


def initialize_networks(networks: Networks, source: InitSource) -> None:
    """Initialise the networks' weights from a source and log the origin of each.

    Matching tensors are copied by name. For the rest:

    - The branch of a single tri-plane is copied to texture and shape, since its features hold
      both.
    - A density head becomes the SDF head (`density_to_sdf.sdf_head_tensors`), scaled to a mean
      slope of 1 at the surface; its colour rows become the colour head.
    - Without class heads for the same labels, every class head starts as the SDF head with a
      little noise. Then min_k max(d_k, 0) = max(d, 0): the union of the parts equals the whole
      from the first step, and the classes divide up the head as the masks require.
    - With other labels, segmentation layers are copied for classes with the same name.
    - Without labels, segmentation super-resolution starts from the image's except for its output
      layers (spec 8.7), and the image-and-mask discriminator from the image discriminator.

    Args:
        networks: Modified in place. Create the EMA afterwards.

    Raises:
        UserError: If sizes of mapping, trunk or images differ.
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
    # A source's config has the beta that it ended with, scheduled or learned, so equal ones agree.
    for name in ("decoder.beta", "decoder.parametrizations.beta.original"):
        filler.keep("as configured", name)
    has_same_labels = config.label_set == generator.config.label_set
    filler.fill(
        "copied", {n: t for n, t in state.items() if has_same_labels or not _is_of_labels(n)}
    )
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
    # Tensors converted above count as used, although they have no counterpart here.
    is_used = re.compile(
        r".*\.to_image\.planes\.|decoder\.(density_head|beta|parametrizations)"
    ).match
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
    """Scale the mean slope at the surface to 1; the surface does not move."""
    surface = density_to_sdf.measure_surface(generator)
    if surface.num_points == 0:
        _logger.warning(
            "  SDF head: no surface found; the source's density never crosses %g", level
        )
        return
    last = generator.decoder.sdf_head[2]
    last.weight.div_(surface.slope)
    last.bias.div_(surface.slope)
    _logger.info("  SDF head: scaled by 1 / %.4g, the mean slope at its surface", surface.slope)
    _warn_of_fog(generator, surface.empty_distance / surface.slope)


def _fill_class_heads(filler: WeightFiller, generator: Generator) -> None:
    sdf_head = tensors_below(filler.targets, "decoder.sdf_head")
    origin = f"of class heads from the SDF head, perturbed by {_CLASS_HEAD_NOISE:.0%}"
    for index in range(len(generator.decoder.class_heads)):
        head = density_to_sdf.perturbed(sdf_head, _CLASS_HEAD_NOISE)
        filler.fill_module(origin, f"decoder.class_heads.{index}", head)


def _fill_class_pictures(filler: WeightFiller, source: InitSource, label_set: LabelSet) -> None:
    """Copy the segmentation output channels of the classes that both label sets have."""
    pairs = common_classes(get_label_set(source.config.label_set), label_set)
    rows = {
        name: picture_layer(filler.targets[name], tensor, pairs)
        for name, tensor in source.generator.items()
        if name in filler.targets and _makes_class_pictures(name)
    }
    filler.fill("of segmentation super-resolution by classes of the same name", rows)


def _warn_of_fog(generator: Generator, distance: float) -> None:
    """Warn if empty space absorbs light because beta is large relative to its distances."""
    density = generator.decoder.density(torch.tensor(distance)).item()
    if density * generator.config.box_size > _FOG:
        _logger.warning(
            "  SDF head: empty space has a distance of only %.2g, because the source's densities "
            "level off; with beta=%.2g its density is %.2g until training increases the distance; "
            "model.generator.beta=%.1g avoids this",
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
        _logger.info("  %s: not in the source, keeps its initial values", title)
        return
    filler = WeightFiller(discriminator)
    filler.fill(origin, state)
    filler.report(title, state)


def _check_sizes(source: InitSource, config: GeneratorConfig) -> None:
    """Reject a source whose essential sizes differ."""
    # One tri-plane can initialise two, but not the other way round.
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
        f"init_from={source.path} and the model have different sizes: {', '.join(facts)}; "
        f"set {' '.join(values)} or choose another source"
    )


def _backbone_channels(config: GeneratorConfig) -> list[int]:
    sides = [2**power for power in range(2, config.plane_resolution.bit_length())]
    return [min(config.channel_base // side, config.channel_max) for side in sides]


def _rescaled_mapping(source: InitSource, config: GeneratorConfig) -> dict[str, Tensor]:
    """Return the generator's state with mapping weights rescaled to the model's lr multiplier."""
    ratio = source.config.mapping_lr_multiplier / config.mapping_lr_multiplier
    return {
        name: tensor * ratio if name.startswith("mapping.layers.") else tensor
        for name, tensor in source.generator.items()
    }


def _is_of_labels(name: str) -> bool:
    """Return whether a tensor's meaning depends on the label set."""
    return _makes_class_pictures(name) or name.startswith("decoder.class_heads.")


def _makes_class_pictures(name: str) -> bool:
    is_picture = name.startswith("segmentation_superresolution.") and ".to_image." in name
    return is_picture and ".affine." not in name
