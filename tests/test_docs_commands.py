"""The commands of README.md and docs/, run in the order of the pages in one folder, at tiny size.

A command that needs something that is not here is listed with the reason; if it runs one of our
scripts, its options must still compose.
"""

import re
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from docs import plot_run
from editing.loop import EditLoop
from mate3d.checkpoints.assets import ASSETS
from mate3d.label_files import load_label_map
from mate3d.labels import get_label_set, save_label_map
from scripts import prepare_data
from tests.processes import run_launched
from torch_utils import doctor

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Words of every command of a script; they replace its own words for the same options.
_TINY = {
    "prepare_data": {},
    "train": {
        "debug": "tiny",
        "train.total_kimg": "0.008",
        "train.tick_kimg": "0.004",
        "train.grid_columns": "1",
        "metrics.names": "[fid]",
        "metrics.features": "procedural",
        "metrics.num_samples": "4",
        "metrics.interval": "2",
    },
    "train_prior": {"debug": "tiny", "num_samples": "1"},
    "train_features": {"debug": "tiny"},
    "edit": {"debug": "tiny", "edit.num_steps": "1", "report.num_orbit_frames": "2"},
    "generate": {"debug": "tiny"},
    "evaluate": {"debug": "tiny", "num_heads": "1", "metrics.features": "procedural"},
    "convert_checkpoint": {},
    "download_weights": {},
}
# Words that replace a command's own words for the same options, and are not added.
_SMALLER = {
    "num_images": "8",
    "shard_size": "4",
    "seeds": "0,1",
    "mix.shape_seeds": "0,1",
    "mix.texture_seeds": "2,3",
    "views.num_frames": "2",
    "views.yaws_degrees": "[-10,10]",
    "views.pitches_degrees": "[0]",
    "mesh.resolution": "12",
    "prior.base": str(ASSETS / "demo_prior"),
}

# Side of images in pixels that datasets are made with at most; the demo generator needs this one.
_LARGEST = 128

_IMPOSSIBLE = {
    r"scripts\.download_weights|mate3d-download-weights": "needs the network",
    r"guidance=(stable_diffusion_1_5|mate3d_)": "needs a GPU and the weights of Stable Diffusion",
    r"metrics\.features=inception": "needs the weights of Inception",
    r"metrics\.parsing_model=|quality_parser\.model=": "needs a model of the hub",
    r"(parsing|captioning|detection)\.model=": "needs a model of the hub",
    r"=weights/(?!X\.pkl)": "needs published weights",
    r"hydra/launcher=slurm|\bsrun\b": "needs Slurm",
    r"--nnodes": "needs several nodes",
    r"\bdevice=cuda\b|gpu_checks\.sh|doctor build=true": "needs a GPU",
    r"^(\w+=\S+ )*(pip|make|git|cd|python -m venv)\b": "gets or installs the project",
    r"^(python -m )?pytest\b": "runs the tests",
    r"python benchmarks/": "is run by tests/scripts/test_benchmarks.py",
    r"^(hf|tensorboard)\b": "is a program of others",
}


@dataclass(frozen=True)
class Command:
    """One command of a page, on one line."""

    page: str
    line: str

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"

    @property
    def script(self) -> str | None:
        """The script of ours that it runs."""
        found = re.search(r"-m scripts\.(\w+)|\bmate3d-([\w-]+)", self.line)
        return (found[1] or found[2]).replace("-", "_") if found else None

    @property
    def words(self) -> list[str]:
        """The words of the command line, of a script only those that it gets."""
        words = re.split(r"-m scripts\.\w+|\bmate3d-[\w-]+", self.line, maxsplit=1)[-1]
        return shlex.split(words.removesuffix("&"), comments=True)

    @property
    def obstacle(self) -> str | None:
        """Why it cannot run here."""
        return next((why for what, why in _IMPOSSIBLE.items() if re.search(what, self.line)), None)


def read_page(page: Path) -> tuple[list[Command], list[str]]:
    """Return the commands of a page, and its pieces of Python."""
    commands, pieces, language, command = [], [], None, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
            if language == "python":
                pieces.append("")
        elif language == "python":
            pieces[-1] += f"{line}\n"
        elif language is not None or line.startswith("    "):
            command += line.strip().removesuffix("\\")
            if not line.endswith("\\"):
                commands.append(Command(page.name, command))
                command = ""
    programs = r"(\w+=\S+ )*(python|torchrun|srun|mate3d-|make|pip|bash|pytest|hf|git|cd|tensorb)"
    return [each for each in commands if re.match(programs, each.line)], pieces


