"""Imports go one way, heavy libraries stay where they belong, and nothing needs CUDA."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each package may import of the others.
ALLOWED = {
    "torch_utils": set(),
    "mate3d": {"torch_utils"},
    "training": {"torch_utils", "mate3d"},
    "editing": {"torch_utils", "mate3d"},
    "configs": set(),
    "scripts": {"torch_utils", "mate3d", "training", "editing", "configs"},
}
LIBRARY = ("torch_utils", "mate3d")
# Rooms of a package; each may import those before it. Files beside the rooms are not listed.
ROOMS = {
    "torch_utils": ("kernel_build", "ops"),
    "mate3d": (
        *("network", "rendering", "checkpoints", "outputs", "photo", "procedural"),
        *("generation", "metrics", "published"),
    ),
    "training": (
        *("losses", "augmentation", "optimization", "data"),
        *("evaluation", "run_folder", "feature_network", "prior", "start"),
    ),
    "editing": ("guidance",),
}
# Path prefixes of the files that may import a library.
ONLY_IN = {
    "diffusers": ("editing/guidance/", "training/prior/"),
    "transformers": ("editing/guidance/", "training/prior/", "mate3d/photo/pretrained_parts"),
    "cv2": ("mate3d/photo/detectors",),
    "webdataset": ("training/data/format/", "training/data/shard_stream"),
    "hydra": ("scripts/",),
    "omegaconf": ("scripts/",),
}


def _source_files() -> list[Path]:
    return sorted(path for name in ALLOWED for path in (ROOT / name).rglob("*.py"))


@cache
def _imported_names(path: Path) -> frozenset[str]:
    """Return every imported module, and `module.name` for each name imported from one."""
    return frozenset(_find_imports(path))


def _find_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _all_modules() -> list[str]:
    return [_module_name(path) for path in _source_files()]


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_lies_below_it(package):
    for path in (ROOT / package).rglob("*.py"):
        tops = {name.split(".")[0] for name in _imported_names(path)}
        forbidden = (tops & set(ALLOWED)) - ALLOWED[package] - {package}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {sorted(forbidden)}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_is_imported_only_where_it_belongs(library):
    for path in _source_files():
        relative = path.relative_to(ROOT).as_posix()
        if library in {name.split(".")[0] for name in _imported_names(path)}:
            assert relative.startswith(ONLY_IN[library]), f"{relative} imports {library}"


def test_modules_import_each_other_without_cycles():
    modules = set(_all_modules())
    graph = {
        _module_name(path): (set(_imported_names(path)) & modules) - {_module_name(path)}
        for path in _source_files()
    }
    TopologicalSorter(graph).prepare()


def _room(module: str) -> str:
    """Return the package and the folder in it, or the whole name of a file beside the rooms."""
    parts = module.split(".")
    is_folder = (ROOT / Path(*parts)).is_dir()
    return ".".join(parts[:2]) if is_folder or len(parts) > 2 else module


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_downwards(package):
    order = [f"{package}.{name}" for name in ROOMS[package]]
    folders = {path.parent for path in (ROOT / package).glob("*/__init__.py")}
    assert {folder.name for folder in folders} == set(ROOMS[package])
    modules = {name for name in _all_modules() if name.startswith(f"{package}.")}
    graph: dict[str, set[str]] = {}
    for path in (ROOT / package).rglob("*.py"):
        room = _room(_module_name(path))
        above = {_room(name) for name in set(_imported_names(path)) & modules} - {room}
        graph.setdefault(room, set()).update(above)
        if room in order:
            forbidden = above & set(order[order.index(room) :])
            assert not forbidden, f"{path.relative_to(ROOT)} imports {sorted(forbidden)}"
    TopologicalSorter(graph).prepare()


def test_packages_have_init_files_and_datasets_has_none():
    for name in ALLOWED:
        for path in (ROOT / name).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"
    assert not list((ROOT / "datasets").rglob("__init__.py"))


def test_everything_imports_without_cuda_and_the_library_without_heavy_packages():
    imports = [f"import {name}" for name in _all_modules()]
    library = [line for line in imports if line.split()[1].split(".")[0] in LIBRARY]
    checks = ["import sys, torch", "print(*sys.modules)", "assert not torch.cuda.is_available()"]
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([*library, *checks, *imports])],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    heavy = {"hydra", "omegaconf", "diffusers", "transformers", "setuptools", "triton"}
    assert not heavy & set(result.stdout.split())
