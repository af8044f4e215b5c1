"""Every script's entry: options, help, run folder, and user errors as one line with exit code 2."""

import logging
from functools import partial
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mate3d.errors import UserError
from scripts._compose import compose_config
from scripts._entry import run
from torch_utils.ops._extension import KernelsUnavailableError


def _run_in(tmp_path: Path, *words: str, main=lambda config: None) -> Path:
    """Run with the configuration of prepare_data; return the run folder."""
    folder = tmp_path / "run"
    run("prepare_data", main, [f"paths.run_folder={folder}", "output=data", *words])
    return folder


def _raising(error: BaseException):
    def main(config: DictConfig) -> None:
        logging.getLogger("training").info("hello")
        raise error

    return main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["outptu=3"], "'outptu'; did you mean output?"),
        (["supersampling=1"], "'supersampling'; did you mean dataset.maker.super"),
        (["seed.deeper=3"], "'seed.deeper'"),
        (["+extra=1"], "'+extra'"),
        (["debug=tinny"], "debug=tinny; use one of: tiny"),
        (["dataset=dogs"], "dataset=dogs; use one of: catmask_hq, celebamask_hq"),
        (["loss=default"], "'loss'"),
        (["num_images"], "'num_images'; options are written as name=value"),
        (["--output", "x"], "'--output'; options are written as name=value"),
        (["num_images=many"], "num_images=many must be a whole number (default 5000)"),
        (["num_images=true"], "num_images=True must be a whole number"),
        (["overwrite=1"], "overwrite=1 must be true or false"),
        (["output=${nothing}"], "option output: Interpolation key 'nothing' not found"),
        (["dataset=folder"], "please give: dataset.label_set=... (see --help)"),
        (["output=x", "paths.run_folder=/dev/null/x"], "cannot write the run folder /dev/null/x"),
    ],
)
def test_wrong_words_end_in_one_line_and_exit_code_2(words, message, fail):
    assert message in fail(partial(run, "prepare_data", lambda config: None), *words)


@pytest.mark.parametrize(
    "error", [UserError("mask is\ntoo small"), KernelsUnavailableError("nvcc is\ntoo small")]
)
def test_error_of_the_script_is_one_line_on_screen_and_in_the_log(error, tmp_path, fail):
    line = fail(lambda words: _run_in(tmp_path, *words, main=_raising(error)))
    assert line.endswith(" is too small")
    assert "too small" in (tmp_path / "run/log.txt").read_text()


def test_log_on_a_full_disk_adds_no_lines(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as info:
        _run_in(tmp_path, main=_raising(UserError("no space")))
    assert info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "hello\n" and captured.err == "error: no space\n"


def test_wrong_choice_of_operations_ends_in_one_line(tmp_path, monkeypatch, fail):
    monkeypatch.setenv("MATE3D_OPS", "fast")
    assert "MATE3D_OPS=fast" in fail(lambda words: _run_in(tmp_path))


def test_bugs_keep_their_traceback_and_interruption_exits_with_130(tmp_path, capsys):
    with pytest.raises(ZeroDivisionError):
        _run_in(tmp_path, main=_raising(ZeroDivisionError("a bug")))
    assert "Traceback" in (tmp_path / "run/log.txt").read_text()
    with pytest.raises(SystemExit) as info:
        _run_in(tmp_path, main=_raising(KeyboardInterrupt()))
    assert info.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_run_folder_holds_resolved_config_log_and_revision(tmp_path, capsys):
    seen = []

    def speak(config: DictConfig) -> None:
        seen.append(config)
        logging.getLogger("training.somewhere").info("hello")
        logging.getLogger("PIL").info("noise of a library")

    folder = _run_in(tmp_path, "seed=7", "debug=tiny", main=speak)
    config = OmegaConf.load(folder / "config.yaml")
    assert config == seen[0] and "${" not in (folder / "config.yaml").read_text()
    assert (config.seed, config.num_images, config.paths.run_folder) == (7, 8, str(folder))
    assert "INFO training.somewhere: hello" in (folder / "log.txt").read_text()
    assert capsys.readouterr().out == "hello\n"
    assert (folder / "git_revision.txt").read_text().strip()
    assert not logging.getLogger("training").handlers
    _run_in(tmp_path, "seed=9")
    assert OmegaConf.load(folder / "config.yaml").seed == 9


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("format_version: 1\n", "such as a checkpoint"),
        ("# Resolved options of a run of scripts.train\n", "of train"),
    ],
)
def test_config_of_a_checkpoint_or_of_another_script_is_never_replaced(
    tmp_path, fail, found, message
):
    path = tmp_path / "run/config.yaml"
    path.parent.mkdir()
    path.write_text(found)
    assert message in fail(lambda words: _run_in(tmp_path))
    assert path.read_text() == found and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("a cat, black (not grey)", "a cat's ears", "1 = 2", "C:\\new\\", "é [x] {y}"),
        *("back\\'slash", "2026", "1e3", "true", "007"),
    ],
)
def test_text_needs_no_quotes_of_hydra_and_stays_as_it_is_written(text):
    assert compose_config("prepare_data", [f"output={text}"]).output == text


def test_null_and_lists_keep_their_meaning():
    config = compose_config("prepare_data", ["output=null", "paths.outputs=[1,2]"])
    assert config.output is None and config.paths.outputs == [1, 2]


def test_cfg_prints_yaml_from_any_directory_and_does_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("prepare_data", lambda config: pytest.fail("must not run"), ["--cfg", "seed=5"])
    printed = OmegaConf.create(capsys.readouterr().out)
    assert printed.seed == 5 and printed.output == ""


def test_help_lists_every_option_with_its_comment(capsys):
    run("prepare_data", lambda config: pytest.fail("must not run"), ["--help", "seed=5"])
    text = capsys.readouterr().out
    for line in (
        "prepare_data: write a data set",
        "output=                           Where the data set shall be",
        "seed=5                            Image i of a seed",
        "debug=null                        choices: tiny",
        "dataset=procedural_cat            choices: catmask_hq",
        "The folder that run folders of all scripts lie in.",
        "dataset.maker.supersampling=2     Rays a pixel",
    ):
        assert line in text
    assert max(map(len, text.splitlines())) <= 100
