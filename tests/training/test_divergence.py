"""Values that are not finite and spikes are noticed; a run goes back, on another way."""

import pytest
import torch

from mate3d.errors import UserError
from training.divergence import DivergenceGuard, roll_back
from training.run_folder.safety import SafetySettings
from training.run_folder.state_file import STATE_FILE
from training.state import load_state, save_state

LOSS = "Loss/G/loss"


def test_a_value_that_is_not_finite_is_named():
    guard = DivergenceGuard(SafetySettings(spike_factor=None))
    assert guard.check({"Loss/beta": 0.1, LOSS: 1e9}) is None
    for value, word in ((float("nan"), "NaN"), (float("inf"), "infinite"), (-float("inf"), "inf")):
        assert guard.check({"Loss/beta": value}).startswith(f"Loss/beta is {word}")


def test_a_spike_is_measured_by_the_running_median_also_after_a_resume():
    guard = DivergenceGuard(SafetySettings(spike_factor=10.0, spike_window=5))
    for value in (4.0, 5.0, 6.0, 30.0):
        assert guard.check({LOSS: value}) is None
    assert guard.check({LOSS: 54.0}) is None
    assert guard.check({LOSS: 61.0}) == "Loss/G/loss is 61, its running median 6"
    assert guard.check({"Loss/G_eikonal/loss": 1e9}) is None
    resumed = DivergenceGuard(SafetySettings(spike_factor=10.0, spike_window=5))
    assert resumed.check({LOSS: 54.0}) is not None
    resumed.load_state_dict(guard.state_dict())
    assert resumed.check({LOSS: 54.0}) is None
    for _ in range(5):
        assert guard.check({LOSS: 0.01}) is None
    # A loss near zero may rise to what is ordinary.
    assert guard.check({LOSS: 9.0}) is None


@pytest.fixture
def run(make_trainer, tmp_path):
    """A state saved at 2 and at 4 images that has since gone on, with its guard."""
    _, state = make_trainer(tmp_path)
    settings = SafetySettings(rollback_lr_factor=0.5, max_rollbacks=3)
    guard = DivergenceGuard(settings)
    state.extra["divergence_guard"] = guard
    for state.images_seen in (2, 4):
        save_state(tmp_path / STATE_FILE, state)
    state.images_seen = 6
    next(state.networks.generator.parameters()).data.fill_(float("nan"))
    return tmp_path / STATE_FILE, state, guard, settings


def test_rates_are_lowered_each_time_and_stay_so(run, make_trainer, tmp_path):
    path, state, guard, settings = run
    rates = {name: one.param_groups[0]["lr"] for name, one in state.optimizers.items()}
    for times, factor in ((1, 0.5), (2, 0.25)):
        roll_back(path, state, guard, settings, "reason")
        assert guard.num_rollbacks == state.num_rollbacks == times
        for name, rate in rates.items():
            assert state.optimizers[name].param_groups[0]["lr"] == rate * factor
    save_state(path, state, with_previous=False)
    _, resumed = make_trainer(tmp_path / "other")
    resumed.extra["divergence_guard"] = resumed_guard = DivergenceGuard(settings)
    load_state(path, resumed)
    for name, rate in rates.items():
        assert resumed.optimizers[name].param_groups[0]["lr"] == rate * 0.25
    assert resumed_guard.num_rollbacks == resumed.num_rollbacks == 2


def test_going_back_goes_further_the_second_time_and_endless_divergence_is_an_error(run):
    path, state, guard, settings = run
    for images_seen in (4, 2, 2):
        roll_back(path, state, guard, settings, "reason")
        save_state(path, state, with_previous=False)
        assert state.images_seen == images_seen
        assert all(one.isfinite().all() for one in state.networks.generator.parameters())
    with pytest.raises(UserError, match="diverged 4 times in a row.*Loss/beta is NaN.*lower"):
        roll_back(path, state, guard, settings, "Loss/beta is NaN")
    guard.num_rollbacks = 0
    roll_back(path, state, guard, settings, "Loss/beta is NaN")
    # What was drawn before is not drawn again.
    drawn = torch.rand(())
    load_state(path, state)
    assert drawn != torch.rand(())
