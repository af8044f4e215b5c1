"""Settings are the paper's and the configs', and their mistakes are named."""

from pathlib import Path

import pytest
import yaml

from mate3d.errors import UserError
from training.augmentation import AugmentSettings

CONFIGS = Path(__file__).parents[3] / "configs" / "augment"


def read_config(name: str) -> dict[str, object]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def test_config_without_augmentation_is_the_default():
    assert AugmentSettings(**read_config("none")) == AugmentSettings()


def test_config_of_ada_differs_in_the_mode_only():
    ada = read_config("ada")
    assert ada.pop("defaults") == ["none", "_self_"]
    settings = AugmentSettings(**{**read_config("none"), **ada})
    assert settings == AugmentSettings(mode="adaptive")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "ada"}, "augment.mode=ada"),
        ({"mode": "fixed", "probability": 1.5}, "augment.probability=1.5"),
        ({"target": float("nan")}, "augment.target=nan"),
        ({"probability": "much"}, "augment.probability=much"),
        ({"interval": 0}, "augment.interval=0"),
        ({"ramp_kimg": 0.0}, "augment.ramp_kimg=0.0"),
        ({"rotation_degrees": 270.0}, "augment.rotation_degrees=270.0"),
        ({"brightness": -0.1}, "augment.brightness=-0.1"),
        ({"scale_octaves": 9}, "augment.scale_octaves=9"),
        ({"probability": 0.2}, "augment.probability=0.2 .*augment.mode=none"),
        (
            {"mode": "adaptive", "probability": 0.9, "max_probability": 0.8},
            "augment.probability=0.9.*augment.max_probability=0.8",
        ),
        (
            {"mode": "fixed", "with_blit": False, "with_geometry": False, "with_color": False},
            "augment.mode=fixed",
        ),
    ],
)
def test_mistake_is_named(options, named):
    with pytest.raises(UserError, match=named):
        AugmentSettings(**options)
