"""Impossible options are named."""

import pytest

from mate3d.errors import UserError
from mate3d.options import as_text, config_from_dict
from training.augmentation import AugmentSettings
from training.evaluation.settings import MetricSettings
from training.losses.terms import LossSettings
from training.optimization.adam import OptimizerSettings
from training.optimization.schedules import ScheduleSettings
from training.run_folder.safety import SafetySettings
from training.settings import LoopSettings

NODES = {
    "augment": AugmentSettings,
    "loss": LossSettings,
    "metrics": MetricSettings,
    "optimizer": OptimizerSettings,
    "safety": SafetySettings,
    "schedule": ScheduleSettings,
    "train": LoopSettings,
}


@pytest.mark.parametrize(
    ("option", "value", "others"),
    [
        ("augment.mode", "ada", {}),
        ("augment.probability", 1.5, {"mode": "fixed"}),
        ("augment.probability", "much", {}),
        ("augment.probability", 0.2, {"mode": "none"}),
        ("augment.probability", 0.9, {"mode": "adaptive", "max_probability": 0.8}),
        ("augment.interval", 0, {}),
        ("augment.ramp_kimg", 0.0, {}),
        (
            "augment.mode",
            "fixed",
            dict.fromkeys(("with_blit", "with_geometry", "with_color"), False),
        ),
        ("loss.r1_gamma", -1.0, {}),
        ("loss.eikonal", float("inf"), {}),
        ("metrics.features", "vgg", {}),
        ("metrics.num_real", 0, {}),
        ("optimizer.generator_lr", -1.0, {}),
        ("optimizer.beta2", 1.0, {}),
        ("optimizer.generator_reg_interval", 0, {}),
        ("safety.keep_last", -1, {}),
        ("safety.keep_best", None, {}),
        ("safety.best_metric", "fdi", {}),
        ("safety.spike_factor", 1, {}),
        ("safety.rollback_lr_factor", 1.1, {}),
        ("schedule.resolution_final", 0, {}),
        ("schedule.blur_fade_kimg", -1.0, {}),
        ("schedule.pose_swap_probability", 1.5, {}),
        ("schedule.style_mixing_probability", "some", {}),
        ("schedule.ema_rampup", float("nan"), {}),
        ("train.precision", "int8", {}),
        ("train.batch_size", 0, {}),
    ],
)
def test_impossible_option_is_named(option, value, others):
    node, name = option.split(".")
    with pytest.raises(UserError, match=f"{option}={as_text(value)}"):
        config_from_dict(NODES[node], {name: value, **others}, f"{node}.")
