"""Hostile names, absurd numbers and damaged files are user errors in one line, no tracebacks."""

import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ
from mate3d.photo.open_photo import open_photo
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, encode_pair, open_dataset, parse_index
from training.data.format.layout import check_name
from training.data.loader import make_loader
from training.data.preparation.repack import RepackMaker
from training.data.preparation.samples import make_sample
from training.data.preparation.staging import Staging

FIRST = "00000/img00000000.png"
UNSAFE = [
    "../e.png",
    "a/../../e.png",
    "/e.png",
    "a//e.png",
    "a\\e.png",
    "a\0.png",
    "./e.png",
    "",
    "\ud800e.png",
]


def _index(**changes) -> bytes:
    content = {
        "label_set": "catmask_hq",
        "camera_convention": "opencv",
        "labels": [["a.png", [0.0] * 25]],
    }
    return json.dumps({**content, **changes}).encode()


# Names


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_name_is_refused_everywhere(tmp_path, name):
    image, label_map = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    with pytest.raises(UserError, match="^name '.*' is unsafe; use a relative path"):
        check_name(name)
    with pytest.raises(UserError, match="^cats.json: name '.*' is unsafe"):
        parse_index(_index(labels=[[name, [0.0] * 25]]), "cats.json")
    with (
        pytest.raises(UserError, match="is unsafe"),
        DatasetWriter(tmp_path / "data", CATMASK_HQ) as writer,
    ):
        writer.add(name, image, label_map, [0.0] * 25)
    sample = make_sample(name, image, label_map, CATMASK_HQ, [0.0] * 25)
    with (
        pytest.raises(UserError, match="is unsafe"),
        Staging(tmp_path / "output", {}, {}) as staging,
    ):
        staging.add(sample)
    assert not list(tmp_path.parent.rglob("e.png"))


@pytest.mark.parametrize("name", ["a.png", "sub.folder/..b/c..png", "ß/x y.png"])
def test_usual_name_is_accepted(name):
    check_name(name)


def test_writer_refuses_other_suffixes_and_repeats(tmp_path):
    pngs = encode_pair(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), CATMASK_HQ)
    with DatasetWriter(tmp_path / "data", CATMASK_HQ) as writer:
        with pytest.raises(UserError, match="name a.PNG of an image must end in .png"):
            writer.add_encoded("a.PNG", *pngs, [0.0] * 25)
        with pytest.raises(UserError, match="repeats=1001 of a.png must be in 1..1000"):
            writer.add_encoded("a.png", *pngs, [0.0] * 25, repeats=1001)


def test_repacking_writes_capital_suffixes_small(dataset_folder):
    capital = FIRST.replace(".png", ".PNG")
    _rename(dataset_folder, FIRST, capital)
    jobs = RepackMaker(str(dataset_folder), None, None).jobs()
    assert jobs[0].names == (FIRST,)
    (sample,) = RepackMaker(str(dataset_folder), None, None)(jobs[0])
    assert sample.name == FIRST and sample.caption == ""


def test_repacking_refuses_names_that_differ_in_the_suffix_only(dataset_folder):
    _rename(dataset_folder, "00000/img00000001.png", FIRST.replace(".png", ".PNG"))
    with pytest.raises(UserError, match=f"two images that would be called {FIRST}"):
        RepackMaker(str(dataset_folder), None, None).jobs()


def _rename(folder: Path, old: str, new: str) -> None:
    for kind in ("images", "masks"):
        (folder / kind / old).rename(folder / kind / new)
    index = json.loads((folder / "dataset.json").read_text())
    index["labels"] = [[new if name == old else name, camera] for name, camera in index["labels"]]
    (folder / "dataset.json").write_text(json.dumps(index))


# dataset.json

