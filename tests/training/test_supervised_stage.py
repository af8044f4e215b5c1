"""A stage follows its schedule, averages its weights, and never saves what is not finite."""

from functools import partial

import pytest
import torch

from mate3d.errors import UserError
from training.prior.options import StageOptions
from training.run_folder.monitor import Monitor
from training.supervised_stage import Stage


def make_stage(steps: int, *, warmup=lambda *_: 1, **more) -> Stage:
    options = StageOptions(steps=steps, batch_size=1, learning_rate=0.1, warmup_steps=1, **more)
    network = torch.nn.Linear(2, 1)
    return Stage("some", {"net": network}, options, warmup=warmup, ema_decay=0.9)


def compute_losses(stage: Stage, part: int = 0) -> dict[str, torch.Tensor]:
    return {"loss": stage.networks["net"](torch.ones(1, 2)).sum()}


def test_learning_rate_rises_to_its_peak_and_falls_to_zero():
    stage = make_stage(100, warmup=lambda step, _: (step + 1) / 4)
    (group,) = stage._optimizer.param_groups
    rates = []
    for _ in range(100):
        stage.advance(partial(compute_losses, stage))
        rates.append(group["lr"] / 0.1)
    assert rates[0] == 0.25 and max(rates) == rates[3] > 0.99
    assert rates[50] == pytest.approx(0.5) and rates[99] < 0.001


def test_stage_ends_by_time_before_its_steps():
    stage = make_stage(100, max_minutes=1.0)
    stage.seconds = 30.0
    assert stage.progress == pytest.approx(0.5) and not stage.is_finished
    stage.seconds = 61.0
    assert stage.progress == 1.0 and stage.is_finished


def test_averaged_weights_lag_behind_the_trained_ones():
    stage = make_stage(9)
    start = stage.networks["net"].weight.detach().clone()
    for _ in range(3):
        stage.advance(partial(compute_losses, stage))
    moved = (stage.networks["net"].weight - start).norm()
    assert 0 < (stage.averages["net"].weight - start).norm() < moved


@pytest.mark.parametrize("where", ["loss", "weight"])
def test_what_is_not_finite_stops_the_stage_and_is_not_saved(tmp_path, where):
    stage, saved = make_stage(9), []

    def compute(_):
        losses = compute_losses(stage)
        if stage.step == 3 and where == "loss":
            losses["loss"] = losses["loss"] * float("nan")
        if stage.step == 3 and where == "weight":
            stage.networks["net"].bias.data.fill_(float("inf"))
        return losses

    monitor = Monitor(tmp_path, images_seen=0, total_images=9, with_progress_bar=False)
    with pytest.raises(UserError, match="some diverged at step 4 .* (nan|not finite).*resume"):
        stage.run(
            compute,
            lambda: saved.append(stage.step),
            monitor,
            should_stop=lambda: False,
            tick_steps=1,
            snapshot_steps=2,
        )
    assert saved == [2]
