"""A resume with other options keeps the earlier ones, says so, and refuses what makes no sense."""

import pytest
import yaml

from mate3d.errors import UserError
from scripts import train
from scripts._compose import read_options
from scripts._entry import write_run_folder
from scripts._long_run import keep_earlier_options
from training.run_folder.events import read_events


@pytest.fixture
def words(tmp_path):
    return ["debug=tiny", "data=d.zip", f"output={tmp_path / 'run'}"]


@pytest.fixture
def resume(words, tmp_path):
    """Return a function that notes how options differ from those of a run, whose file is there."""
    write_run_folder(tmp_path / "run", "train", read_options("train", words))

    def differ(*more, script="train"):
        options = read_options(script, [*words, *more])
        return keep_earlier_options(tmp_path / "run" / "config.yaml", options)

    return differ


def test_same_options_change_nothing(resume, tmp_path):
    assert resume("resume=true", f"output={tmp_path}/run/../run") == ""
    assert [path.name for path in (tmp_path / "run").glob("config*")] == ["config.yaml"]
    assert read_events(tmp_path / "run") == []


def test_other_options_are_told_and_the_earlier_ones_kept(resume, words, tmp_path):
    run = tmp_path / "run"
    (run / "stats.jsonl").write_text('{"images_seen": 40}\n')
    for number, factor in ((1, 2.0), (2, 3.0)):
        text = resume(f"loss.eikonal={factor}", "optimizer.max_gradient_norm=5.0")
        assert f"loss.eikonal={factor} (was 0.1)" in text
        assert "optimizer.max_gradient_norm=5.0 (was null)" in text
        assert str(run / f"config.{number}.yaml") in text
    kept = (run / "config.1.yaml").read_text()
    assert kept == (run / "config.yaml").read_text() and yaml.safe_load(kept)["train"]
    first, _ = read_events(run)
    assert (first["kind"], first["images_seen"]) == ("options", 40)
    assert first["earlier"] == "config.1.yaml" and "loss.eikonal=2.0" in first["reason"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("model.generator.w_dim=64", "saved weights"),
        ("rendering.near=2.0", "saved weights"),
        ("dataset.label_set=celebamask_hq", "saved weights"),
        ("train.seed=3", "order of the data"),
        ("with_flips=true", "order of the data"),
        ("train.streaming=true", "order of the data"),
        ("train.sphere_init_steps=5", "stage"),
        ("warm_start.num_field_steps=9", "stage"),
        ("init_from=x", "only a new run"),
    ],
)
def test_what_makes_no_sense_is_refused(resume, tmp_path, fail, words, word, reason):
    option, _, value = word.partition("=")
    option = "model.generator.label_set" if option == "dataset.label_set" else option
    with pytest.raises(UserError, match=f"cannot resume with {option}={value} .*{reason}"):
        resume(word)
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_streams_cannot_change_their_batches(words, tmp_path):
    streamed = [*words, "train.streaming=true"]
    write_run_folder(tmp_path / "run", "train", read_options("train", streamed))
    options = read_options("train", [*streamed, "train.batch_size=2"])
    with pytest.raises(UserError, match="train.batch_size=2 instead of 4"):
        keep_earlier_options(tmp_path / "run" / "config.yaml", options)


def test_script_warns_once_and_goes_on(cats, tmp_path, capsys, fail):
    run = tmp_path / "run"
    words = ["debug=tiny", f"data={cats}", f"output={run}", "metrics=none"]
    words += ["train.batch_size=2", "train.tick_kimg=0.002", "train.total_kimg=0.002"]
    train.main(words)
    before = (run / "config.yaml").read_text()
    assert "cannot resume with train.seed=1" in fail(
        train.main, *words, "resume=true", "train.seed=1"
    )
    assert (run / "config.yaml").read_text() == before
    capsys.readouterr()
    train.main([*words, "resume=true", "train.total_kimg=0.004"])
    output = capsys.readouterr().out
    assert output.count("resuming with other options: train.total_kimg=0.004 (was 0.002)") == 1
    assert (run / "config.1.yaml").read_text() == before
    train.main([*words, "resume=true", "train.total_kimg=0.004"])
    assert not (run / "config.2.yaml").exists()
    assert [event["kind"] for event in read_events(run)].count("options") == 1
