"""Low precision reaches the networks and nothing else; float16 losses are scaled."""

from collections import defaultdict
from dataclasses import replace

import pytest
import torch

from training import synthesis, views
from training.optimization import precision
from training.optimization.adam import OptimizerSettings, make_adam, optimizing
from training.optimization.compilation import not_compiled
from training.optimization.precision import TrainingPrecision
from training.run_folder.state_file import STATE_FILE
from training.state import load_state, save_state


def with_loop(settings, **changes):
    return replace(settings, loop=replace(settings.loop, **changes))


def weights_of(state):
    return torch.cat([p.detach().flatten() for p in state.networks.generator.parameters()])


def test_training_in_low_precision_stays_near_single(make_trainer, tiny_settings, tmp_path):
    start = weights_of(make_trainer(tmp_path / "start")[1])
    trained = {}
    for name in ("fp32", "bf16", "fp16"):
        settings = with_loop(tiny_settings, precision=name, total_kimg=0.006)
        trainer, state = make_trainer(tmp_path / name, settings)
        assert trainer.run()
        trained[name] = other = weights_of(state)
        assert other.dtype == torch.float32 and other.isfinite().all()
    one = trained.pop("fp32")
    for name, other in trained.items():
        moved, apart = (one - start).norm(), (one - other).norm()
        # Adam with beta1 = 0 moves every weight by its rate: only signs of tiny gradients differ.
        assert 0 < apart < 0.5 * moved, name


@pytest.mark.parametrize("name", ["bf16", "mixed"])
def test_only_networks_see_low_precision(name, make_trainer, tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda _: True)
    dtypes = defaultdict(set)

    def watch(name, owner, method):
        original = getattr(owner, method)

        def watched(*args, **kwargs):
            result = original(*args, **kwargs)
            values = [result] if isinstance(result, torch.Tensor) else vars(result).values()
            values = [*args, *kwargs.values(), *values]
            dtypes[name] |= {
                x.dtype for x in values if torch.is_tensor(x) and x.is_floating_point()
            }
            return result

        monkeypatch.setattr(owner, method, watched)

    def note_autocast():
        autocasts.append(torch.is_autocast_enabled("cpu"))
        return not_compiled()

    settings = with_loop(tiny_settings, precision=name, total_kimg=0.002)
    trainer, state = make_trainer(tmp_path, settings)
    discriminator, autocasts = state.networks.discriminator, []
    generator = state.networks.generator
    superresolution = generator.superresolution
    watch("field", synthesis, "render_field")
    watch("fast_field", synthesis, "render_field_fast")
    watch("mapping", generator.mapping, "forward")
    watch("blocks", discriminator.blocks["b16"].conv0, "forward")
    watch("head", discriminator.head, "forward")
    watch("enlarging", superresolution.blocks[0].conv1, "forward")
    watch("images", superresolution, "forward")
    watch("backbone", generator.backbone.blocks["b8"].to_image["texture"], "forward")
    monkeypatch.setattr(views, "not_compiled", note_autocast)
    assert trainer.run()
    for part in ("field", "fast_field", "mapping", "head", "images"):
        assert dtypes[part] == {torch.float32}, part
    assert torch.bfloat16 in dtypes["blocks"] & dtypes["enlarging"]
    assert (torch.bfloat16 in dtypes["backbone"]) == (name == "bf16")
    assert autocasts == [False, False]  # Both R1 steps.


def test_mixed_is_single_precision_on_a_cpu():
    assert not TrainingPrecision("mixed").image_networks()._enabled


def test_overflowing_float16_losses_are_skipped_and_scaled_less():
    network = torch.nn.Linear(2, 1)
    optimizer = make_adam(network.parameters(), 0.1, OptimizerSettings())
    scaler = TrainingPrecision("fp16").make_scaler()
    before, scale = network.weight.clone(), scaler.get_scale()
    with optimizing(network, optimizer, scaler):
        scaler.scale(network(torch.full((1, 2), 1e38)).sum()).backward()
    assert network.weight.equal(before)
    assert scaler.get_scale() == scale / 2
    with optimizing(network, optimizer, scaler):
        scaler.scale(network(torch.ones(1, 2)).sum()).backward()
    torch.testing.assert_close(network.weight.grad, torch.ones(1, 2))
    assert not network.weight.equal(before)


def test_scale_is_part_of_the_state(make_trainer, tiny_settings, tmp_path):
    settings = with_loop(tiny_settings, precision="fp16")
    _, state = make_trainer(tmp_path, settings)
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 1024.0})
    save_state(tmp_path / STATE_FILE, state)
    _, other = make_trainer(tmp_path, settings)
    load_state(tmp_path / STATE_FILE, other)
    assert other.scaler.get_scale() == 1024.0
    _, single = make_trainer(tmp_path, tiny_settings)
    load_state(tmp_path / STATE_FILE, single)
    assert not single.scaler.is_enabled()
