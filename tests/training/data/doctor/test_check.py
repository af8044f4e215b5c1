"""Faults are found by name and repaired where they can be; clean data raises no alarm."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mate3d.errors import UserError
from tests.training.data.doctor.broken import Fault, OpenDataset, copy_dataset
from tests.training.data.doctor.camera_faults import CAMERA_FAULTS
from tests.training.data.doctor.file_faults import FILE_FAULTS
from tests.training.data.doctor.mask_faults import MASK_FAULTS
from training.data.doctor import check_dataset, exit_code, fix_dataset
from training.data.doctor.catalogue import CATALOGUE, LEAVES_OUT

FAULTS = {
    f"{fault.code}-{name}": fault
    for faults in (FILE_FAULTS, MASK_FAULTS, CAMERA_FAULTS)
    for name, fault in faults.items()
}


def test_every_kind_of_finding_has_a_fault_that_shows_it() -> None:
    assert {fault.code for fault in FAULTS.values()} == set(CATALOGUE) - {"few_examples"}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault_is_found_with_its_names_and_repaired(
    open_copy, clean_dataset, tmp_path, fault: Fault
) -> None:
    data = open_copy(fault.kind)
    broken = data.names[: fault.number]
    listed = fault.break_data(data, broken)
    if data.index is not None:
        data.save_index()
    diagnosis = check_dataset(data.path)
    codes = {finding.code for finding in diagnosis.findings}
    assert fault.code in codes and codes <= {fault.code, *fault.follows, "few_examples"}
    assert sorted(diagnosis.find(fault.code).names) == sorted(broken if listed is None else listed)
    assert exit_code(diagnosis) == int(CATALOGUE[fault.code].severity != "note")
    output = tmp_path / "repaired"
    if fault.remains is None:
        with pytest.raises(UserError):
            fix_dataset(data.path, "all", output)
        assert not output.exists()
        return
    result = fix_dataset(data.path, "all", output)
    left_out = [one for one in diagnosis.findings if one.kind.fix == LEAVES_OUT]
    assert result.dropped.keys() == {name for one in left_out for name in one.names}
    left = {one.code for one in check_dataset(output).findings if one.kind.severity != "note"}
    assert left == set(fault.remains)
    _assert_equal(OpenDataset(output, data.label_set), clean_dataset(fault.kind), fault)


def _assert_equal(repaired: OpenDataset, clean: Path, fault: Fault) -> None:
    """Compare with the dataset as it was before it was broken."""
    sound = OpenDataset(clean, repaired.label_set)
    cameras = dict(zip(sound.names, sound.cameras(), strict=True))
    for name, camera in zip(repaired.names, repaired.cameras(), strict=True):
        assert repaired.image(name).mode == "RGB" and repaired.image(name).size == (64, 64)
        assert (repaired.mask(name) != sound.mask(name)).mean() <= fault.mask_error, name
        if not fault.remains:
            np.testing.assert_allclose(camera, cameras[name], atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1000, 2000, 3000])
@pytest.mark.parametrize("kind", ["cats", "faces"])
def test_clean_data_raises_no_alarm(clean_dataset, kind: str, seed: int) -> None:
    diagnosis = check_dataset(clean_dataset(kind, seed))
    assert {finding.code for finding in diagnosis.findings} == {"few_examples"}
    assert exit_code(diagnosis) == 0


@pytest.mark.parametrize(("target", "options"), [("d.zip", {}), ("d", {"shard_size": 10})])
def test_zip_and_shards_are_examined_like_folders(
    clean_dataset, tmp_path: Path, target: str, options: dict
) -> None:
    copy = copy_dataset(clean_dataset("cats"), tmp_path / target, **options)
    diagnosis = check_dataset(copy)
    assert {finding.code for finding in diagnosis.findings} == {"few_examples"}
    assert diagnosis.statistics.num_examined == 24


def test_statistics_count_what_is_there(clean_dataset) -> None:
    statistics = check_dataset(clean_dataset("cats")).statistics
    assert (statistics.num_images, statistics.num_masks, statistics.num_cameras) == (24, 24, 24)
    assert statistics.num_captions == 24 and statistics.sizes == (((64, 64), 24),)
    shares = {one.name: one.share_of_pixels for one in statistics.class_frequencies}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
    assert shares["skin"] > shares["eyes"] > 0
    assert statistics.distance == pytest.approx(2.7, abs=1e-4)
    assert statistics.focal == pytest.approx(4.2647, abs=1e-4)
    assert max(map(abs, statistics.yaws)) <= 0.7 and max(map(abs, statistics.pitches)) <= 0.4


def test_sampling_reads_fewer_files_and_still_compares_all_names(open_copy) -> None:
    data = open_copy("cats")
    data.mask_file(data.names[3]).unlink()
    diagnosis = check_dataset(data.path, max_images=5)
    assert diagnosis.statistics.num_examined == 5
    assert diagnosis.find("unpaired").names == (data.names[3],)


def _pack(data: OpenDataset, path: Path, evil: str) -> Path:
    """Pack the dataset into a zip in which item 3 is called `evil`."""
    text = (data.path / "dataset.json").read_text()
    old, new = json.dumps(data.names[3]), json.dumps(evil)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset.json", text.replace(old, new))
        for folder in ("images", "masks"):
            for name in data.names:
                target = evil if name == data.names[3] else name
                archive.writestr(f"{folder}/{target}", (data.path / folder / name).read_bytes())
    return path


@pytest.mark.parametrize("evil", ["../../../evil/e.png", "/{}/evil/e.png"])
@pytest.mark.parametrize("output", ["repaired", "repaired.zip"])
def test_names_that_lead_outside_are_left_out(open_copy, tmp_path, evil, output) -> None:
    evil = evil.format(tmp_path)
    path = _pack(open_copy("cats"), tmp_path / "evil.zip", evil)
    assert check_dataset(path).find("name_unsafe").names == (evil,)
    result = fix_dataset(path, "all", tmp_path / "a/b/c/d" / output)
    assert result.num_written == 23 and result.dropped[evil] == "name_unsafe"
    assert not list(tmp_path.rglob("evil")) and not list(tmp_path.rglob("e.png"))


def test_backslashes_of_a_zip_are_named(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(data.path / "dataset.json", "dataset.json")
        archive.write(data.image_file(data.names[0]), "images\\00000\\a.png")
    assert check_dataset(path).find("name_unsafe").names == ("images\\00000\\a.png",)


INDEXES = {
    "deep": ("[" * 100_000, "index_invalid"),
    "long number": ('{"labels": [["a.png", [1' + "0" * 5000 + "]]]}", "index_invalid"),
    "huge camera": (json.dumps({"labels": [["a.png", [10**400] * 25]]}), "unpaired"),
    "empty names": (json.dumps({"labels": [["", [1] * 25], ["/", [1] * 25]]}), "unpaired"),
    "huge repeats": (json.dumps({"labels": [], "repeats": {"a.png": 10**30}}), "entries_invalid"),
    "infinite": ('{"labels": [], "camera_residuals": {"a.png": Infinity}}', "entries_invalid"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_absurd_index_is_read_without_a_crash(open_copy, name) -> None:
    data = open_copy("cats")
    text, code = INDEXES[name]
    (data.path / "dataset.json").write_text(text)
    diagnosis = check_dataset(data.path, max_images=1)
    assert diagnosis.find(code) and all("\n" not in one.message for one in diagnosis.findings)
