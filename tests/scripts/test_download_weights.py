"""Downloads are described, resumed after a kill, verified, and never overwrite another file."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mate3d.checkpoints.hub_download import HubFile, HubRepository, download_file
from mate3d.errors import UserError
from scripts._compose import compose_config
from scripts.download_weights import main
from tests.hub_server import Fault, HubServer, hub_environment, use_hub

REPO = "authors/weights"
CONTENT = np.random.default_rng(0).bytes(3_000_000)
# The hub's client writes blocks of 10 MiB, so this one is on disk in part.
BIG = np.random.default_rng(1).bytes(25 << 20)
BLOCK = 10 << 20
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer().running() as server:
        use_hub(server, tmp_path / "cache", monkeypatch)
        monkeypatch.chdir(tmp_path)
        server.add(REPO, {"face.pkl": CONTENT, "README.md": b"# Weights\n"}, license="cc-by-nc-4.0")
        yield server


def words(*options: str) -> list[str]:
    return [f"repo_id={REPO}", "paths.run_folder=run", "output=weights", *options]


def fails(capsys: pytest.CaptureFixture, *options: str) -> str:
    """Run the script, which must end with code 2 and one line; return the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(words(*options))
    assert stopped.value.code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def test_file_is_described_downloaded_and_verified(hub, capsys):
    main(words())
    assert Path("weights/face.pkl").read_bytes() == CONTENT
    assert [path.name for path in Path("weights").iterdir()] == ["face.pkl"]
    text = capsys.readouterr().out
    commit = hub.repositories[REPO].branches["main"]
    for fact in (REPO, f"main (commit {commit})", "cc-by-nc-4.0", "3.0 MB", SHA256):
        assert fact in text
    assert text.splitlines()[-1].strip() == (
        "python -m scripts.convert_checkpoint source=weights/face.pkl output=checkpoints/face"
    )


def test_next_command_can_be_pasted_whatever_the_name(hub, capsys):
    hub.repositories[REPO].commit({"my face (1), it's=best.pkl": b"1"})
    main(words())
    python, option, module, *options = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert (python, option, module) == ("python", "-m", "scripts.convert_checkpoint")
    config = compose_config("convert_checkpoint", options)
    assert Path(config.source).read_bytes() == b"1"
    assert config.output == "checkpoints/my face (1), it's=best"


@pytest.mark.parametrize("files", ["a.pkl,2.pkl", "[a.pkl,2.pkl]", "a.pkl, 2.pkl"])
def test_files_are_named_with_commas_or_as_a_list(hub, files):
    hub.repositories[REPO].commit({"a.pkl": b"1", "2.pkl": b"2", "c.pkl": b"3"})
    main(words(f"files={files}"))
    assert {path.name for path in Path("weights").iterdir()} == {"a.pkl", "2.pkl"}


def test_missing_license_is_said(hub, capsys):
    hub.repositories[REPO].license = None
    main(words("list=true"))
    assert "licence   not stated; the authors' terms apply" in capsys.readouterr().out


def test_listing_names_all_files_and_downloads_nothing(hub, capsys):
    main(words("list=true"))
    text = capsys.readouterr().out
    assert f"face.pkl, 3.0 MB, SHA-256 {SHA256}" in text
    assert "README.md, 10 bytes, git blob" in text
    assert not hub.downloads()
    assert not Path("weights").exists()


def test_all_snapshots_are_taken_unless_some_are_named(hub):
    files = {"a.pkl": b"first", "sub/b.pkl": b"second", "notes.txt": b"third"}
    hub.repositories[REPO].commit(files)
    main(words())
    assert {p.name for p in Path("weights").rglob("*") if p.is_file()} == {"a.pkl", "b.pkl"}
    main(words("files=notes.txt"))
    assert Path("weights/notes.txt").read_bytes() == b"third"


def test_complete_file_is_not_downloaded_again(hub):
    main(words())
    assert len(hub.downloads()) == 1
    main(words())
    assert len(hub.downloads()) == 1


def start_script(hub: HubServer, folder: Path) -> subprocess.Popen:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.download_weights", *words(f"output={folder / 'weights'}")],
        cwd=folder,
        env=os.environ | hub_environment(hub.endpoint, folder / "home") | {"PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_size(path: Path, size: int) -> None:
    for _ in range(600):
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not grow to {size} bytes")


def test_download_killed_in_the_middle_is_continued(hub, tmp_path):
    hub.repositories[REPO].commit({"face.pkl": BIG})
    hub.faults = [Fault("stall", 2 * BLOCK + 1000)]
    process = start_script(hub, tmp_path)
    sha256 = hashlib.sha256(BIG).hexdigest()
    partial = Path(f"weights/face.pkl.{sha256[:12]}.incomplete")
    wait_for_size(partial, 2 * BLOCK)
    process.kill()
    process.wait()
    assert not Path("weights/face.pkl").exists()
    main(words())
    assert Path("weights/face.pkl").read_bytes() == BIG
    assert [path.name for path in Path("weights").iterdir()] == ["face.pkl"]
    first, second = hub.downloads()
    assert first.range is None
    assert second.range == f"bytes={2 * BLOCK}-"
    assert second.num_sent == len(BIG) - 2 * BLOCK


def test_cut_connection_is_continued_in_the_same_run(hub):
    hub.repositories[REPO].commit({"face.pkl": BIG})
    hub.faults = [Fault("cut", BLOCK + 1000)]
    main(words())
    assert Path("weights/face.pkl").read_bytes() == BIG
    assert [r.range for r in hub.downloads()] == [None, f"bytes={BLOCK}-"]


def test_server_without_ranges_gives_the_right_file_too(hub):
    hub.ignores_ranges = True
    Path("weights").mkdir()
    Path(f"weights/face.pkl.{SHA256[:12]}.incomplete").write_bytes(CONTENT[:1000])
    main(words())
    assert Path("weights/face.pkl").read_bytes() == CONTENT


def test_corrupt_download_is_refused_and_deleted_and_the_next_run_succeeds(hub, capsys):
    hub.faults = [Fault("corrupt", 1_234_567)]
    line = fails(capsys)
    assert "SHA-256" in line
    assert f"instead of {SHA256}; the download was deleted, run it again" in line
    assert not list(Path("weights").iterdir())
    main(words())
    assert Path("weights/face.pkl").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [1000, len(CONTENT), len(CONTENT) + 1000])