INDEXES = {
    "deep": (b"[" * 100_000, "is not valid JSON: it is nested too deeply"),
    "long number": (b"1" * 5000, "is not valid JSON: "),
    "deep entry": (_index(labels=[[[[[[[["x"]]]]]]]]), r"entry \[+.* of 'labels' is not"),
    "10**400": (_index(labels=[["a.png", [10**400] * 25]]), "a.png has 0 numbers of 25 values"),
    "1e300": (_index(labels=[["a.png", [1e300] * 25]]), "a.png has 0 numbers of 25 values"),
    "true": (_index(labels=[["a.png", [True] * 25]]), "a.png has 0 numbers of 25 values"),
    "twice": (_index(labels=[["a.png", [0.0] * 25]] * 2), "lists a.png twice in 'labels'"),
    "repeats": (_index(repeats={"a.png": 10**30}), "'repeats' must .* whole numbers of 1..1000"),
    "true repeats": (_index(repeats={"a.png": True}), "'repeats' must map image names to whole"),
    "residual": (_index(camera_residuals={"a.png": 10**400}), "'camera_residuals' must map"),
    "attribute": (_index(attributes={"a.png": {"size": [10**400]}}), "'attributes' must map"),
    "unlabelled": (_index(label_set="dogs"), r"unknown label set 'dogs'; use one of: [^u]*sofgan$"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_absurd_index_is_one_line(name):
    content, message = INDEXES[name]
    with pytest.raises(UserError, match=message) as info:
        parse_index(content, "cats.json")
    assert "\n" not in str(info.value) and len(str(info.value)) < 400


def test_wrapping_folder_of_a_zip_is_named(dataset_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "wrapped.zip", "w") as archive:
        archive.write(dataset_folder / "dataset.json", "cats/dataset.json")
    with pytest.raises(UserError, match="at its top; cats/dataset.json is there: move what"):
        open_dataset(tmp_path / "wrapped.zip")


def test_backslashes_of_a_zip_are_named(dataset_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        archive.write(dataset_folder / "dataset.json", "dataset.json")
        archive.writestr("images\\a.png", b"")
    with pytest.raises(UserError, match=r"names with backslashes, first images\\a.png; pack it"):
        open_dataset(tmp_path / "windows.zip")


# Damaged files


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def _bomb() -> bytes:
    """Return a PNG whose header claims 60000 x 60000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"0"))


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_picture_that_claims_to_be_huge_is_skipped(dataset_folder, kind, num_workers):
    (dataset_folder / kind / FIRST).write_bytes(_bomb())
    dataset = PortraitDataset(dataset_folder)
    with pytest.raises(UserError, match="is not a readable image: .*3600000000 pixels"):
        dataset[0]
    stream = make_loader(dataset, batch_size=6, num_workers=num_workers)
    assert "cat number 0" not in next(stream)["caption"] and stream.num_unreadable == 1


def test_photo_that_claims_to_be_huge_is_named(tmp_path):
    (tmp_path / "bomb.png").write_bytes(_bomb())
    with pytest.raises(UserError, match="bomb.png is damaged or truncated: "):
        open_photo(tmp_path / "bomb.png")


def _recompress(path: Path, method: int) -> bytearray:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return bytearray(path.read_bytes())


def _damage_member(path: Path, method: int) -> None:
    content = _recompress(path, method)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo(f"masks/{FIRST}").header_offset + 30 + len(f"masks/{FIRST}")
    content[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(content)


def _set_directory_field(path: Path, offset: int, value: int) -> None:
    """Change 2 bytes of the member's record in the directory at the end of the zip."""
    content = bytearray(path.read_bytes())
    name = f"masks/{FIRST}".encode()
    start = content.rindex(name) - 46
    content[start + offset : start + offset + 2] = struct.pack("<H", value)
    local = content.index(name) - 30
    content[local + offset - 2 : local + offset] = struct.pack("<H", value)
    path.write_bytes(content)


ZIP_DAMAGES = {
    "deflate": lambda path: _damage_member(path, zipfile.ZIP_DEFLATED),
    "lzma": lambda path: _damage_member(path, zipfile.ZIP_LZMA),
    "bzip2": lambda path: _damage_member(path, zipfile.ZIP_BZIP2),
    "encrypted": lambda path: _set_directory_field(path, 8, 1),
    "unknown method": lambda path: _set_directory_field(path, 10, 77),
}


@pytest.mark.parametrize("name", ZIP_DAMAGES)
def test_damaged_member_of_a_zip_is_skipped(dataset_zip, name):
    ZIP_DAMAGES[name](dataset_zip)
    dataset = PortraitDataset(dataset_zip)
    with pytest.raises(UserError, match=f"archive .* is damaged at masks/{FIRST}: "):
        dataset[0]
    stream = make_loader(dataset, batch_size=6)
    assert "cat number 0" not in next(stream)["caption"] and stream.num_unreadable == 1


class _Broken(PortraitDataset):
    def __getitem__(self, index):
        raise ZeroDivisionError("a mistake in the program")


def test_programming_error_in_a_worker_keeps_its_traceback(dataset_folder):
    stream = make_loader(_Broken(dataset_folder), batch_size=2, num_workers=1)
    with pytest.raises(ZeroDivisionError, match="(?s)Traceback .*__getitem__.*a mistake in the"):
        next(stream)
