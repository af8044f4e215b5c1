"""The kernels are compiled once, whatever processes, kills, damage and file systems do."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.fake_toolkit import FakeToolkit, make_toolkit, write_script
from torch_utils.kernel_build import cache, library, toolchain
from torch_utils.kernel_build.library import CompileError, check_library
from torch_utils.kernel_build.toolchain import BuildError, Toolchain, find_toolchain

ROOT = Path(__file__).parents[2]
GPU = [(8, 0)]

# What a process does at its first CUDA tensor, without one.
_BUILD = """
from torch_utils.kernel_build import cache
from torch_utils.kernel_build.toolchain import find_toolchain
print(cache.find_or_build(find_toolchain(), ["8.0"]))
"""


@pytest.fixture
def toolkit(tmp_path) -> FakeToolkit:
    return make_toolkit(tmp_path / "toolkit")


@pytest.fixture
def sources(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "csrc"
    folder.mkdir()
    for name in ("one.cu", "two.cu", "common.cuh"):
        (folder / name).write_text(f"// {name}\n")
    monkeypatch.setattr(library, "SOURCE_FOLDER", folder)
    return folder


@pytest.fixture
def tools(toolkit, sources, tmp_path, monkeypatch) -> Toolchain:
    for name, value in toolkit.environment(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(toolchain, "driver_version", lambda: None)
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return find_toolchain()


def _start(toolkit: FakeToolkit, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", _BUILD],
        cwd=ROOT,
        env=toolkit.environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within a minute"
        time.sleep(0.02)


def test_others_may_read_a_shared_cache(tools):
    entry = cache.find_or_build(tools, ["8.0"])
    for path in (entry.parent.parent, entry, *entry.iterdir()):
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_second_call_compiles_nothing(tools, toolkit):
    entry = cache.find_or_build(tools, ["8.0"])
    assert len(toolkit.calls) == 2
    assert cache.find_or_build(tools, ["8.0"]) == entry
    assert len(toolkit.calls) == 2
    assert sorted(path.name for path in entry.parent.iterdir()) == [
        entry.name,
        f"{entry.name}.lock",
    ]


def test_other_sources_headers_flags_compilers_or_gpus_are_other_entries(
    tools, toolkit, sources, monkeypatch
):
    entries = [cache.find_or_build(tools, ["8.0"])]
    entries.append(cache.find_or_build(tools, ["9.0"]))
    (sources / "common.cuh").write_text("// changed\n")
    entries.append(cache.find_or_build(tools, ["8.0"]))
    toolkit.write_nvcc(release="13.1")
    entries.append(cache.find_or_build(find_toolchain(), ["8.0"]))
    write_script(toolkit.host, "#!/bin/sh\necho 'g++ (fake) 14.1.0'\n")
    entries.append(cache.find_or_build(find_toolchain(), ["8.0"]))
    monkeypatch.setattr(library, "_COMPILE_FLAGS", ("-O0",))
    entries.append(cache.find_or_build(find_toolchain(), ["8.0"]))
    monkeypatch.setattr(cache, "system_libc", lambda: "glibc-2.17")
    monkeypatch.setattr(library, "system_libc", lambda: "glibc-2.17")
    entries.append(cache.find_or_build(find_toolchain(), ["8.0"]))
    assert len(set(entries)) == len(entries)


def test_library_for_more_gpus_serves_each_of_them(tools, toolkit):
    entry = cache.find_or_build(tools, ["8.0", "9.0+PTX"])
    for architecture in ("8.6", "9.0", "12.0"):
        assert cache.find_or_build(tools, [architecture]) == entry
    assert len(toolkit.calls) == 2


def test_sources_that_change_during_a_build_spoil_no_entry(tools, toolkit, sources):
    toolkit.write_nvcc(compiling=f"echo '// changed' >> '{sources / 'common.cuh'}'")
    with pytest.raises(BuildError, match="changed while they were compiled"):
        cache.find_or_build(tools, ["8.0"])
    assert cache.find_entry(()) is None


def test_without_tools_a_library_compiled_before_is_found(tools):
    assert cache.find_entry(GPU) is None
    entry = cache.find_or_build(tools, ["8.0"])
    assert cache.find_entry(GPU) == entry
    assert cache.find_entry([(7, 5)]) is None


@pytest.mark.parametrize("with_ninja", [True, False])
def test_library_is_the_same_with_and_without_ninja(tools, tmp_path, with_ninja):
    if with_ninja and tools.ninja is None:
        pytest.skip("no ninja: the build through it did not run")
    ninja = tools.ninja if with_ninja else None
    tools = Toolchain(tools.nvcc, tools.host, ninja, tools.torch_folder)
    path = library.compile_library(tmp_path / "a folder $x", tools, ("sm_80",))
    words = path.read_text().split()
    assert words[words.index("-ccbin") + 2 :][:2] == ["one.o", "two.o"]
    assert "-ltorch_cuda" in words
    assert check_library(path.parent, GPU).codes == ("sm_80",)


@pytest.mark.parametrize("damage", ["truncated", "missing", "no description", "half a description"])
def test_damaged_entry_is_compiled_again(tools, toolkit, damage):
    entry = cache.find_or_build(tools, ["8.0"])
    path = entry / library.LIBRARY_NAME
    description = entry / "mate3d_kernels.json"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "missing":
        path.unlink()
    elif damage == "no description":
        description.unlink()
    else:
        description.write_text(description.read_text()[:50])
    assert cache.find_entry(GPU) is None
    assert cache.find_or_build(tools, ["8.0"]) == entry
    assert len(toolkit.calls) == 4
    check_library(entry, GPU)


def test_compiler_errors_are_kept_and_quoted_and_not_repeated(tools, toolkit):
    toolkit.write_nvcc(compiling="echo 'one.cu(3): error: no such thing'; exit 2")
    with pytest.raises(CompileError, match=r"failed: one\.cu\(3\): error: no such thing") as caught:
        cache.find_or_build(tools, ["8.0"])
    log = caught.value.log
    assert "no such thing" in log.read_text()
    assert str(log) in caught.value.remedy
    num_calls = len(toolkit.calls)
    with pytest.raises(CompileError, match=r"no such thing \(0 minutes ago\)"):
        cache.find_or_build(tools, ["8.0"])
    assert len(toolkit.calls) == num_calls
    toolkit.write_nvcc()
    entry = cache.find_or_build(tools, ["8.0"], retry=True)
    assert not log.exists()
    assert [path for path in entry.parent.iterdir() if path.name.startswith(".")] == []


def test_old_failure_is_tried_again(tools, toolkit):
    toolkit.write_nvcc(compiling="echo error; exit 2")
    with pytest.raises(CompileError) as caught:
        cache.find_or_build(tools, ["8.0"])
    toolkit.write_nvcc()
    hours_ago = time.time() - 2 * 3600
    os.utime(caught.value.log, (hours_ago, hours_ago))
    cache.find_or_build(tools, ["8.0"])


def test_compiler_that_hangs_is_ended_with_all_it_started(tools, toolkit, monkeypatch):
    toolkit.write_nvcc(compiling="sleep 60")
    monkeypatch.setattr(library, "_BUILD_SECONDS", 1.0)
    with pytest.raises(CompileError, match="did not end within"):
        cache.find_or_build(tools, ["8.0"])
    assert toolkit.calls
    _wait_for(lambda: not any(map(_is_running, toolkit.calls)), "end of the compiler")


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_two_processes_at_once_compile_once_and_both_get_the_library(toolkit, tmp_path):
    toolkit.write_nvcc(compiling="sleep 0.5")
    processes = [_start(toolkit, tmp_path / "cache") for _ in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert results[0][0] == results[1][0] != ""
    assert len(toolkit.calls) == len(library.library_sources())


def test_killed_build_leaves_neither_a_lock_nor_a_half_library(toolkit, tmp_path):
    toolkit.write_nvcc(compiling="exec sleep 60")
    process = _start(toolkit, tmp_path / "cache")
    try:
        _wait_for(lambda: toolkit.calls, "compilation")
        assert len(list((tmp_path / "cache" / "kernels").glob("*.lock"))) == 1
    finally:
        process.kill()
        process.communicate()
    toolkit.write_nvcc()
    num_calls = len(toolkit.calls)
    try:
        output, errors = _start(toolkit, tmp_path / "cache").communicate(timeout=60)
    finally:
        for orphan in toolkit.calls[:num_calls]:
            if _is_running(orphan):
                os.kill(orphan, signal.SIGKILL)
    check_library(Path(output.strip()), GPU)
    assert "waiting" not in errors


def test_lock_that_is_held_for_ever_does_not_block_for_ever(tools, monkeypatch, caplog):
    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.5)
    name = cache._entry_name(tools, ("sm_80",))
    folder = cache.chosen_folder()
    folder.mkdir(parents=True)
    with FileLock(folder / f"{name}.lock"):
        check_library(cache.find_or_build(tools, ["8.0"]), GPU)
    assert "another process compiles" in caplog.text
    assert "going on without it" in caplog.text


def test_file_system_without_locks_is_good_enough(tools, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(cache.FileLock, "acquire", refuse)
    check_library(cache.find_or_build(tools, ["8.0"]), GPU)


def test_slower_of_two_processes_without_lock_takes_the_library_of_the_faster(tools, tmp_path):
    entry = cache.find_or_build(tools, ["8.0"])
    slower = tmp_path / "cache" / "kernels" / ".slower"
    library.compile_library(slower, tools, ("sm_80",))
    before = (entry / library.LIBRARY_NAME).stat().st_ino
    cache._publish(slower, entry)
    assert (entry / library.LIBRARY_NAME).stat().st_ino == before


def test_leftovers_of_killed_builds_are_removed_once_old(tools):
    folder = cache.chosen_folder()
    name = cache._entry_name(tools, ("sm_80",))
    old, recent = folder / ".another-old", folder / f".{name}-recent"
    for path in (old, recent):
        path.mkdir(parents=True)
    day_ago = time.time() - 24 * 3600
    os.utime(old, (day_ago, day_ago))
    cache.find_or_build(tools, ["8.0"])
    assert not old.exists()
    assert recent.exists()


def test_unwritable_cache_gives_way_to_a_private_temporary_one(
    tools, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MATE3D_CACHE", str(tmp_path / "file" / "cache"))
    entry = cache.find_or_build(tools, ["8.0"])
    assert entry.parent == tmp_path / "tmp" / f"mate3d-{os.getuid()}" / "kernels"
    assert entry.parent.parent.stat().st_mode & 0o777 == 0o700
    assert "is not writable; using" in caplog.text
    assert cache.find_entry(GPU) == entry


def test_temporary_folder_that_others_can_write_in_is_not_trusted(tools, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MATE3D_CACHE", str(tmp_path / "file" / "cache"))
    entry = cache.find_or_build(tools, ["8.0"])
    entry.parent.parent.chmod(0o777)
    assert cache.find_entry(GPU) is None
    with pytest.raises(BuildError, match="cannot be kept: .* is not writable. Name a writable"):
        cache.find_or_build(tools, ["8.0"])


def test_library_in_a_cache_that_cannot_be_written_is_used(tools, toolkit, tmp_path, monkeypatch):
    entry = cache.find_or_build(tools, ["8.0"])
    monkeypatch.setattr(cache, "is_writable", lambda folder: False)
    assert cache.find_or_build(tools, ["8.0"]) == entry


def test_full_disk_is_named(tools, monkeypatch):
    def refuse(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library.os, "replace", refuse)
    with pytest.raises(BuildError, match=r"No space left on device.*MATE3D_CACHE"):
        cache.find_or_build(tools, ["8.0"])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MATE3D_CACHE": "/a", "TORCH_EXTENSIONS_DIR": "/b"}, "/a/kernels"),
        ({"TORCH_EXTENSIONS_DIR": "/b", "XDG_CACHE_HOME": "/c"}, "/b/mate3d/kernels"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/d"}, "/c/mate3d/kernels"),
        ({"HOME": "/d"}, "/d/.cache/mate3d/kernels"),
    ],
)
def test_cache_folder_is_chosen_by_variables(monkeypatch, variables, expected):
    for name in ("MATE3D_CACHE", "TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.chosen_folder() == Path(expected)
