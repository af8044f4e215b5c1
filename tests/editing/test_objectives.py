"""Objectives: gradients are their formulas, and denoised targets are diffusers' own pictures."""

import pytest
import torch
from torch.nn import functional as F

from editing.objectives import (
    ObjectiveOptions,
    ObjectiveView,
    add_noise,
    annealed_timestep_range,
    make_objective,
    sample_timestep,
    timestep_weight,
)

OPTIONS = ObjectiveOptions(final_max_timestep=0.98)


def picture(seed, size=16):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_timesteps_reach_the_ends_of_a_range_whose_largest_falls_linearly():
    draws = sample_timestep(4000, 1000, (0.1, 0.3), generator=torch.Generator().manual_seed(0))
    assert draws.min() == 100 and draws.max() == 299
    options = ObjectiveOptions(timestep_range=(0.02, 0.9), final_max_timestep=0.5)
    assert annealed_timestep_range(options, 0.0) == (0.02, 0.9)
    assert annealed_timestep_range(options, 0.5) == (0.02, pytest.approx(0.7))
    assert annealed_timestep_range(options, 1.0) == (0.02, pytest.approx(0.5))


def test_weight_is_the_noise_variance_or_one():
    alphas, timestep = torch.tensor([0.9, 0.4]), torch.tensor([1])
    assert timestep_weight(alphas, timestep, "variance").item() == pytest.approx(0.6)
    assert timestep_weight(alphas, timestep, "uniform").item() == 1