def given(words: list[str], option: str) -> str | None:
    """Return the value that words give to an option."""
    return next((word.partition("=")[2] for word in words if word.startswith(f"{option}=")), None)


def shrink(script: str, words: list[str]) -> list[str]:
    smaller = {word: value for word, value in _SMALLER.items() if given(words, word) is not None}
    smaller |= _TINY[script]
    if int(given(words, "resolution") or 0) > _LARGEST:
        smaller["resolution"] = str(_LARGEST)
    kept = [word for word in words if word.partition("=")[0] not in smaller]
    return kept + [f"{option}={value}" for option, value in smaller.items()]


def repaint(mask: Path) -> None:
    """Paint ears over the face of a mask that `edit` wrote, as a user would."""
    label_set = get_label_set("catmask_hq")
    label_map = load_label_map(mask, label_set)
    side = len(label_map)
    label_map[side // 8 : side // 3, side // 3 : side // 2] = label_set.class_id("ears")
    save_label_map(mask, label_map, label_set)


def run(command: Command) -> None:
    """Run a command in this process, or in forked ones if it launches several."""
    if command.script is not None:
        main = import_module(f"scripts.{command.script}").main
        words = shrink(command.script, command.words)
        mask = given(words, "mask")
        if mask is not None and Path(mask).name == "paint_me.png":
            repaint(Path(mask))
        if command.line.startswith("torchrun"):
            run_launched(partial(main, words))
        else:
            main(words)
    elif "docs.plot_run" in command.line:
        plot_run.main(command.words[3:])
    elif "torch_utils.doctor" in command.line:
        sys.argv[1:] = []
        doctor.main()
    else:
        assert command.line.startswith("python -c"), f"no rule for {command}"
        exec(command.words[2], {})


def compose(command: Command) -> None:
    """Let a script print the configuration that a command gives."""
    words = [word for word in command.words if not word.startswith(("--multirun", "hydra"))]
    words = [re.sub(r"^(\S+seed=\d+),.*", r"\1", word) for word in words]
    import_module(f"scripts.{command.script}").main(["--cfg", *words])


def exit_code(function: Callable[[], None]) -> int:
    try:
        function()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A working folder with what the pages take for granted: photos and published files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    page = (ROOT / "docs" / "editing.md").read_text(encoding="utf-8")
    (tmp_path / "edits.yaml").write_text(re.search("```yaml\n(.*?)```", page, re.DOTALL)[1])
    for name, kind in (("ffhq_mask", "procedural_person"), ("catmask_hq", "procedural_cat")):
        words = [f"dataset={kind}", "num_images=8", "resolution=64", f"output=data/{name}.zip"]
        prepare_data.main([*words, "paths.outputs=logs"])
    with zipfile.ZipFile("data/ffhq_mask.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".png"):
                folder = tmp_path / name.partition("/")[0].replace("images", "photos")
                folder.mkdir(exist_ok=True)
                with Image.open(archive.open(name)) as image:
                    image.resize((512, 512), Image.Resampling.NEAREST).save(
                        folder / Path(name).name
                    )
    snapshot = ROOT / "tests" / "data" / "official_format_face_small.pkl"
    (tmp_path / "weights").mkdir()
    shutil.copy(snapshot, tmp_path / "weights" / "X.pkl")
    return tmp_path


@pytest.mark.slow
def test_commands_of_the_pages_run_in_order(workplace):
    makers: dict[str, tuple[Command, list[str]]] = {}
    failed, num_run = [], 0
    for command in [command for page in PAGES for command in read_page(page)[0]]:
        words = command.words
        if command.obstacle is not None:
            if command.script is not None and exit_code(partial(compose, command)) != 0:
                failed.append(f"{command}: does not compose")
            continue
        output = given(words, "output")
        maker, its_words = makers.setdefault(output or command.line, (command, words))
        if maker is not command and words == its_words:
            continue
        if maker is not command and {command.script, maker.script} != {"edit"}:
            failed.append(f"{command}: {output} is already that of {maker}")
        num_run += 1
        if (code := exit_code(partial(run, command))) != 0:
            failed.append(f"{command}: exit code {code}")
    assert not failed, "\n".join(failed)
    assert num_run > 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if read_page(page)[1]], ids=lambda page: page.stem
)
def test_python_of_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = EditLoop.run
    monkeypatch.setattr(EditLoop, "run", lambda loop, *_: run(loop, lambda: True))  # One step.
    for piece in read_page(page)[1]:
        if not re.search("OWNER|StableDiffusion", piece):
            exec(piece, {})
