"""The kernels are compiled once, whatever processes, kills, damage and file systems do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from torch_utils.kernel_build import cache, library, toolchain
from torch_utils.kernel_build.library import check_library
from torch_utils.kernel_build.toolchain import BuildError, Toolchain, find_toolchain

ROOT = Path(__file__).parents[2]
GPU = ["8.0"]

# What a process does at its first CUDA tensor, without one.
_BUILD = """
from torch_utils.kernel_build import cache
from torch_utils.kernel_build.toolchain import find_toolchain
print(cache.find_or_build(find_toolchain(), ["8.0"]))
"""


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "csrc"
    folder.mkdir()
    for name in ("one.cu", "two.cu", "common.cuh"):
        (folder / name).write_text(f"// {name}\n")
    monkeypatch.setattr(library, "SOURCE_FOLDER", folder)
    monkeypatch.setattr(toolchain, "SOURCE_FOLDER", folder)
    return folder


@pytest.fixture
def tools(toolkit, sources) -> Toolchain:
    return find_toolchain()


def _start() -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", _BUILD], cwd=ROOT, **pipes)


def _wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within a minute"
        time.sleep(0.02)


def test_library_is_compiled_once_serves_all_its_gpus_and_may_be_read_by_others(tools, toolkit):
    assert cache.find_entry(GPU) is None
    entry = cache.find_or_build(tools, ["8.0", "9.0+PTX"])
    for path in (entry.parent.parent, entry, *entry.iterdir()):
        assert path.stat().st_mode & 0o044 == 0o044, path
    for architecture in ("8.0", "8.6", "9.0", "12.0"):
        assert cache.find_or_build(tools, [architecture]) == entry
        assert cache.find_entry([architecture]) == entry
    assert cache.find_entry(["7.5"]) is None
    assert len(toolkit.calls) == 2
    words = (entry / library.LIBRARY_NAME).read_text().split()
    assert {"one.o", "two.o", "-cudart=static", "-ltorch_cuda"} <= set(words)
    names = {path.name for path in entry.iterdir()}
    assert names == {"mate3d_kernels.so", "mate3d_kernels.json"}


def test_other_sources_headers_flags_compilers_or_gpus_are_other_entries(
    tools, toolkit, sources, monkeypatch
):
    entries = [cache.find_or_build(tools, GPU), cache.find_or_build(tools, ["9.0"])]
    (sources / "common.cuh").write_text("// changed\n")
    entries.append(cache.find_or_build(tools, GPU))
    toolkit.write_nvcc(release="13.1")
    entries.append(cache.find_or_build(find_toolchain(), GPU))
    monkeypatch.setattr(library, "COMPILE_FLAGS", ("-O0",))
    entries.append(cache.find_or_build(find_toolchain(), GPU))
    monkeypatch.setattr(cache, "_libc", lambda: "glibc-2.17")
    entries.append(cache.find_or_build(find_toolchain(), GPU))
    assert len(set(entries)) == len(entries)


def test_sources_that_change_during_a_build_spoil_no_entry(tools, toolkit, sources):
    toolkit.write_nvcc(compiling=f"echo '// changed' >> '{sources / 'common.cuh'}'")
    with pytest.raises(BuildError, match="changed while they were compiled"):
        cache.find_or_build(tools, GPU)
    assert cache.find_entry(()) is None


@pytest.mark.parametrize(
    "damage", ["half a library", "no library", "half a description", "no description"]
)
def test_damaged_entry_is_compiled_again(tools, toolkit, damage):
    entry = cache.find_or_build(tools, GPU)
    path = entry / ("mate3d_kernels.json" if "description" in damage else library.LIBRARY_NAME)
    path.write_bytes(path.read_bytes()[:50])
    if damage.startswith("no "):
        path.unlink()
    assert cache.find_entry(GPU) is None
    assert cache.find_or_build(tools, GPU) == entry
    assert len(toolkit.calls) == 4
    check_library(entry, GPU)


def test_compiler_errors_are_kept_and_quoted_and_repeated_only_after_a_while(tools, toolkit):
    toolkit.write_nvcc(compiling="echo 'one.cu(3): error: no such thing'; exit 2")
    with pytest.raises(BuildError, match=r"failed: one\.cu\(3\): error: no such thing") as caught:
        cache.find_or_build(tools, GPU)
    (log,) = cache.cache_folder().glob("*/build.log")
    assert "no such thing" in log.read_text()
    assert str(log) in caught.value.remedy
    num_calls = len(toolkit.calls)
    with pytest.raises(BuildError, match=r"no such thing \(0 minutes ago\)"):
        cache.find_or_build(tools, GPU)
    assert len(toolkit.calls) == num_calls
    with pytest.raises(BuildError, match="no such thing. "):
        cache.find_or_build(tools, GPU, retry=True)
    toolkit.write_nvcc()
    hours_ago = time.time() - 2 * 3600
    os.utime(log, (hours_ago, hours_ago))
    cache.find_or_build(tools, GPU)
    assert not log.exists()


def test_compiler_that_hangs_is_ended_with_all_it_started(tools, toolkit, monkeypatch):
    toolkit.write_nvcc(compiling="sleep 60")
    monkeypatch.setattr(library, "_BUILD_SECONDS", 1.0)
    with pytest.raises(BuildError, match="did not finish within"):
        cache.find_or_build(tools, GPU)
    assert toolkit.calls
    _wait_for(lambda: not any(map(_is_running, toolkit.calls)), "end of the compiler")


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_setup_can_compile_where_nothing_is_installed():
    # As in pip's isolated builds: no site-packages, so neither PyTorch nor filelock.
    code = "from torch_utils.kernel_build import architectures, library, toolchain"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, env={}, check=True)


def test_two_processes_at_once_compile_once_and_both_get_the_library(toolkit):
    toolkit.write_nvcc(compiling="sleep 0.5")
    processes = [_start() for _ in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0] != ""
    assert len(toolkit.calls) == len(toolchain.library_sources())


def test_killed_build_leaves_neither_a_lock_nor_a_half_library(toolkit, tmp_path):
    toolkit.write_nvcc(compiling="exec sleep 60")
    process = _start()
    try:
        _wait_for(lambda: toolkit.calls, "compilation")
        assert len(list((tmp_path / "cache" / "kernels").glob("*.lock"))) == 1
    finally:
        process.kill()
        process.communicate()
    orphans = toolkit.calls
    toolkit.write_nvcc()
    try:
        output, errors = _start().communicate(timeout=60)
    finally:
        for orphan in filter(_is_running, orphans):
            os.kill(orphan, signal.SIGKILL)
    check_library(Path(output.strip()), GPU)
    assert "waiting" not in errors


def test_lock_that_is_held_for_ever_does_not_block_for_ever(tools, monkeypatch, caplog):
    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.5)
    entry = cache._entry(tools, GPU)
    entry.parent.mkdir(parents=True)
    with FileLock(f"{entry}.lock"):
        check_library(cache.find_or_build(tools, GPU), GPU)
    assert "another process is compiling" in caplog.text


def test_cache_that_cannot_be_written_is_read_and_named(tools, toolkit, tmp_path, monkeypatch):
    entry = cache.find_or_build(tools, GPU)
    monkeypatch.setattr(Path, "mkdir", None)  # whoever may read only makes nothing
    assert cache.find_or_build(tools, GPU) == entry
    monkeypatch.undo()
    (tmp_path / "file").touch()
    toolkit.use(tmp_path / "file" / "cache", monkeypatch)
    with pytest.raises(BuildError, match="cannot be kept in .*MATE3D_CACHE to a writable folder"):
        cache.find_or_build(tools, GPU)


def test_full_disk_is_named_and_leaves_nothing(tools, monkeypatch):
    def refuse(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library.os, "replace", refuse)
    with pytest.raises(BuildError, match=r"No space left on device.*MATE3D_CACHE"):
        cache.find_or_build(tools, GPU)
    assert list(cache._entry(tools, GPU).iterdir()) == []


def test_cache_folder_is_chosen_by_variables(monkeypatch):
    names = ("MATE3D_CACHE", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME", "HOME")
    for name in names:
        monkeypatch.setenv(name, f"/{name}")
    for name, folder in zip(names, ("", "mate3d", "mate3d", ".cache/mate3d"), strict=True):
        assert cache.cache_folder() == Path(f"/{name}", folder, "kernels")
        monkeypatch.delenv(name)
