"""Downloads are described, resumed after a kill, verified, and never overwrite another file."""

import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mate3d.checkpoints.hub import download_file, read_repository
from mate3d.errors import UserError
from scripts.download_weights import main
from tests.hub_server import Fault, HubServer, use_hub

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


def test_file_is_described_downloaded_once_and_verified(hub, capsys):
    main(words())
    assert Path("weights/face.pkl").read_bytes() == CONTENT
    assert [path.name for path in Path("weights").iterdir()] == ["face.pkl"]
    text = capsys.readouterr().out
    commit = hub.repositories[REPO].branches["main"]
    for fact in (REPO, f"main (commit {commit})", "cc-by-nc-4.0", "3.0 MB", SHA256):
        assert fact in text
    main(words())
    assert len(hub.downloads()) == 1


def test_all_snapshots_are_taken_unless_some_files_are_named(hub):
    hub.repositories[REPO].commit({"sub/a.pkl": b"1", "2.pkl": b"2", "notes.txt": b"3"})
    main(words("files="))
    assert set(Path("weights").rglob("*.*")) == {Path("weights/sub/a.pkl"), Path("weights/2.pkl")}
    main([*words("files=sub/a.pkl,notes.txt"), "output=named"])
    assert set(Path("named").rglob("*.*")) == {Path("named/sub/a.pkl"), Path("named/notes.txt")}


def test_listing_names_all_files_and_downloads_nothing(hub, capsys):
    hub.repositories[REPO].license = None
    main(words("list=true"))
    text = capsys.readouterr().out
    assert f"face.pkl, 3.0 MB, SHA-256 {SHA256}" in text
    assert "README.md, 10 bytes, git blob" in text and "licence   not stated" in text
    assert not hub.downloads() and not Path("weights").exists()


def test_download_killed_in_the_middle_is_continued(hub):
    hub.repositories[REPO].commit({"face.pkl": BIG})
    hub.faults = [Fault("stall", 2 * BLOCK + 1000)]
    process = multiprocessing.get_context("fork").Process(target=main, args=(words(),))
    process.start()
    sha256 = hashlib.sha256(BIG).hexdigest()
    partial = Path(f"weights/face.pkl.{sha256[:12]}.incomplete")
    deadline = time.monotonic() + 60
    while not partial.exists() or partial.stat().st_size < 2 * BLOCK:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
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


@pytest.mark.parametrize("size", [0, 1000, len(CONTENT), len(CONTENT) + 1000])
def test_corrupt_content_is_refused_and_deleted_and_the_next_run_succeeds(hub, capsys, size):
    if size == 0:
        hub.faults = [Fault("corrupt", 1_234_567)]
    Path("weights").mkdir()
    Path(f"weights/face.pkl.{SHA256[:12]}.incomplete").write_bytes(b"x" * size)
    assert "the download was deleted" in fails(capsys)
    assert not list(Path("weights").iterdir())
    main(words())
    assert Path("weights/face.pkl").read_bytes() == CONTENT


def test_small_file_is_verified_by_its_git_id(hub):
    info = read_repository(REPO, "main")
    readme = info.siblings[0]
    assert download_file(info, readme, "good").read_bytes() == b"# Weights\n"
    readme.blob_id = "0" * 40
    with pytest.raises(UserError, match=f"instead of {readme.blob_id}"):
        download_file(info, readme, "bad")
    assert not list(Path("bad").iterdir())


def test_users_checksum_is_compared_before_the_download(hub, capsys):
    assert "(expected" in fails(capsys, f"sha256={'a' * 64}")
    assert not hub.downloads()
    main(words(f"sha256={SHA256.upper()}"))
    assert Path("weights/face.pkl").exists()
    hub.repositories[REPO].commit({"a.pkl": b"1", "b.pkl": b"2"})
    assert "name one of a.pkl, b.pkl" in fails(capsys, f"sha256={SHA256}")


@pytest.mark.parametrize("content", [b"mine", CONTENT[:-1] + b"!"])
def test_other_file_of_that_name_is_never_overwritten(hub, capsys, content):
    Path("weights").mkdir()
    Path("weights/face.pkl").write_bytes(content)
    assert "exists but is a different file" in fails(capsys)
    assert Path("weights/face.pkl").read_bytes() == content
    assert not hub.downloads()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("repo_id=nobody/nothing", "the hub has no public model nobody/nothing"),
        ("repo_id=a/b/c", "is not a hub id"),
        ("revision=v9", "has no revision v9"),
        ("files=[cat.pkl]", "has no file cat.pkl; its files are README.md, face.pkl"),
        ("sha256=12ab", "use 64 hexadecimal digits"),
        ("output=file", "File exists: 'file'"),
    ],
)
def test_mistake_is_one_line_and_code_2(hub, capsys, option, message):
    Path("file").touch()
    assert message in fails(capsys, option)


def test_repositories_that_give_no_snapshot_are_one_line_each(hub, capsys, monkeypatch):
    hub.repositories[REPO].commit({"model.onnx": b"1"})
    assert "its files are model.onnx" in fails(capsys)
    hub.repositories[REPO].commit({"../../evil.pkl": CONTENT})
    assert "points outside the output folder" in fails(capsys)
    hub.repositories[REPO].status = 403
    assert f"accept its terms at {hub.endpoint}/{REPO}, then log in" in fails(capsys)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert f"no connection to http://127.0.0.1:9/{REPO}" in fails(capsys)


def test_full_disk_is_said_before_the_download(hub, capsys, monkeypatch):
    usage = shutil.disk_usage(".")._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "weights has 1.0 MB free, but 3.0 MB more are needed" in fails(capsys)
    assert not hub.downloads()


def test_token_goes_to_the_hub_but_not_to_its_storage_nor_to_the_logs(hub, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    main(words())
    by_path = {r.path: r.authorization for r in hub.requests}
    assert by_path[f"/api/models/{REPO}/revision/main"] == "Bearer hf_verysecret"
    assert {r.authorization for r in hub.downloads()} == {None}
    captured = capsys.readouterr()
    logs = "".join(path.read_text() for path in Path("run").iterdir())
    assert "hf_verysecret" not in captured.out + captured.err + logs
