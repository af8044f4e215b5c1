"""A run trains every network, writes what it promises, resumes exactly and survives divergence."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from PIL import Image

from mate3d.checkpoint import load_generator
from mate3d.errors import UserError
from training import loop, stages
from training.augmentation import AugmentSettings
from training.data.dataset import PortraitDataset
from training.run_folder.events import read_events
from training.run_folder.safety import SafetySettings
from training.run_folder.state_file import STATE_FILE, previous_path
from training.settings import WarmStartSettings
from training.state import load_state


def with_loop(settings, **changes):
    return replace(settings, loop=replace(settings.loop, **changes))


def read_stats(folder):
    records = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    volatile = ("Timing/", "Resources/")
    return [
        {name: value for name, value in record.items() if not name.startswith(volatile)}
        for record in records
    ]


def assert_same_weights(first, second):
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_run_trains_every_network_and_writes_its_outputs(make_trainer, tmp_path):
    _, untrained = make_trainer(tmp_path / "other")
    trainer, state = make_trainer(tmp_path / "run")
    assert trainer.run()
    for name, module in state.modules().items():
        before = untrained.modules()[name].state_dict()
        assert any(not before[key].equal(value) for key, value in module.state_dict().items()), name
    assert state.images_seen == 8
    for tick, record in zip((4, 8), read_stats(tmp_path / "run"), strict=True):
        assert record["images_seen"] == tick
        assert "Loss/G/loss" in record and "Loss/D/loss_semantic" in record
    for name in ("image", "segmentation", "depth", "normals"):
        with Image.open(tmp_path / "run" / "samples" / f"000000008_{name}.png") as picture:
            assert picture.size == (32, 16)
    assert (tmp_path / "run" / "samples" / "000000000_real_image.png").exists()
    # The checkpoint holds the moving average.
    assert_same_weights(state.average, load_generator(tmp_path / "run" / "checkpoint"))
    assert "images seen: 8" in (tmp_path / "run" / "checkpoint" / "card.md").read_text()


def test_six_and_six_steps_are_bit_for_bit_twelve(make_trainer, tiny_settings, tmp_path):
    settings = replace(
        with_loop(tiny_settings, total_kimg=0.024, tick_kimg=0.012, snapshot_ticks=1),
        augment=AugmentSettings(mode="adaptive", probability=0.3, interval=2, ramp_kimg=0.1),
        schedule=replace(
            tiny_settings.schedule, style_mixing_probability=0.5, pose_swap_fade_kimg=0.012
        ),
    )
    trainer, whole = make_trainer(tmp_path / "whole", settings)
    trainer.run()
    assert whole.iteration == 12
    make_trainer(tmp_path / "parts", with_loop(settings, total_kimg=0.012))[0].run()
    torch.manual_seed(123)
    trainer, resumed = make_trainer(tmp_path / "parts", settings)
    load_state(tmp_path / "parts" / STATE_FILE, resumed)
    assert resumed.iteration == 6
    assert trainer.run()
    assert read_stats(tmp_path / "parts") == read_stats(tmp_path / "whole")
    probabilities = [record["Augment/probability"] for record in read_stats(tmp_path / "whole")]
    assert len(set(probabilities)) == 2
    for name, module in whole.modules().items():
        assert_same_weights(module, resumed.modules()[name])
    for name, optimizer in whole.optimizers.items():
        states = optimizer.state_dict()["state"], resumed.optimizers[name].state_dict()["state"]
        for index, values in states[0].items():
            for key, value in values.items():
                assert value.equal(states[1][index][key]), (name, index, key)
    for name, item in whole.extra.items():
        assert item.state_dict() == resumed.extra[name].state_dict(), name


def signal_at(monkeypatch, images: int) -> None:
    """Send a signal in the iteration that begins at a number of images."""
    original = loop.adversarial_iteration

    def iterate(state, *arguments):
        if state.images_seen == images:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(state, *arguments)

    monkeypatch.setattr(loop, "adversarial_iteration", iterate)


def test_beta_follows_its_schedule_into_the_checkpoint(make_trainer, tiny_settings, tmp_path):
    schedule = replace(tiny_settings.schedule, beta_final=0.001, beta_fade_kimg=0.012)
    trainer, state = make_trainer(tmp_path, replace(tiny_settings, schedule=schedule))
    assert trainer.run()
    # The last of four iterations starts after half of the fade.
    assert state.networks.generator.decoder.beta.item() == pytest.approx(0.01)
    loaded = load_generator(tmp_path / "checkpoint")
    assert loaded.config.beta == pytest.approx(0.01)
    assert loaded.decoder.beta.item() == pytest.approx(0.01)


def test_signal_before_a_snapshot_does_not_save_it_twice(make_trainer, tmp_path, monkeypatch):
    signal_at(monkeypatch, 2)  # The second iteration ends with a snapshot.
    trainer, state = make_trainer(tmp_path / "run")
    monkeypatch.setattr(trainer._snapshots, "_measure", lambda _: {"Metrics/fid_procedural": 7.0})
    assert not trainer.run()
    assert state.images_seen == 4
    # What was measured is still known, and the previous state is an earlier one.
    measured = json.loads((tmp_path / "run" / "checkpoints" / "metrics.json").read_text())
    assert measured == {"000000004": {"fid_procedural": 7.0}}
    load_state(previous_path(tmp_path / "run" / STATE_FILE), state)
    assert state.images_seen == 0


def test_checkpoint_renders_as_training_does_during_a_fade(make_trainer, tiny_settings, tmp_path):
    fade = {"resolution_initial": 4, "resolution_hold_kimg": 0.002, "resolution_fade_kimg": 0.004}
    settings = replace(tiny_settings, schedule=replace(tiny_settings.schedule, **fade))
    for total_kimg, side in ((0.006, 6), (0.008, 8)):
        trainer, state = make_trainer(tmp_path / "run", with_loop(settings, total_kimg=total_kimg))
        if total_kimg == 0.008:
            load_state(tmp_path / "run" / STATE_FILE, state)
        trainer.run()
        config = load_generator(tmp_path / "run" / "checkpoint").config
        assert config.neural_rendering_resolution == side
    sides = [record["Progress/resolution"] for record in read_stats(tmp_path / "run")]
    assert sides == [4, 6, 8]


def test_divergence_returns_to_the_last_state(make_trainer, tmp_path, monkeypatch, caplog):
    original, calls = loop.adversarial_iteration, []

    def spoil_third(state, *arguments):
        calls.append(state.images_seen)
        metrics = original(state, *arguments)
        return metrics | {"Loss/G/loss": torch.tensor(float("nan"))} if len(calls) == 4 else metrics

    monkeypatch.setattr(loop, "adversarial_iteration", spoil_third)
    trainer, _ = make_trainer(tmp_path / "run")
    assert trainer.run()
    assert calls == [0, 2, 4, 6, 4, 6]
    assert "back to 4 images" in caplog.text
    (event,) = [one for one in read_events(tmp_path / "run") if one["kind"] == "rollback"]
    assert event["images_seen"] > event["back_to"] == 4 and event["lr_factor"] == 1
    assert event["reason"] == "Loss/G/loss is NaN"


def test_endless_divergence_is_an_error(make_trainer, tmp_path, monkeypatch):
    spoiled = {"Loss/D/loss": torch.tensor(float("inf"))}
    monkeypatch.setattr(loop, "adversarial_iteration", lambda *_: spoiled)
    trainer, _ = make_trainer(tmp_path / "run")
    with pytest.raises(UserError, match="training diverged"):
        trainer.run()
    last = read_events(tmp_path / "run")[-1]
    assert last["kind"] == "failure" and "training diverged" in last["reason"]


def test_discriminators_see_cameras_with_noise_if_asked_for(
    make_trainer, tiny_settings, tmp_path, monkeypatch
):
    loss = replace(tiny_settings.loss, camera_noise=0.5)
    settings = replace(with_loop(tiny_settings, total_kimg=0.002), loss=loss)
    trainer, state = make_trainer(tmp_path / "run", settings)
    seen = []
    for discriminator in (state.networks.discriminator, state.networks.semantic_discriminator):
        original = discriminator.forward

        def watched(image, image_raw, camera, original=original):
            seen.append(camera)
            return original(image, image_raw, camera)

        monkeypatch.setattr(discriminator, "forward", watched)
    trainer.run()
    cameras = PortraitDataset(tmp_path / "data").camera_labels
    distances = torch.cdist(torch.cat(seen).detach(), cameras).amin(dim=1)
    assert len(seen) == 8 and (distances > 0.01).all()


def test_stages_come_first_and_resume_within(make_trainer, tiny_settings, tmp_path, monkeypatch):
    sizes = {"num_field_steps": 2, "num_image_steps": 0, "batch_size": 2}
    warm_start = WarmStartSettings(**sizes, num_points=64, num_rays=0)
    stages = {"warm_start": "procedural", "sphere_init_steps": 2}
    settings = with_loop(tiny_settings, total_kimg=0.002, tick_kimg=0.002, **stages)
    settings = replace(settings, warm_start=warm_start)
    trainer, whole = make_trainer(tmp_path / "whole", settings)
    assert trainer.run()
    records = read_stats(tmp_path / "whole")
    assert [record["images_seen"] for record in records] == [2, 4, 6, 8, 10]
    assert records[0]["Loss/sphere_init/initloss"] > 0
    assert records[2]["Loss/warm_start/sdf"] > 0
    assert records[4]["Progress/blur_sigma"] == 1.0
    assert (whole.images_seen, whole.adversarial_images) == (10, 2)

    trainer, state = make_trainer(tmp_path / "parts", settings)
    sphere, step = state.stages[0].runner, state.stages[0].runner.step
    monkeypatch.setattr(sphere, "step", lambda: (os.kill(os.getpid(), signal.SIGTERM), step())[1])
    assert not trainer.run()
    trainer, resumed = make_trainer(tmp_path / "parts", settings)
    load_state(tmp_path / "parts" / STATE_FILE, resumed)
    assert resumed.images_seen == 2
    assert trainer.run()
    assert read_stats(tmp_path / "parts") == records
    assert_same_weights(whole.networks.generator, resumed.networks.generator)


def test_stats_tell_gradients_and_where_the_time_goes(make_trainer, tmp_path):
    trainer, _ = make_trainer(tmp_path / "run")
    trainer.run()
    lines = (tmp_path / "run" / "stats.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    for name in ("generator", "density", "discriminator", "r1", "semantic_r1"):
        assert first[f"Gradients/{name}/norm"] > 0 and first[f"Gradients/{name}/non_finite"] == 0
    parts = ("mapping", "backbone", "decoder", "superresolution", "segmentation_superresolution")
    squares = sum(second[f"Gradients/generator/norm/{part}"] ** 2 for part in parts)
    assert second["Gradients/generator/norm"] >= 0.99 * squares**0.5 > 0
    seconds = {name: value for name, value in second.items() if name.startswith("Timing/tick/")}
    wanted = {"data", "generator", "semantic_discriminator", "optimizer", "average", "snapshot"}
    assert wanted <= {name.rpartition("/")[2] for name in seconds}
    assert sum(seconds.values()) <= second["Timing/total_sec"] and min(seconds.values()) > 0


def test_state_is_saved_between_snapshots_after_some_time(
    make_trainer, tiny_settings, tmp_path, monkeypatch
):
    settings = with_loop(tiny_settings, snapshot_ticks=100)
    settings = replace(settings, safety=SafetySettings(state_minutes=1e-9))
    original = loop.adversarial_iteration

    def fail_at_the_end(state, *arguments):
        if state.images_seen == 6:
            raise RuntimeError
        return original(state, *arguments)

    monkeypatch.setattr(loop, "adversarial_iteration", fail_at_the_end)
    trainer, _ = make_trainer(tmp_path / "run", settings)
    with pytest.raises(RuntimeError):
        trainer.run()
    assert not (tmp_path / "run" / "checkpoint").exists()
    monkeypatch.setattr(loop, "adversarial_iteration", original)
    trainer, state = make_trainer(tmp_path / "run", settings)
    load_state(tmp_path / "run" / STATE_FILE, state)
    assert state.images_seen == 6
    assert trainer.run()


def test_profile_traces_iterations_after_the_first_ones(make_trainer, tiny_settings, tmp_path):
    settings = with_loop(tiny_settings, total_kimg=0.014, tick_kimg=0.014, profile=1)
    make_trainer(tmp_path / "run", settings)[0].run()
    (trace,) = (tmp_path / "run" / "profile").iterdir()
    names = [event.get("name") for event in json.loads(trace.read_text())["traceEvents"]]
    assert names.count("generator") == names.count("semantic_discriminator") == 1


def test_overfitting_reconstructs_the_heads_that_the_grids_show(
    make_trainer, tiny_settings, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    settings = with_loop(tiny_settings, overfit_steps=2, total_kimg=0.0, tick_kimg=0.002)
    steps, original = [], stages.generator_step

    def watched(networks, latents, *arguments, **options):
        steps.append(latents)
        return original(networks, latents, *arguments, **options)

    monkeypatch.setattr(stages, "generator_step", watched)
    trainer, _ = make_trainer(tmp_path / "short", settings)
    with pytest.raises(UserError, match="not 28; compare samples"):
        trainer.run()
    assert read_events(tmp_path / "short")[-1]["kind"] == "failure"
    monkeypatch.setattr(stages.Overfit, "_MIN_PSNR", -30.0)
    trainer, _ = make_trainer(tmp_path / "run", settings)
    assert trainer.run()
    assert "one batch was reconstructed with" in caplog.text
    shown = trainer._snapshots._grid_latents()
    for latents in steps:
        assert latents.z.equal(shown.z) and latents.camera.equal(shown.camera)
    assert trainer._cameras[trainer._shown].equal(shown.camera)
    first, second = read_stats(tmp_path / "run")
    assert second["Loss/overfit/psnr"] != first["Loss/overfit/psnr"]
    assert second["Loss/overfit/mask_raw/loss"] > 0 and second["Loss/overfit/G_eikonal/loss"] > 0
