"""Build a training state from settings: networks, optimisers, stages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.generator import Generator, GeneratorConfig
from mate3d.labels import LabelSet, get_label_set
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from mate3d.options import config_from_dict
from torch_utils.distributed import world
from training.losses.terms import CLASS_DISTANCE_TERMS, DISTANCE_TERMS, LossSettings
from training.optimization.adam import make_adam
from training.optimization.compilation import compile_networks
from training.optimization.ema import make_average
from training.optimization.precision import TrainingPrecision
from training.parts import BatchParts
from training.settings import TrainingSettings
from training.stages import InitialStage, SphereInitialization
from training.start.init_from import InitSource, initialize_networks
from training.start.warm_start import WarmStart, WarmStartConfig
from training.state import TrainingState
from training.step_inputs import Networks


@dataclass(frozen=True)
class StageSettings:
    """What comes before the adversarial training.

    Args:
        warm_start: "procedural" regresses the fields of procedural portraits.
        sphere_init_steps: Steps that first make all distances those of a sphere.
        warm_start_config: Lengths and sizes of the warm start.
    """

    warm_start: Literal["none", "procedural"] = "none"
    sphere_init_steps: int = 0
    warm_start_config: WarmStartConfig = WarmStartConfig()


def check_label_set(config: GeneratorConfig, label_set: LabelSet) -> None:
    """Compare the model's labels with the data set's.

    Raises:
        UserError: If they differ.
    """
    if config.label_set != label_set.name:
        raise UserError(
            f"the data set's labels are {label_set.name}, the model's {config.label_set}; "
            f"say dataset.label_set={label_set.name} or choose other data"
        )


def build_state(
    generator_config: GeneratorConfig,
    discriminator_sizes: Mapping[str, Any],
    settings: TrainingSettings,
    stage_settings: StageSettings,
    cameras: Tensor,  # [N, 25]
    device: torch.device,
    source: InitSource | None = None,
) -> TrainingState:
    """Return the state at the beginning of a run; weights follow PyTorch's random numbers.

    Args:
        generator_config: Sizes and conventions of the generator.
        discriminator_sizes: Fields of `DiscriminatorConfig` that do not follow from it.
        settings: Of the loop and its steps.
        stage_settings: What comes first.
        cameras: The data set's.
        device: Where to train.
        source: Weights that networks and average start from, as far as they fit.

    Raises:
        UserError: If sizes do not fit, a stage is unknown, or the losses need distances that the
            generator has not.
    """
    _check_geometry(generator_config, settings.loss, stage_settings)
    parts = BatchParts(settings.loop.batch_size, settings.loop.accumulation, world())
    _check_part_size(parts, discriminator_sizes)
    num_classes = get_label_set(generator_config.label_set).num_classes
    networks = Networks(
        generator=_build_generator(generator_config).to(device),
        discriminator=_build_discriminator(generator_config, discriminator_sizes, 3).to(device),
        semantic_discriminator=_build_discriminator(
            generator_config, discriminator_sizes, 3 + num_classes
        ).to(device),
    )
    if source is not None:
        initialize_networks(networks, source)
    if settings.loop.compile:
        compile_networks(
            networks.generator, networks.discriminator, networks.semantic_discriminator
        )
    return TrainingState(
        networks=networks,
        average=make_average(networks.generator),
        optimizers=_build_optimizers(networks, settings),
        scaler=TrainingPrecision(settings.loop.precision, device).make_scaler(),
        stages=_build_stages(networks, settings, stage_settings, cameras.to(device), parts),
    )


def _check_geometry(
    config: GeneratorConfig, loss: LossSettings, stage_settings: StageSettings
) -> None:
    """Refuse terms and stages on distances that the generator has not."""
    if not config.with_local_sdfs:
        _check_no_local_sdfs(config, loss, stage_settings)
    if config.geometry == "sdf":
        return
    used = [f"loss.{name}" for name in DISTANCE_TERMS if getattr(loss, name) > 0]
    if stage_settings.sphere_init_steps > 0:
        used.append("train.sphere_init_steps")
    if stage_settings.warm_start != "none":
        used.append("train.warm_start")
    if used:
        raise UserError(
            f"model.generator.geometry=density has no distances for {', '.join(used)}; say "
            "loss=density, train.sphere_init_steps=0 and train.warm_start=none"
        )


def _check_no_local_sdfs(
    config: GeneratorConfig, loss: LossSettings, stage_settings: StageSettings
) -> None:
    used = [f"loss.{name}" for name in CLASS_DISTANCE_TERMS if getattr(loss, name) > 0]
    if stage_settings.sphere_init_steps > 0:
        used.append("train.sphere_init_steps")
    if used:
        raise UserError(
            "model.generator.with_local_sdfs=false has no distances of classes for "
            f"{', '.join(used)}; say 0 or choose ablation=no_local_sdfs"
        )
    if config.rendering.semantic_sharpness != 1:
        raise UserError(
            "model.generator.with_local_sdfs=false with rendering.semantic_sharpness="
            f"{config.rendering.semantic_sharpness:g}: it decodes logits as they are; say 1"
        )


def _check_part_size(parts: BatchParts, discriminator_sizes: Mapping[str, Any]) -> None:
    group_size = discriminator_sizes.get(
        "stddev_group_size", DiscriminatorConfig().stddev_group_size
    )
    size = parts.part_size
    if size % min(group_size, size) == 0:
        return
    share = "" if parts.num_units == 1 else f", divided into {parts.num_units} of {size},"
    raise UserError(
        f"train.batch_size={parts.batch_size}{share} must be a multiple of "
        f"model.discriminator.stddev_group_size={group_size}, or smaller"
    )


def _build_generator(config: GeneratorConfig) -> Generator:
    try:
        return Generator(config)
    except ValueError as error:
        raise UserError(f"model.generator: {error}") from None


def _build_discriminator(
    generator_config: GeneratorConfig, sizes: Mapping[str, Any], image_channels: int
) -> Discriminator:
    config = config_from_dict(
        DiscriminatorConfig,
        {
            **sizes,
            "image_channels": image_channels,
            "resolution": generator_config.resolution,
        },
    )
    return Discriminator(config)


def _build_optimizers(
    networks: Networks, settings: TrainingSettings
) -> dict[str, torch.optim.Optimizer]:
    """Correct each optimiser for its lazy step, if that has any weight."""
    optimizer, loss = settings.optimizer, settings.loss

    def make(network: torch.nn.Module, lr: float, interval: int, weight: float) -> torch.optim.Adam:
        reg_interval = interval if weight > 0 else None
        return make_adam(network.parameters(), lr, optimizer, reg_interval=reg_interval)

    generator_interval = optimizer.generator_reg_interval
    interval, lr = optimizer.discriminator_reg_interval, optimizer.discriminator_lr
    return {
        "generator": make(
            networks.generator,
            optimizer.generator_lr,
            generator_interval,
            loss.density_smoothness,
        ),
        "discriminator": make(networks.discriminator, lr, interval, loss.r1_gamma),
        "semantic_discriminator": make(
            networks.semantic_discriminator, lr, interval, loss.semantic_r1_gamma
        ),
    }


def _build_stages(
    networks: Networks,
    settings: TrainingSettings,
    stage_settings: StageSettings,
    cameras: Tensor,  # [N, 25]
    parts: BatchParts,
) -> tuple[InitialStage, ...]:
    stages = []
    if stage_settings.sphere_init_steps > 0:
        sphere = SphereInitialization(
            networks,
            stage_settings.sphere_init_steps,
            cameras,
            settings,
            parts,
        )
        stages.append(InitialStage("sphere_init", parts.batch_size, sphere))
    if stage_settings.warm_start == "procedural":
        config = stage_settings.warm_start_config
        stages.append(
            InitialStage("warm_start", config.batch_size, WarmStart(networks.generator, config))
        )
    elif stage_settings.warm_start != "none":
        raise UserError(f"train.warm_start={stage_settings.warm_start}; use none or procedural")
    return tuple(stages)
