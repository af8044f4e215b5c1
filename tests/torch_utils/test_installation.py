"""Wheels hold the kernels where nvcc is, their sources everywhere, and work from any folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREBUILT = "torch_utils/ops/prebuilt/mate3d_kernels.so"

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path, toolkit) -> Path:
    """A copy of what building needs, since it leaves files behind."""
    folder = tmp_path / "project"
    _copy(folder, "torch_utils", "configs")
    (folder / "mate3d").mkdir()
    for name in ("mate3d/__init__.py", "setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def _copy(folder: Path, *packages: str) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for name in packages:
        shutil.copytree(ROOT / name, folder / name, ignore=ignore, dirs_exist_ok=True)


def _pip(project: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    command, *rest = words
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--no-index"]
    return subprocess.run(
        [sys.executable, "-m", "pip", command, "-v", *options, *rest, str(project)],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )


def _make_wheel(project: Path, **variables: str) -> tuple[Path, set[str]]:
    """Return a wheel and the names in it."""
    out = project.parent / "wheels"
    result = _pip(project, "wheel", "-w", str(out), **variables)
    if result.returncode != 0:
        raise RuntimeError(result.stdout)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return wheel, set(archive.namelist())


def test_wheel_holds_kernels_and_their_description_and_serves_every_python(project):
    wheel, names = _make_wheel(project, TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX")
    assert "-cp310-abi3-linux_" in wheel.name
    assert {PREBUILT, "torch_utils/ops/csrc/bias_act.cu"} <= names
    assert not [name for name in names if name.endswith((".o", ".log"))]
    with zipfile.ZipFile(wheel) as archive:
        info = json.loads(archive.read(PREBUILT.replace(".so", ".json")))
    assert info["codes"] == ["sm_80", "sm_90", "compute_90"]


def test_without_kernels_the_wheel_holds_sources_and_is_for_all_platforms(project):
    wheel, names = _make_wheel(project, MATE3D_OPS="pytorch")
    assert wheel.name.endswith("-py3-none-any.whl")
    sources = (project / "torch_utils/ops/csrc").iterdir()
    assert {f"torch_utils/ops/csrc/{path.name}" for path in sources} <= names - {PREBUILT} == names


def test_compiler_errors_stop_only_an_installation_that_demands_kernels(project, toolkit):
    toolkit.write_nvcc(compiling="echo 'error: broken'; exit 1")
    with pytest.raises(RuntimeError, match="the compiler failed: error: broken"):
        _make_wheel(project, MATE3D_OPS="kernels")
    _, names = _make_wheel(project)
    assert not [name for name in names if name.startswith("torch_utils/ops/prebuilt")]


def test_editable_installation_compiles_nothing(project, toolkit):
    target = project.parent / "site"
    result = _pip(project, "install", "--target", str(target), "--editable")
    assert result.returncode == 0, result.stdout
    assert toolkit.calls == []
    assert list(target.glob("*mate3d*"))


def test_installed_commands_work_from_any_folder(project, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("MATE3D_OPS", "pytorch")
    _copy(project, "mate3d", "training", "editing", "scripts")
    wheel, _ = _make_wheel(project)
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    programs = _make_environment(environment, wheel)

    def run(name: str, *words: str) -> str:
        command = [programs / name, *words]
        result = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    code = "import mate3d; print(mate3d.__file__, 'Generator' in dir(mate3d), mate3d.__version__)"
    file, has_generator, version = run("python", "-c", code).split()
    assert environment in Path(file).parents
    assert has_generator == "True" and f"mate3d-{version}-" in wheel.name
    run("mate3d-edit", "experiment=demo_cat_ears", "debug=tiny", "output=edited")
    run("mate3d-generate", "generator=demo_cat", "seeds=0", "output=cats")
    assert (elsewhere / "edited/report.html").is_file() and list(elsewhere.glob("cats/*.png"))
    assert "python -m scripts.train" in run("mate3d-train", "--help")
    assert "bias_act" in run("mate3d-doctor")
    assert (programs / "mate3d-train-features").is_file()


def _make_environment(folder: Path, wheel: Path) -> Path:
    """Install the wheel beside this Python's libraries; return where the programs are."""
    venv.create(folder)
    python = venv.EnvBuilder().ensure_directories(folder).env_exe
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout
    # Without the editable installation there, whose own .pth is not read.
    Path(own.strip(), "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "--python", python, "install", *options, str(wheel)]
    subprocess.run(command, check=True)
    return Path(python).parent
