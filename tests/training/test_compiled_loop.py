"""The whole loop runs compiled, in low precision, with everything that a run can switch on."""

from dataclasses import replace

import pytest
import torch

from training.augmentation import AugmentSettings
from training.state import STATE_FILE, load_state

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    """Capture and differentiate graphs as ever, but run them without generated code.

    Generating it takes minutes; test_compilation.py does for single networks.
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
