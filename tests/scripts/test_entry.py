"""Every script's entry: options, help, run folder, and user errors as one line with exit code 2."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mate3d.errors import UserError
from scripts._compose import compose_config
from scripts._entry import run
from torch_utils.ops._extension import KernelsUnavailableError


def _do_nothing(config: DictConfig) -> None:
    pass


def _run_in(tmp_path: Path, *words: str, main=_do_nothing) -> Path:
    """Run with the configuration of prepare_data; return the run folder."""
    folder = tmp_path / "run"
    run("prepare_data", main, [f"paths.run_folder={folder}", "output=data", *words])
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["outptu=3"], "unknown option 'outptu'; did you mean output?"),
        (["paths.outpts=3"], "unknown option 'paths.outpts'; did you mean paths.outputs"),
        (["supersampling=1"], "unknown option 'supersampling'; did you mean dataset.maker.super"),
        (["zzzzzz=3"], "unknown option 'zzzzzz'; see --help for all options"),
        (["seed.deeper=3"], "unknown option 'seed.deeper'"),
        (["debug=tinny"], "unknown choice debug=tinny; use one of: tiny"),
        (["dataset=dogs"], "unknown choice dataset=dogs; use one of: catmask_hq, celebamask_hq"),
        (["dataset="], "unknown choice dataset=; use one of: catmask_hq, celebamask_hq"),
        (["num_images"], "cannot read 'num_images'; options are written as name=value"),
        (["+extra=1"], "cannot read '+extra=1'"),
        (["--output", "x"], "unknown flag --output; options are written as name=value"),
        (["num_images=many"], "option num_images=many must be a whole number (default 5000)"),
        (["num_images=1,2"], "option num_images=1,2 must be a whole number"),
        (["num_images=true"], "option num_images=True must be a whole number"),
        (["resolution=2.5"], "option resolution=2.5 must be a whole number"),
        (["overwrite=1"], "option overwrite=1 must be true or false"),
        (["output=${nothing}"], "option output: Interpolation key 'nothing' not found"),
        (["dataset=folder"], "missing value, please give: dataset.label_set=... (see --help)"),
        (["output=x", "paths.run_folder=/dev/null/x"], "cannot write the run folder /dev/null/x"),
    ],
)
def test_wrong_words_end_in_one_line_and_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as info:
        run("prepare_data", _do_nothing, words)
    captured = capsys.readouterr()
    assert info.value.code == 2
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_user_error_of_the_script_is_one_line_on_screen_and_in_the_log(tmp_path, capsys):
    def fail(config: DictConfig) -> None:
        raise UserError("mask is\ntoo small")

    with pytest.raises(SystemExit) as info:
        _run_in(tmp_path, main=fail)
    assert info.value.code == 2
    assert capsys.readouterr().err == "error: mask is too small\n"
    assert "too small" in (tmp_path / "run/log.txt").read_text()


def test_log_on_a_full_disk_adds_no_lines(tmp_path, capsys):
    def fail(config: DictConfig) -> None:
        logging.getLogger("training").info("hello")
        raise UserError("no space")

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as info:
        _run_in(tmp_path, main=fail)
    assert info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "hello\n" and captured.err == "error: no space\n"


def test_wrong_choice_of_operations_ends_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MATE3D_OPS", "fast")
    with pytest.raises(SystemExit) as exit:
        _run_in(tmp_path)
    assert exit.value.code == 2
    expected = "error: MATE3D_OPS=fast; allowed are auto, kernels, pytorch"
    assert capsys.readouterr().err.splitlines() == [expected]


def test_missing_kernels_that_were_asked_for_end_in_one_line(tmp_path, capsys):
    def main(config: DictConfig) -> None:
        raise KernelsUnavailableError("MATE3D_OPS=kernels, but nvcc was not found")

    with pytest.raises(SystemExit) as exit:
        _run_in(tmp_path, main=main)
    assert exit.value.code == 2
    assert "error: MATE3D_OPS=kernels, but nvcc was not found" in capsys.readouterr().err


def test_other_exceptions_keep_their_traceback(tmp_path):
    def fail(config: DictConfig) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        _run_in(tmp_path, main=fail)
    assert "Traceback" in (tmp_path / "run/log.txt").read_text()


def test_interruption_exits_with_130(tmp_path, capsys):
    def interrupt(config: DictConfig) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as info:
        _run_in(tmp_path, main=interrupt)
    assert info.value.code == 130 and capsys.readouterr().err == "interrupted\n"


def test_run_folder_holds_resolved_config_log_and_revision(tmp_path, capsys):
    def speak(config: DictConfig) -> None:
        logging.getLogger("training.somewhere").info("hello")
        logging.getLogger("PIL").info("noise of a library")

    folder = _run_in(tmp_path, "seed=7", main=speak)
    config = OmegaConf.load(folder / "config.yaml")
    assert config.seed == 7 and config.paths.run_folder == str(folder)
    assert "${" not in (folder / "config.yaml").read_text()
    assert "INFO training.somewhere: hello" in (folder / "log.txt").read_text()
    assert capsys.readouterr().out == "hello\n"
    assert (folder / "git_revision.txt").read_text().strip()
    assert not logging.getLogger("training").handlers


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("format_version: 1\n", "such as a checkpoint; choose another"),
        ("# Resolved options of a run of scripts.train\n", "holds a run of train; choose another"),
    ],
)
def test_config_of_a_checkpoint_or_of_another_script_is_never_replaced(
    tmp_path, capsys, found, message
):
    path = tmp_path / "run/config.yaml"
    path.parent.mkdir()
    path.write_text(found)
    with pytest.raises(SystemExit) as info:
        _run_in(tmp_path)
    assert info.value.code == 2 and message in " ".join(capsys.readouterr().err.split())
    assert path.read_text() == found and len(list(path.parent.iterdir())) == 1


def test_a_script_may_run_again_in_its_folder(tmp_path):
    _run_in(tmp_path)
    folder = _run_in(tmp_path, "seed=9")
    assert OmegaConf.load(folder / "config.yaml").seed == 9


def test_script_receives_resolved_values(tmp_path):
    seen = []
    _run_in(tmp_path, "debug=tiny", main=seen.append)
    assert seen[0].num_images == 8 and "${" not in str(OmegaConf.to_container(seen[0]))


@pytest.mark.parametrize(
    "text",
    ["a cat, black (not grey)", "a cat's ears", "1 = 2", "C:\\new\\", "é [x] {y}", "back\\'slash"],
)
def test_free_text_needs_no_quotes_of_hydra(text):
    assert compose_config("prepare_data", [f"output={text}"]).output == text


@pytest.mark.parametrize("text", ["2026", "1e3", "true", "007"])
def test_text_option_keeps_a_number_as_it_is_written(text):
    for key in ("output", "paths.outputs"):
        assert OmegaConf.select(compose_config("prepare_data", [f"{key}={text}"]), key) == text


def test_null_and_lists_keep_their_meaning():
    assert compose_config("prepare_data", ["output=null"]).output is None
    assert compose_config("prepare_data", ["output=[1,2]"]).output == [1, 2]


def test_cfg_prints_yaml_and_does_not_run(capsys):
    run("prepare_data", lambda config: pytest.fail("must not run"), ["--cfg", "seed=5"])
    printed = OmegaConf.create(capsys.readouterr().out)
    assert printed.seed == 5 and printed.output == ""


def test_help_lists_every_option_with_its_comment(capsys):
    run("prepare_data", _do_nothing, ["--help", "seed=5"])
    text = capsys.readouterr().out
    for line in (
        "prepare_data: write a data set",
        "output=                           Where the data set shall be",
        "seed=5                            Image i of a seed",
        "debug=null                        choices: tiny",
        "dataset=procedural_cat            choices: catmask_hq",
        "The folder that run folders of all scripts lie in.",
    ):
        assert line in text
    assert max(map(len, text.splitlines())) <= 100


def test_script_finds_its_config_from_any_directory(tmp_path):
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, str(root / "scripts/prepare_data.py"), "--cfg"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "num_images: 5000" in result.stdout, result.stderr
