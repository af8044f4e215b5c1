"""Build a training state from settings: networks, optimizers, stages."""

from dataclasses import asdict

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.generator import Generator, GeneratorConfig
from mate3d.labels import LabelSet, get_label_set
from mate3d.network.discriminator import Discriminator, DiscriminatorConfig, DiscriminatorSizes
from torch_utils.distributed import world
from training.losses.terms import CLASS_DISTANCE_TERMS, DISTANCE_TERMS, LossSettings
from training.optimization.adam import make_adam, parameter_groups
from training.optimization.compilation import compile_networks
from training.optimization.ema import make_average
from training.optimization.precision import TrainingPrecision, check_precision
from training.settings import TrainingSettings
from training.stages import InitialStage, SphereInitialization
from training.start.init_from import InitSource, initialize_networks
from training.start.warm_start import WarmStart
from training.state import TrainingState
from training.step_inputs import BatchParts, Networks


def check_label_set(config: GeneratorConfig, label_set: LabelSet) -> None:
    """Check that model and dataset have the same label set.

    Raises:
        UserError: If they do not.
    """
    if config.label_set != label_set.name:
        raise UserError(
            f"the dataset has label set {label_set.name}, the model {config.label_set}; "
            f"set dataset.label_set={label_set.name} or choose other data"
        )


def build_state(
    generator_config: GeneratorConfig,
    discriminator_sizes: DiscriminatorSizes,
    settings: TrainingSettings,
    cameras: Tensor,  # [N, 25]
    device: torch.device,
    source: InitSource | None = None,
) -> TrainingState:
    """Return the initial state of a run; weights depend on PyTorch's global random generator.

    Args:
        discriminator_sizes: Sizes of both discriminators.
        source: Weights to initialise networks and EMA from, as far as they fit.

    Raises:
        UserError: If sizes do not fit, a stage is unknown, or the losses require distances that
            the generator does not have.
    """
    _check_geometry(generator_config, settings)
    check_precision(settings.loop.precision, generator_config)
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
        compile_networks(*vars(networks).values())
    return TrainingState(
        networks=networks,
        average=make_average(networks.generator),
        optimizers=_build_optimizers(networks, settings),
        scaler=TrainingPrecision(settings.loop.precision, device).make_scaler(),
        stages=_build_stages(networks, settings, cameras.to(device), parts),
    )


def _check_geometry(config: GeneratorConfig, settings: TrainingSettings) -> None:
    """Reject terms and stages that require distances the generator does not have."""
    if not config.with_local_sdfs:
        _check_no_local_sdfs(config, settings.loss)
    if settings.schedule.beta_final is not None:
        _check_fixed_beta(config, settings.schedule.beta_final)
    if config.geometry == "sdf":
        return
    used = [f"loss.{name}" for name in DISTANCE_TERMS if getattr(settings.loss, name) > 0]
    if settings.loop.sphere_init_steps > 0:
        used.append("train.sphere_init_steps")
    if settings.loop.warm_start != "none":
        used.append("train.warm_start")
    if used:
        raise UserError(
            f"model.generator.geometry=density has no distances for {', '.join(used)}; set "
            "loss=density, train.sphere_init_steps=0 and train.warm_start=none"
        )


def _check_fixed_beta(config: GeneratorConfig, beta_final: float) -> None:
    if config.geometry == "sdf" and not config.learn_beta:
        return
    kind = "learn_beta=true" if config.learn_beta else "geometry=density"
    raise UserError(
        f"schedule.beta_final={beta_final:g} with model.generator.{kind}; "
        "set schedule.beta_final=null"
    )


def _check_no_local_sdfs(config: GeneratorConfig, loss: LossSettings) -> None:
    used = [f"loss.{name}" for name in CLASS_DISTANCE_TERMS if getattr(loss, name) > 0]
    if used:
        raise UserError(
            "model.generator.with_local_sdfs=false has no class distances for "
            f"{', '.join(used)}; set them to 0 or use ablation=no_local_sdfs"
        )
    if config.rendering.semantic_sharpness != 1:
        raise UserError(
            "model.generator.with_local_sdfs=false with rendering.semantic_sharpness="
            f"{config.rendering.semantic_sharpness:g}; set it to 1, since classes are logits"
        )


def _check_part_size(parts: BatchParts, discriminator_sizes: DiscriminatorSizes) -> None:
    group_size = discriminator_sizes.stddev_group_size
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
    generator_config: GeneratorConfig, sizes: DiscriminatorSizes, image_channels: int
) -> Discriminator:
    return Discriminator(
        DiscriminatorConfig(
            **asdict(sizes),
            image_channels=image_channels,
            resolution=generator_config.resolution,
        )
    )


def _build_optimizers(
    networks: Networks, settings: TrainingSettings
) -> dict[str, torch.optim.Optimizer]:
    """Build the optimizers, with a correction for lazy steps of non-zero weight."""
    optimizer, loss = settings.optimizer, settings.loss

    def make(network: torch.nn.Module, lr: float, interval: int, weight: float) -> torch.optim.Adam:
        reg_interval = interval if weight > 0 else None
        parameters = parameter_groups(network, optimizer)
        return make_adam(parameters, lr, optimizer, reg_interval=reg_interval)

    generator = optimizer.generator_lr, optimizer.generator_reg_interval
    discriminator = optimizer.discriminator_lr, optimizer.discriminator_reg_interval
    settings_of = {
        "generator": (*generator, loss.density_smoothness),
        "discriminator": (*discriminator, loss.r1_gamma),
        "semantic_discriminator": (*discriminator, loss.semantic_r1_gamma),
    }
    return {name: make(getattr(networks, name), *values) for name, values in settings_of.items()}


def _build_stages(
    networks: Networks,
    settings: TrainingSettings,
    cameras: Tensor,  # [N, 25]
    parts: BatchParts,
) -> tuple[InitialStage, ...]:
    stages = []
    if settings.loop.sphere_init_steps > 0:
        sphere = SphereInitialization(
            networks,
            settings.loop.sphere_init_steps,
            cameras,
            settings,
            parts,
        )
        stages.append(InitialStage("sphere_init", parts.batch_size, sphere))
    if settings.loop.warm_start == "procedural":
        config = settings.warm_start
        stages.append(
            InitialStage("warm_start", config.batch_size, WarmStart(networks.generator, config))
        )
    return tuple(stages)
