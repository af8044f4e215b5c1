"""The training script on a data set of its own format: output, resume, errors."""

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mate3d.checkpoint import load_generator
from scripts import prepare_data, train
from scripts._compose import compose_config, group_choices, resolve_config
from training.run_folder.safety import only_writer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cats(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cats")
    prepare_data.main(["debug=tiny", f"output={folder / 'data'}", f"paths.outputs={folder}"])
    return folder / "data"


def run_train(cats: Path, output: Path, *words: str) -> None:
    train.main(["debug=tiny", f"data={cats}", f"output={output}", *words])


def fail_train(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as info:
        train.main(["debug=tiny", *words])
    assert info.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_run_folder_holds_everything_and_refuses_a_second_run(cats, tmp_path, capsys):
    run_train(cats, tmp_path / "run")
    output = capsys.readouterr().out
    assert output.count("s/kimg") == 3
    assert f"done: {tmp_path / 'run' / 'checkpoint'}" in output
    for name in ("config.yaml", "log.txt", "git_revision.txt", "stats.jsonl", "training_state.pt"):
        assert (tmp_path / "run" / name).is_file(), name
    generator = load_generator(tmp_path / "run" / "checkpoint")
    assert generator.config.resolution == 32
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert {"Loss/G/loss", "Loss/G_eikonal/weighted", "Progress/kimg"} <= set(
        events.Tags()["scalars"]
    )
    assert {"samples/image", "samples/segmentation", "samples/depth", "samples/normals"} <= set(
        events.Tags()["images"]
    )
    card = (tmp_path / "run" / "checkpoint" / "card.md").read_text()
    assert "python -m scripts.train debug=tiny" in card
    texts = [(tmp_path / "run" / name).read_text() for name in ("config.yaml", "log.txt")]
    line = fail_train(capsys, f"data={cats}", f"output={tmp_path / 'run'}", "train.seed=7")
    assert "holds a training run; say resume=true" in line
    assert texts == [(tmp_path / "run" / name).read_text() for name in ("config.yaml", "log.txt")]


def test_a_running_run_keeps_its_configuration(cats, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "only_writer", partial(only_writer, patience_s=0))
    config = tmp_path / "config.yaml"
    config.write_text("# Resolved options of a run of scripts.train\nseed: 1\n")
    with only_writer(tmp_path):
        line = fail_train(capsys, f"data={cats}", f"output={tmp_path}", "resume=auto")
    assert "another process trains in" in line
    assert config.read_text().endswith("seed: 1\n")


def test_warm_start_precedes_training(cats, tmp_path, capsys):
    run_train(cats, tmp_path / "run", "train.warm_start=procedural", "train.total_kimg=0.004")
    stats = (tmp_path / "run" / "stats.jsonl").read_text()
    assert "Loss/warm_start/class_sdf" in stats
    assert "Loss/D/loss" in stats


@pytest.mark.slow
def test_sigterm_saves_and_the_printed_command_resumes(cats, tmp_path):
    words = ["debug=tiny", f"data={cats}", "train.total_kimg=100.0", f"output={tmp_path / 'run'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.train", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if "s/kimg" in line:
            break
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "SIGTERM: finishing this step" in rest
    command = rest.strip().splitlines()[-1].split()
    assert command[:3] == ["python", "-m", "scripts.train"] and command[-1] == "resume=true"
    seen = int(rest.split("stopped at ")[1].split(" images")[0])
    resumed = [sys.executable, *command[1:], f"train.total_kimg={(seen + 4) / 1000}"]
    result = subprocess.run(resumed, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "done:" in result.stdout


def test_missing_data_is_named(tmp_path, capsys):
    line = fail_train(capsys, f"data={tmp_path / 'none'}", f"output={tmp_path / 'run'}")
    assert line.startswith("error: ") and str(tmp_path / "none") in line


def test_unnamed_data_is_asked_for(tmp_path, capsys):
    assert "data=..." in fail_train(capsys, f"output={tmp_path / 'run'}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dataset.label_set=celebamask_hq"], "the data set's labels are catmask_hq, the model's"),
        (["model.generator.resolution=64"], "resolution 64 does not fit data set"),
        (["model.generator.sr_input_resolution=12"], "model.generator: cannot go from 12 to 32"),
        (["train.batch_size=6"], "train.batch_size=6 must be a multiple of"),
        (["train.tick_kimg=0.0"], "train.tick_kimg=0.0 must be at least 0.001"),
        (["train.warm_start=magic"], "train.warm_start=magic; use none or procedural"),
        (["loss.eikonall=1"], "unknown option 'loss.eikonall'; did you mean loss.eikonal"),
        (["loss=best"], "unknown choice loss=best; use one of: default, density, paper, released"),
        (["device=tpu"], "device=tpu; use auto, cpu or cuda"),
        (["resume=true"], "nothing to resume"),
    ],
)
def test_wrong_options_are_named(cats, tmp_path, capsys, words, message):
    assert message in fail_train(capsys, f"data={cats}", f"output={tmp_path / 'run'}", *words)


@pytest.mark.parametrize("experiment", group_choices("train", "experiment"))
def test_every_experiment_builds_its_settings(experiment):
    config = resolve_config(compose_config("train", [f"experiment={experiment}", "data=x"]))
    train.read_settings(config)
    generator = train.read_generator_config(config)
    assert generator.label_set == config.dataset.label_set


def test_released_choices_reproduce_the_release():
    words = ["experiment=ffhq_mask_512", "loss=released", "rendering=released", "data=x"]
    config = resolve_config(compose_config("train", words))
    _, settings = train.read_settings(config)
    generator = train.read_generator_config(config)
    assert settings.loss.with_double_blur and settings.loss.density_extent == 1.0
    assert generator.rendering.density_activation == "softplus_shifted"
    assert generator.rendering.background_class is None
    assert (generator.resolution, generator.label_set) == (512, "celebamask_hq")
