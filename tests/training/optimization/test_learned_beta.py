"""learn_beta: softness is fitted by Adam, stays positive and above what samples resolve."""

from dataclasses import dataclass, replace

import pytest
import torch

from mate3d.cameras import make_camera
from mate3d.checkpoint import load_generator
from mate3d.errors import UserError
from mate3d.network.sdf_decoder import SDFDecoder
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import RenderingConfig, least_beta, render_field, sample_depths
from tests.mate3d.fields import SphereField
from training.optimization.adam import OptimizerSettings, make_adam, parameter_groups
from training.run_folder.state_file import STATE_FILE
from training.state import load_state

RENDERING = RenderingConfig(near=2.3, far=3.1, num_coarse_samples=24, num_fine_samples=24)
STEPS = 200


@dataclass
class LearningSphere(SphereField):
    """A ball whose softness is a decoder's."""

    decoder: SDFDecoder | None = None

    def density(self, sdf):
        return self.decoder.density(sdf)


def make_decoder(beta: float) -> SDFDecoder:
    return SDFDecoder(4, 8, 4, 2, beta=beta, least_beta=least_beta(RENDERING))


def render(field) -> torch.Tensor:
    rays = sample_rays(make_camera(0.0), 8)
    view = render_field(field, *rays, RENDERING, draws=DepthDraws(mode="random"))
    return torch.cat([view.feature_image, view.opacity], dim=1)


@pytest.mark.parametrize(("start", "truth"), [(0.1, 0.03), (0.01, 0.03), (0.1, 0.1)])
def test_200_steps_find_the_beta_of_pictures_with_noise(start, truth):
    torch.manual_seed(0)
    decoder = make_decoder(start)
    optimizer = make_adam(
        parameter_groups(decoder, OptimizerSettings()), 0.0025, OptimizerSettings()
    )
    for _ in range(STEPS):
        target = render(SphereField(beta=truth))
        error = render(LearningSphere(decoder=decoder)) - target - 0.1 * torch.randn_like(target)
        optimizer.zero_grad(set_to_none=True)
        error.square().mean().backward()
        optimizer.step()
    assert truth / 2 < decoder.beta.item() < truth * 2


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_no_gradient_takes_beta_out_of_its_range(sign):
    decoder = make_decoder(0.1)
    settings = OptimizerSettings(beta_lr=1.0)
    optimizer = make_adam(parameter_groups(decoder, settings), 0.0025, settings)
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        (-sign * 1e6 * decoder.beta.log()).sum().backward()
        optimizer.step()
        assert least_beta(RENDERING) <= decoder.beta.item() < torch.inf
        decoder.density(torch.linspace(-0.5, 0.5, 9)).isfinite().all()


@pytest.mark.parametrize(
    "config", [RENDERING, RenderingConfig(), replace(RENDERING, num_fine_samples=0)]
)
def test_one_sample_resolves_the_least_beta(config):
    torch.manual_seed(0)
    field = SphereField(beta=least_beta(config))
    origins, directions = sample_rays(make_camera(0.0, focal=100.0), 16)
    depths = sample_depths(field, origins, directions, config, DepthDraws(mode="random"))
    points = origins.unsqueeze(2) + depths * directions.unsqueeze(2)
    # The ball has a front and a back, which only coarse samples find.
    is_front = field.sdf(points).abs().squeeze(-1).less(2 * field.beta) & points[..., 2].gt(0)
    assert is_front.sum(dim=2).float().mean().item() == pytest.approx(1, abs=0.25)


def test_learned_beta_is_averaged_saved_and_resumed(make_trainer, tiny_settings, tmp_path):
    changes = {"learn_beta": True}
    trainer, whole = make_trainer(tmp_path / "whole", config_changes=changes)
    before = whole.networks.generator.decoder.beta.item()
    assert before == pytest.approx(0.1) and trainer.run()
    after, average = (
        network.decoder.beta.item() for network in (whole.networks.generator, whole.average)
    )
    assert before != after != average
    half = replace(tiny_settings, loop=replace(tiny_settings.loop, total_kimg=0.004))
    make_trainer(tmp_path / "parts", half, config_changes=changes)[0].run()
    trainer, resumed = make_trainer(tmp_path / "parts", config_changes=changes)
    load_state(tmp_path / "parts" / STATE_FILE, resumed)
    assert trainer.run()
    assert resumed.networks.generator.decoder.beta.item() == after
    loaded = load_generator(tmp_path / "parts" / "checkpoint")
    assert loaded.decoder.beta.item() == average
    assert loaded.config.beta == pytest.approx(average)


def test_a_beta_below_the_least_is_refused(make_trainer, tmp_path):
    with pytest.raises(UserError, match="beta=0.0001"):
        make_trainer(tmp_path, config_changes={"learn_beta": True, "beta": 1e-4})
