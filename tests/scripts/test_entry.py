"""Every script's entry: options, help, run folder, and user errors as one line with exit code 2."""

import logging
from functools import partial
from pathlib import Path

import pytest
import yaml

from mate3d.errors import UserError
from mate3d.options import Options, config_from_dict
from scripts._compose import read_options
from scripts._entry import run
from scripts._schema import find_options, options_type
from torch_utils.ops._extension import KernelsUnavailableError


def _run_in(tmp_path: Path, *words: str, main=lambda options: None) -> Path:
    """Run with the options of prepare_data; return the run folder."""
    folder = tmp_path / "run"
    run("prepare_data", main, [f"paths.run_folder={folder}", "output=data", *words])
    return folder


def _raising(error: BaseException):
    def main(options: Options) -> None:
        logging.getLogger("training").info("hello")
        raise error

    return main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["outptu=3"], "'outptu'; did you mean output?"),
        (["supersampling=1"], "'supersampling'; did you mean dataset.supersampling?"),
        (["seed.deeper=3"], "'seed.deeper'"),
        (["+extra=1"], "unknown option 'extra'"),
        (["~seed"], "'~seed'; options cannot be removed, set a value: seed=..."),
        (
            ["hydra.run.dir=x"],
            "'hydra.run.dir=x'; options of Hydra have no effect without",
        ),
        (["--info"], "'--info'; options are written as name=value, see --help"),
        (["--cfg", "hydra"], "'hydra'; options are written as name=value"),
        (["debug=tinny"], "debug=tinny; use one of: tiny"),
        (["dataset=dogs"], "dataset=dogs; use one of: catmask_hq, celebamask_hq"),
        (["loss=default"], "'loss'"),
        (["num_images"], "'num_images'; options are written as name=value"),
        (["--output", "x"], "'--output'; options are written as name=value"),
        (["num_images=many"], "num_images=many; use an integer of at least 1"),
        (["num_images=true"], "num_images=true; use an integer of at least 1"),
        (["num_images=0"], "num_images=0; use an integer of at least 1"),
        (["max_residual=nan"], "max_residual=nan; use a number of at least 0"),
        (["max_residual=[1"], "max_residual=[1; use a number of at least 0"),
        (["overwrite=maybe"], "overwrite=maybe; use true or false"),
        (["crop=round"], "crop=round; use one of: none, center, ffhq, eg3d or null"),
        (["dataset=folder"], "dataset.label_set=null; is required with source=folder"),
        (["output=null"], "output=null; use text"),
        (["output=${nothing}"], "output: Interpolation key 'nothing' not found"),
        (["output=${"], "output: "),
        (["output=x", "paths.run_folder=/dev/null/x"], "cannot write the run folder /dev/null/x"),
    ],
)
def test_wrong_words_end_in_one_line_and_exit_code_2(words, message, fail):
    assert message in fail(partial(run, "prepare_data", lambda options: None), *words)


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

    def speak(options: Options) -> None:
        seen.append(options)
        logging.getLogger("training.somewhere").info("hello")
        logging.getLogger("PIL").info("noise of a library")

    folder = _run_in(tmp_path, "seed=7", "debug=tiny", main=speak)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config_from_dict(type(seen[0]), config) == seen[0]
    assert (config["seed"], config["num_images"]) == (7, 8)
    assert config["paths"]["run_folder"] == str(folder)
    assert "INFO training.somewhere: hello" in (folder / "log.txt").read_text()
    assert capsys.readouterr().out == "hello\n"
    assert (folder / "git_revision.txt").read_text().strip()
    assert not logging.getLogger("training").handlers
    _run_in(tmp_path, "seed=9")
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 9


def test_a_run_that_fails_can_leave_the_configuration_of_an_older_one(tmp_path):
    words = ["output=data", f"paths.run_folder={tmp_path}"]

    def start(seed: int, main=lambda options: None) -> int:
        try:
            run("prepare_data", main, [*words, f"seed={seed}"], keeps_older=True)
        finally:
            kept = yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"]
        return kept

    # A first run says how it was made even if it fails.
    with pytest.raises(SystemExit):
        start(1, _raising(UserError("x")))
    assert start(2) == 2
    with pytest.raises(SystemExit):
        start(3, _raising(UserError("x")))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["seed"] == 2


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
        *("back\\'slash", "2026", "1e3", "true", "007", "2024_01_01", "\\\\nas\\share"),
        *("[red ears]", "{a:1}", "a,b", "range(1,3)", "", '"a" and "b"', "~x/y", "???!"),
    ],
)
def test_text_needs_no_quotes_of_hydra_and_stays_as_it_is_written(text):
    words = [f"images={text}", f"dataset.name={text}", "output=x"]
    options = read_options("prepare_data", words)
    assert options.images == options.dataset.name == text


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[2024_01_01,b c]", ("2024_01_01", "b c")),
        ("7, b", ("7", "b")),
        ("'a,b', c", ("a,b", "c")),
        ("[]", ()),
        ("null", None),
    ],
)
def test_lists_of_text_need_no_quotes_either(text, values):
    assert read_options("prepare_data", [f"fix={text}", "output=x"]).fix == values


def test_null_quotes_and_the_home_folder_keep_their_meaning(monkeypatch):
    monkeypatch.setenv("HOME", "/home/cat")
    words = ["images=null", "masks='null'", 'captions="a, b"', "output=~/x", "cameras=a~/x"]
    options = read_options("prepare_data", words)
    assert (options.images, options.masks, options.captions) == (None, "null", "a, b")
    assert (options.output, options.cameras) == ("/home/cat/x", "a~/x")


@pytest.mark.parametrize("word", ["+seed=5", "++seed=5", "~debug", "debug=null", "--resolve"])
def test_habits_of_hydra_work(word, capsys):
    words = ["seed=5", "output=x", word, "--cfg", "job"]
    run("prepare_data", lambda options: pytest.fail("must not run"), words)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["seed"], printed["num_images"]) == (5, 5000)


def test_cfg_prints_yaml_from_any_directory_and_does_not_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("prepare_data", lambda options: pytest.fail("must not run"), ["--cfg", "seed=5"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed"] == 5 and printed["output"] == ""


def test_help_shows_every_option_with_its_value_and_description(capsys):
    run("prepare_data", lambda options: pytest.fail("must not run"), ["--help", "seed=5"])
    text = capsys.readouterr().out
    lines = text.splitlines()
    for option in find_options(options_type("prepare_data")).values():
        assert any(line.strip().startswith(option.path) for line in lines), option.path
        assert option.description.split()[0] in text
    for line in (
        "seed=5                            Seed of the procedural portraits.",
        "debug=null                        choices: tiny",
        "dataset=procedural_cat            choices: catmask_hq",
        "none, center, ffhq, eg3d]",
    ):
        assert line in text
    # The description of a group stands alone.
    assert lines[lines.index("dataset: The dataset.") - 1] == ""
    assert max(map(len, lines)) <= 100