def test_damaged_partial_file_is_refused_and_deleted(hub, capsys, size):
    Path("weights").mkdir()
    Path(f"weights/face.pkl.{SHA256[:12]}.incomplete").write_bytes(b"x" * size)
    assert "the download was deleted" in fails(capsys)
    main(words())
    assert Path("weights/face.pkl").read_bytes() == CONTENT


def test_small_file_is_verified_by_its_git_id(hub):
    hub.repositories[REPO].large = ()
    repository = HubRepository(REPO, "main", hub.repositories[REPO].branches["main"], None, ())
    good = hashlib.sha1(b"blob 10\0# Weights\n").hexdigest()
    path = download_file(repository, HubFile("README.md", 10, None, good), "good")
    assert path.read_bytes() == b"# Weights\n"
    with pytest.raises(UserError, match="git blob"):
        download_file(repository, HubFile("README.md", 10, None, "0" * 40), "bad")
    assert not list(Path("bad").iterdir())


def test_users_checksum_is_compared_before_the_download(hub, capsys):
    line = fails(capsys, f"sha256={'a' * 64}")
    assert "is not the expected" in line
    assert not hub.downloads()
    main(words(f"sha256={SHA256.upper()}"))
    assert Path("weights/face.pkl").exists()


def test_other_file_of_that_name_is_never_overwritten(hub, capsys):
    Path("weights").mkdir()
    Path("weights/face.pkl").write_bytes(b"mine")
    assert "exists and is another file (4 bytes instead of 3000000)" in fails(capsys)
    Path("weights/face.pkl").write_bytes(CONTENT[:-1] + b"!")
    fails(capsys)
    assert Path("weights/face.pkl").read_bytes() == CONTENT[:-1] + b"!"
    assert not hub.downloads()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("repo_id=nobody/nothing", "the hub shows no model repository nobody/nothing"),
        ("repo_id=nobody", "no model repository nobody"),
        ("repo_id=a/b/c", "is not a hub id"),
        ("revision=v9", "has no revision v9"),
        ("files=[cat.pkl]", "has no file cat.pkl; it holds README.md, face.pkl"),
        ("sha256=12ab", "has 64 hexadecimal digits"),
        ("output=file", "cannot read or write"),
    ],
)
def test_mistake_is_one_line_and_code_2(hub, capsys, option, message):
    Path("file").touch()
    assert message in fails(capsys, option)


def test_one_checksum_cannot_serve_several_files(hub, capsys):
    hub.repositories[REPO].commit({"a.pkl": b"1", "b.pkl": b"2"})
    assert "name one of a.pkl, b.pkl" in fails(capsys, f"sha256={SHA256}")


def test_repository_without_snapshots_says_what_it_holds(hub, capsys):
    hub.repositories[REPO].commit({"model.onnx": b"1"})
    assert "has no .pkl files; it holds model.onnx" in fails(capsys)


def test_gated_repository_says_what_to_do(hub, capsys):
    hub.repositories[REPO].status = 403
    assert f"accept its terms at {hub.endpoint}/{REPO}, then log in" in fails(capsys)


def test_unreachable_hub_is_one_line(hub, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in fails(capsys)


def test_full_disk_is_said_before_the_download(hub, capsys, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "has 1 MB free, but face.pkl needs 3 MB more" in fails(capsys)
    assert not hub.downloads()


def test_name_that_leads_out_of_the_folder_is_refused(hub, capsys):
    hub.repositories[REPO].commit({"../../evil.pkl": CONTENT})
    assert "leads out of the output folder" in fails(capsys)


def test_token_goes_to_the_hub_but_not_to_its_storage_nor_to_the_logs(hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    main(words())
    by_path = {r.path: r.authorization for r in hub.requests}
    assert by_path[f"/api/models/{REPO}/revision/main"] == "Bearer hf_verysecret"
    assert {r.authorization for r in hub.downloads()} == {None}
    captured = capsys.readouterr()
    logs = "".join(path.read_text() for path in Path("run").iterdir())
    assert "hf_verysecret" not in captured.out + captured.err + logs
