"""Low precision reaches the networks and nothing else; float16 losses are scaled."""

from dataclasses import replace

import torch

from training import synthesis, views
from training.optimization.adam import OptimizerSettings, make_adam, optimizing
from training.optimization.precision import TrainingPrecision
from training.state import STATE_FILE, load_state, save_state


def run_training(make_trainer, folder, settings, **changes):
    loop = replace(settings.loop, **changes)
    trainer, state = make_trainer(folder, replace(settings, loop=loop))
    assert trainer.run()
    return trainer, state


def weights_of(state):
    return torch.cat([p.detach().flatten() for p in state.networks.generator.parameters()])


def test_training_in_low_precision_stays_near_single(make_trainer, tiny_settings, tmp_path):
    one = weights_of(run_training(make_trainer, tmp_path / "fp32", tiny_settings)[1])
    start = weights_of(make_trainer(tmp_path / "start", tiny_settings)[1])
    for precision in ("bf16", "fp16"):
        folder = tmp_path / precision
        _, state = run_training(make_trainer, folder, tiny_settings, precision=precision)
        other = weights_of(state)
        assert other.dtype == torch.float32 and other.isfinite().all()
        moved, apart = (one - start).norm(), (one - other).norm()
        # Adam with beta1 = 0 moves every weight by its rate: only signs of tiny gradients differ.
        assert 0 < apart < 0.5 * moved, precision


def test_only_networks_see_low_precision(make_trainer, tiny_settings, tmp_path, monkeypatch):
    dtypes = {}

    def watch(name, owner, method):
        original = getattr(owner, method)

        def watched(*args, **kwargs):
            result = original(*args, **kwargs)
            dtypes.setdefault(name, set()).update(_dtypes((args, kwargs, result)))
            return result

        monkeypatch.setattr(owner, method, watched)

    loop = replace(tiny_settings.loop, precision="bf16", total_kimg=0.002)
    trainer, state = make_trainer(tmp_path, replace(tiny_settings, loop=loop))
    watch("field", synthesis, "render_field")
    watch("fast_field", synthesis, "render_field_fast")
    generator = state.networks.generator
    watch("mapping", generator.mapping, "forward")
    watch("blocks", state.networks.discriminator.blocks["b16"].conv0, "forward")
    watch("head", state.networks.discriminator.head, "forward")
    autocasts = []
    original = views.not_compiled
    monkeypatch.setattr(
        views,
        "not_compiled",
        lambda: autocasts.append(torch.is_autocast_enabled("cpu")) or original(),
    )
    assert trainer.run()
    single = {torch.float32}
    assert dtypes["field"] == dtypes["fast_field"] == dtypes["mapping"] == single
    assert dtypes["head"] == single
    assert torch.bfloat16 in dtypes["blocks"]
    assert autocasts == [False, False]  # Both R1 steps.


def _dtypes(value) -> set[torch.dtype]:
    if isinstance(value, torch.Tensor):
        return {value.dtype} if value.is_floating_point() else set()
    if isinstance(value, dict):
        value = value.values()
    elif hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module):
        value = vars(value).values()
    elif not isinstance(value, list | tuple):
        return set()
    return set().union(*map(_dtypes, value))


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
    settings = replace(tiny_settings, loop=replace(tiny_settings.loop, precision="fp16"))
    _, state = make_trainer(tmp_path, settings)
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 1024.0})
    save_state(tmp_path / STATE_FILE, state)
    _, other = make_trainer(tmp_path, settings)
    load_state(tmp_path / STATE_FILE, other)
    assert other.scaler.get_scale() == 1024.0
    _, single = make_trainer(tmp_path, tiny_settings)
    load_state(tmp_path / STATE_FILE, single)
    assert not single.scaler.is_enabled()
