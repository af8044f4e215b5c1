"""Imports go one way, heavy libraries stay where they belong, and nothing needs CUDA."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mate3d

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
        *("network", "rendering", "checkpoints", "diffusion", "outputs", "photo", "procedural"),
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
    "diffusers": ("mate3d/diffusion/", "editing/guidance/", "training/prior/"),
    "transformers": (
        "mate3d/diffusion/",
        "editing/guidance/",
        "training/prior/",
        "mate3d/photo/pretrained_parts",
        "mate3d/metrics/clip",
    ),
    "accelerate": ("training/supervised_stage",),
    "wandb": ("training/run_folder/observers",),
    "cv2": ("mate3d/photo/detectors",),
    "webdataset": ("training/data/format/", "training/data/shard_stream"),
    "hydra": ("scripts/",),
    "omegaconf": ("scripts/",),
}

SCRIPTS = sorted(
    path.stem for path in (ROOT / "scripts").glob("*.py") if not path.stem.startswith("_")
)
# What --help must not wait for.
SLOW = (
    *("diffusers", "transformers", "torchvision", "torchmetrics", "trimesh"),
    *("scipy.ndimage", "scipy.interpolate", "scipy.optimize", "skimage.measure"),
)
# What Windows does not have.
POSIX_MODULES = ("resource", "fcntl", "termios", "tty", "pty", "pwd", "grp", "syslog")
POSIX_CALLS = (
    *("fork", "killpg", "getpgid", "setsid", "getuid", "geteuid", "nice", "sync", "statvfs"),
    *("register_at_fork", "sched_getaffinity", "uname", "getloadavg", "fchmod", "mkfifo"),
)
POSIX_SIGNALS = ("SIGKILL", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGCHLD", "SIGPIPE")


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


def _run_code(code: str) -> str:
    """Run code in a new process at the root, without GPUs, and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _outside_imports() -> list[str]:
    """Return the import statements at the top of modules, without the project's and POSIX's."""
    statements = set()
    for path in _source_files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                name = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                if name.split(".")[0] not in {*ALLOWED, *POSIX_MODULES}:
                    statements.add(ast.unparse(node))
    return sorted(statements)


@pytest.mark.slow
def test_help_loads_nothing_slow_and_the_library_nothing_heavy():
    # CLIP scores and the 2D prior are imported only when they are asked for.
    modules = {name for name in _all_modules() if not name.startswith("mate3d.diffusion.")}
    modules -= {"mate3d.metrics.clip"}
    library = sorted(name for name in modules if name.split(".")[0] in LIBRARY)
    code = f"""
import importlib, sys
for name in {SCRIPTS}:
    importlib.import_module("scripts." + name).main(["--help"])
print("LOADED", *sys.modules)
for name in {library}:
    importlib.import_module(name)
print("LOADED", *sys.modules)
"""
    by_help, by_library = (set(part.split()) for part in _run_code(code).split("LOADED")[1:])
    assert not set(SLOW) & by_help
    assert not {"diffusers", "transformers", "setuptools", "triton"} & by_library


@pytest.mark.slow
def test_everything_imports_without_cuda_and_posix():
    code = f"""
for statement in {_outside_imports()}:
    exec(statement)
import importlib, os, signal, sys
for name in {POSIX_MODULES}:
    sys.modules[name] = None
for module, names in ((os, {POSIX_CALLS}), (signal, {POSIX_SIGNALS})):
    for name in names:
        delattr(module, name)
for name in {_all_modules()}:
    importlib.import_module(name)
import torch
assert not torch.cuda.is_available()
"""
    _run_code(code)


@pytest.mark.slow
def test_help_costs_at_most_twice_the_import_of_torch():
    def seconds(*words: str) -> float:
        before = _processor_seconds_of_children()
        subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return _processor_seconds_of_children() - before

    torch = min(seconds("-c", "import torch") for _ in range(3))
    for name in SCRIPTS:
        costs = (seconds("-m", f"scripts.{name}", "--help") for _ in range(3))
        assert any(cost <= 2 * torch for cost in costs), f"{name}; torch takes {torch:.2f} s"


def _processor_seconds_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def test_every_script_is_an_installed_command_that_the_docs_name():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    commands = dict(re.findall(r'"(mate3d-[\w-]+)=(.+):main"', setup))
    wanted = [f"scripts.{name}" for name in SCRIPTS] + ["torch_utils.doctor"]
    assert sorted(commands.values()) == sorted(wanted)
    docs = (ROOT / "docs/weights.md").read_text(encoding="utf-8")
    assert not [command for command in commands if f"`{command}`" not in docs]


def test_package_has_a_version_and_shows_the_generator():
    assert re.fullmatch(r"\d+\.\d+\.\d+", mate3d.__version__)
    assert {"Generator", "__version__"} <= set(dir(mate3d))
