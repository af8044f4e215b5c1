"""The walks of docs/architecture.md are what the default commands run, in few files."""

import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

from editing.loop import EditLoop
from mate3d.checkpoint import save_generator
from mate3d.generation.run import GenerationRun
from mate3d.labels import CATMASK_HQ, save_label_map
from scripts import edit, generate, prepare_data, train
from tests.editing.conftest import make_tiny_generator, make_tiny_pipeline
from training import loop

ROOT = Path(__file__).parents[1]
PACKAGES = ("mate3d", "training", "editing", "torch_utils", "scripts")
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# Of each walk: how many files it may enter.
MOST_FILES = {"generate": 20, "iteration": 30, "edit": 22}
MOST_NAMED = 12
LEAST_SHARE = 0.7


class Walked(Exception):
    """Ends a command when its walk is over."""


class Walk:
    """The files of our packages whose functions a call enters, and the lines that it executes."""

    def __init__(self):
        self.lines: dict[str, set[int]] = {}  # In the order in which the files are entered.
        self._names: dict[str, str | None] = {}

    def follow(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call a function and note what it enters, in other threads as well."""
        before = sys.gettrace()
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            function(*args, **kwargs)
        finally:
            sys.settrace(before)
            threading.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Callable | None:
        name = self._name(frame.f_code)
        # What a module runs while it is imported is not the walk's.
        if name is None or frame.f_code.co_name == "<module>":
            return None
        lines = self.lines.setdefault(name, set())

        def note(frame: FrameType, event: str, argument: object) -> Callable:
            if event == "line":
                lines.add(frame.f_lineno)
            return note

        return note

    def _name(self, code: CodeType) -> str | None:
        if code.co_filename not in self._names:
            path = Path(code.co_filename)
            name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
            self._names[code.co_filename] = name if name.split("/")[0] in PACKAGES else None
        return self._names[code.co_filename]


def walk_generate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """Follow the making and writing of all files, from options and generator on."""
    save_generator(folder / "checkpoint", make_tiny_generator())
    words = ["debug=tiny", f"generator={folder / 'checkpoint'}", f"output={folder / 'out'}"]
    return _walk_once(generate.main, words, monkeypatch, GenerationRun, "write")


def walk_iteration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """Follow the first adversarial iteration, which takes all lazy steps."""
    prepare_data.main(["num_images=4", "resolution=32", f"output={folder / 'data'}"])
    words = ["debug=tiny", f"data={folder / 'data'}", f"output={folder / 'run'}"]
    return _walk_once(train.main, words, monkeypatch, loop, "adversarial_iteration")


def walk_edit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """Follow the first step of an edit by mask and prompt."""
    save_generator(folder / "checkpoint", make_tiny_generator())
    make_tiny_pipeline().save_pretrained(folder / "prior")
    label_map = np.ones((32, 32), dtype=np.uint8)
    label_map[4:10, 6:26] = CATMASK_HQ.class_id("ears")
    save_label_map(folder / "painted.png", label_map, CATMASK_HQ)
    words = [f"generator={folder / 'checkpoint'}", f"guidance.prior={folder / 'prior'}"]
    words += ["edit_classes=[ears]", f"mask={folder / 'painted.png'}", "prompt=a cat"]
    words += ["debug=tiny", f"output={folder / 'out'}"]
    return _walk_once(edit.main, words, monkeypatch, EditLoop, "step")


def _walk_once(
    main: Callable[[list[str]], None],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
) -> Walk:
    """Run a command until it first calls a function of `owner`, and follow that call."""
    walk, function = Walk(), getattr(owner, name)

    def follow(*args: Any, **kwargs: Any) -> None:
        walk.follow(function, *args, **kwargs)
        raise Walked

    monkeypatch.setattr(owner, name, follow)
    with pytest.raises(Walked):
        main(words)
    return walk


def files_named(walk: str) -> list[str]:
    """Return the files that the page's numbered list of a walk begins its items with."""
    section = re.search(rf"^### [^\n]*`{walk}`.*?(?=^##)", PAGE, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section[0], flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "follow"),
    [("generate", walk_generate), ("iteration", walk_iteration), ("edit", walk_edit)],
)
def test_walk_is_short_and_the_page_names_its_files_in_their_order(
    name, follow, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    lines = follow(tmp_path, monkeypatch).lines
    entered = list(lines)
    assert len(entered) <= MOST_FILES[name], " ".join(entered)
    named = files_named(name)
    assert named and len(named) <= MOST_NAMED
    assert [file for file in entered if file in named] == named
    share = sum(len(lines[file]) for file in named) / sum(map(len, lines.values()))
    assert share >= LEAST_SHARE, share
