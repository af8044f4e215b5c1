"""A training run of a few thousand weights on six 16 px pictures of noise."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mate3d.generator import Generator
from mate3d.network.discriminator import DiscriminatorSizes
from training.build_state import build_state
from training.data.dataset import PortraitDataset
from training.loop import Trainer
from training.losses.terms import LossSettings
from training.optimization.adam import OptimizerSettings
from training.optimization.schedules import ScheduleSettings
from training.settings import LoopSettings, TrainingSettings
from training.state import TrainingState

TrainerFactory = Callable[..., tuple[Trainer, TrainingState]]


@pytest.fixture
def tiny_settings() -> TrainingSettings:
    """Four iterations of two images, every lazy step among them, a tick after each two."""
    return TrainingSettings(
        loop=LoopSettings(
            batch_size=2,
            total_kimg=0.008,
            tick_kimg=0.004,
            snapshot_ticks=1,
            num_workers=0,
            grid_rows=1,
            grid_columns=2,
            with_progress_bar=False,
        ),
        loss=LossSettings(eikonal_points=16, density_points=8),
        schedule=ScheduleSettings(
            resolution_initial=8, resolution_final=8, blur_initial_sigma=1.0, blur_fade_kimg=0.006
        ),
        optimizer=OptimizerSettings(generator_reg_interval=2, discriminator_reg_interval=3),
    )


@pytest.fixture
def make_trainer(
    tiny_generator: Generator,
    tiny_settings: TrainingSettings,
    dataset_folder: Path,
) -> TrainerFactory:
    """Return a function that builds the same fresh run in any folder."""
    # Training in fp16 needs the clamp.
    config = replace(tiny_generator.config, z_dim=24, backbone_clamp=256.0)
    sizes = DiscriminatorSizes(channel_base=64, channel_max=8, mapping_layers=1)

    def make(
        folder: Path,
        settings: TrainingSettings = tiny_settings,
        config_changes: Mapping[str, Any] = {},
        **kwargs: Any,
    ) -> tuple[Trainer, TrainingState]:
        folder.mkdir(parents=True, exist_ok=True)
        dataset = PortraitDataset(dataset_folder)
        torch.manual_seed(0)
        model = replace(config, **config_changes)
        state = build_state(model, sizes, settings, dataset.camera_labels, torch.device("cpu"))
        return Trainer(state, dataset, settings, folder, **kwargs), state

    return make
