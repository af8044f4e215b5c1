"""Wheels hold the kernels where nvcc is, their sources everywhere, and are never refused."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.fake_toolkit import FakeToolkit, make_toolkit

ROOT = Path(__file__).parents[1]
PREBUILT = "torch_utils/ops/prebuilt/mate3d_kernels.so"

pytestmark = pytest.mark.slow


@pytest.fixture
def toolkit(tmp_path) -> FakeToolkit:
    return make_toolkit(tmp_path / "toolkit")


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of what an installation needs, since building leaves files behind."""
    folder = tmp_path / "project"
    for name in ("torch_utils", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


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


def _make_wheel(project: Path, toolkit: FakeToolkit, **variables: str) -> tuple[Path, str]:
    out = project.parent / "wheels"
    environment = toolkit.environment(project.parent / "cache") | variables
    result = _pip(project, "wheel", "-w", str(out), **environment)
    assert result.returncode == 0, result.stdout
    (wheel,) = out.glob("*.whl")
    return wheel, result.stdout


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_wheel_holds_kernels_and_their_description_and_serves_every_python(project, toolkit):
    wheel, _ = _make_wheel(project, toolkit, TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX")
    assert "-cp310-abi3-linux_" in wheel.name
    assert {PREBUILT, "torch_utils/ops/csrc/bias_act.cu"} <= _names(wheel)
    assert not [name for name in _names(wheel) if name.endswith((".o", ".log", ".ninja"))]
    with zipfile.ZipFile(wheel) as archive:
        info = json.loads(archive.read(PREBUILT.replace(".so", ".json")))
    assert info["codes"] == ["sm_80", "sm_90", "compute_90"]


def test_without_kernels_the_wheel_holds_sources_and_is_for_all_platforms(project, toolkit):
    wheel, _ = _make_wheel(project, toolkit, MATE3D_OPS="pytorch")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert PREBUILT not in _names(wheel)
    sources = {
        f"torch_utils/ops/csrc/{path.name}" for path in (project / "torch_utils/ops/csrc").iterdir()
    }
    assert sources <= _names(wheel)


def test_compiler_errors_do_not_stop_an_installation(project, toolkit):
    toolkit.write_nvcc(compiling="echo 'error: broken'; exit 1")
    wheel, output = _make_wheel(project, toolkit)
    assert not [name for name in _names(wheel) if name.startswith("torch_utils/ops/prebuilt")]
    assert "installing without compiled CUDA kernels: the compiler failed: error: broken" in output


def test_kernels_on_demand_do_stop_it(project, toolkit):
    toolkit.write_nvcc(compiling="echo 'error: broken'; exit 1")
    variables = toolkit.environment(project.parent / "cache") | {"MATE3D_OPS": "kernels"}
    result = _pip(project, "wheel", "-w", str(project.parent / "wheels"), **variables)
    assert result.returncode != 0
    assert "the compiler failed: error: broken" in result.stdout


def test_editable_installation_compiles_nothing(project, toolkit):
    target = project.parent / "site"
    variables = toolkit.environment(project.parent / "cache")
    result = _pip(project, "install", "--target", str(target), "--editable", **variables)
    assert result.returncode == 0, result.stdout
    assert toolkit.calls == []
    assert list(target.glob("*mate3d*"))
