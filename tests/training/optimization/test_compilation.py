"""Compiled networks and loops train as those written, under the same names."""

from dataclasses import replace

import pytest
import torch

from mate3d.network.discriminator import Discriminator, DiscriminatorConfig
from training.augmentation import AugmentSettings
from training.optimization.compilation import compile_networks, not_compiled
from training.optimization.ema import make_average
from training.run_folder.state_file import STATE_FILE
from training.state import load_state


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(0)
    config = DiscriminatorConfig(
        resolution=8, channel_base=32, channel_max=8, mapping_layers=1, stddev_group_size=2
    )
    return Discriminator(config)


def normal(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def gradients(network, inputs):
    network.requires_grad_(True).zero_grad(set_to_none=True)
    value = torch.nn.functional.softplus(network(*inputs)).sum()
    value.backward()
    found = (parameter.grad for parameter in network.parameters())
    return [value.detach(), *(gradient for gradient in found if gradient is not None)]


def test_compiled_networks_keep_names_and_copies_stay_as_written(tiny_generator, discriminator):
    names = list(tiny_generator.state_dict()), list(discriminator.state_dict())
    compile_networks(tiny_generator, discriminator)
    assert (list(tiny_generator.state_dict()), list(discriminator.state_dict())) == names
    average = make_average(tiny_generator)
    assert tiny_generator.backbone._compiled_call_impl is not None
    assert average.backbone._compiled_call_impl is None


@pytest.mark.slow
def test_generated_code_trains_as_written_and_penalties_run_without(tiny_generator, discriminator):
    views = normal((2, 3, 8, 8), (2, 3, 4, 4), (2, 25))
    features, ws = normal((2, 8, 8, 8), (2, tiny_generator.num_ws, 16))
    superresolution = tiny_generator.superresolution

    def penalty():
        discriminator.zero_grad(set_to_none=True)
        image = views[0].clone().requires_grad_()
        with not_compiled():
            logits = discriminator(image, *views[1:])
        (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
        gradient.square().sum().backward()
        return discriminator.head.fc.weight.grad

    def results():
        enlarged = gradients(superresolution, (features[:, :3], features, ws))
        return gradients(discriminator, views), enlarged, penalty()

    expected, counters = results(), torch._dynamo.utils.counters
    compile_networks(tiny_generator, discriminator)
    counters.clear()
    found = results()
    torch.testing.assert_close(found[:2], expected[:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[2], expected[2])
    assert counters["stats"]["unique_graphs"] > 1
    assert not counters["graph_break"]


@pytest.fixture
def quick_compiler(monkeypatch):
    """Capture and differentiate graphs as ever, but run them without generated code.

    Generating it takes minutes; the test above does for single networks.
    """
    torch._dynamo.reset()
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compile_module(module, backend="aot_eager")
    )
    yield
    torch._dynamo.reset()


@pytest.fixture
def rich_settings(tiny_settings):
    """Four iterations with all steps in two parts, augmentation and style mixing.

    With the large eps, updates follow gradients and not, as with beta1 = 0, mostly their signs, so
    that rounding of tiny ones does not show.
    """
    return replace(
        tiny_settings,
        loop=replace(
            tiny_settings.loop, batch_size=4, accumulation=2, total_kimg=0.016, tick_kimg=0.008
        ),
        schedule=replace(tiny_settings.schedule, style_mixing_probability=0.5),
        augment=AugmentSettings(mode="fixed", probability=0.5),
        optimizer=replace(tiny_settings.optimizer, eps=0.01),
    )


def with_loop(settings, **changes):
    return replace(settings, loop=replace(settings.loop, **changes))


def weights_of(state):
    modules = state.modules().values()
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_compiled_loop_trains_as_written(make_trainer, rich_settings, tmp_path):
    trainer, as_written = make_trainer(tmp_path / "written", rich_settings)
    start = weights_of(as_written)
    assert trainer.run()
    counters = torch._dynamo.utils.counters
    counters.clear()
    trainer, state = make_trainer(tmp_path / "compiled", with_loop(rich_settings, compile=True))
    assert trainer.run()
    assert counters["stats"]["unique_graphs"] > 0
    # Passing the limit would leave a network as written from then on.
    assert not [reason for reason in counters["graph_break"] if "limit" in reason]
    moved, apart = weights_of(as_written) - start, weights_of(state) - weights_of(as_written)
    assert apart.norm() < 1e-3 * moved.norm()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
def test_compiled_bfloat16_run_resumes_as_if_never_stopped(make_trainer, rich_settings, tmp_path):
    settings = with_loop(rich_settings, compile=True, precision="bf16")
    trainer, whole = make_trainer(tmp_path / "whole", settings)
    assert trainer.run()
    trainer, _ = make_trainer(tmp_path / "parts", with_loop(settings, total_kimg=0.008))
    assert trainer.run()
    trainer, resumed = make_trainer(tmp_path / "parts", settings)
    load_state(tmp_path / "parts" / STATE_FILE, resumed)
    assert resumed.images_seen == 8
    assert trainer.run()
    assert weights_of(resumed).isfinite().all()
    assert weights_of(resumed).equal(weights_of(whole))
