"""What repairs do beyond single faults, and what they refuse."""

import numpy as np
import pytest
from PIL import Image

from mate3d.errors import UserError
from tests.training.data.doctor.broken import OpenDataset, swap_values
from training.data.dataset import PortraitDataset
from training.data.doctor import check_dataset, fix_dataset
from training.data.format import open_dataset


def _break_everything(data: OpenDataset) -> None:
    """Break all cameras and masks in several ways at once, and lose some files."""
    data.change_masks(data.names, lambda mask: swap_values(mask, (4, 5)))
    data.save_grey_masks(data.names, lambda mask: 40 * mask)
    axes, flip = np.diag([1, -1, -1, 1.0]), np.diag([-1, 1, 1, 1.0])
    pixels = np.diag([64, 64, 1])
    data.change_cameras(data.names, lambda pose, k: (flip @ pose @ flip @ axes, pixels @ k))
    data.change_images(data.names[:3], lambda image: image.convert("RGBA"))
    data.image_file(data.names[4]).write_bytes(b"")
    data.mask_file(data.names[5]).unlink()


def test_many_faults_at_once_are_found_and_repaired_in_a_copy(
    open_copy, clean_dataset, tmp_path
) -> None:
    data = open_copy("cats")
    sound = OpenDataset(clean_dataset("cats"), data.label_set)
    _break_everything(data)
    before = {path: path.read_bytes() for path in data.path.rglob("*") if path.is_file()}
    alone = check_dataset(data.path)
    assert {finding.code for finding in alone.findings} == {
        "unpaired",
        "unreadable",
        "image_format",
        "mask_scaled",
        "mouth_nose_swapped",
        "camera_convention",
        "camera_mirrored",
        "few_examples",
    }
    result = fix_dataset(data.path, "all", tmp_path / "fixed.zip", num_workers=1)
    assert result.dropped.keys() == {data.names[4], data.names[5]} and result.num_written == 22
    assert {f.code for f in check_dataset(result.output).findings} == {"few_examples"}
    files, index = open_dataset(result.output)
    kept = [i for i in range(24) if i not in (4, 5)]
    assert list(index.names) == [sound.names[i] for i in kept] and all(index.captions)
    np.testing.assert_allclose(index.cameras, sound.cameras()[kept], atol=1e-5)
    label_map = PortraitDataset(result.output)[0]["label_map"]
    np.testing.assert_array_equal(label_map, sound.mask(sound.names[0]))
    assert before == {path: path.read_bytes() for path in data.path.rglob("*") if path.is_file()}


def test_clean_data_is_copied_byte_for_byte(clean_dataset, tmp_path) -> None:
    result = fix_dataset(clean_dataset("faces"), "all", tmp_path / "copy")
    assert not any(result.repaired.values()) and not result.dropped
    for path in clean_dataset("faces").rglob("*.png"):
        copied = result.output / path.relative_to(clean_dataset("faces"))
        assert copied.read_bytes() == path.read_bytes()


def test_label_set_is_taken_and_what_else_is_known_of_an_item_is_kept(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    name = data.names[0]
    del data.index["label_set"]
    known = {
        "camera_residuals": {name: 0.25},
        "repeats": {name: 3},
        "attributes": {name: {"ear_size": 1.2}},
    }
    data.index |= known | {"preparation": {"seed": 4}}
    data.save_index()
    fix_dataset(data.path, "all", tmp_path / "fixed", label_set="catmask_hq")
    fixed = OpenDataset(tmp_path / "fixed", data.label_set).index
    assert known == {key: fixed[key] for key in known} and fixed["label_set"] == "catmask_hq"
    preparation = fixed["preparation"]
    assert preparation["seed"] == 4 and preparation["repairs"] == ["label_set_unknown"]


def test_only_the_named_repairs_are_made(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.change_masks(data.names, lambda mask: swap_values(mask, (4, 5)))
    data.image_file(data.names[1]).unlink()
    result = fix_dataset(data.path, ["unpaired"], tmp_path / "fixed")
    assert result.dropped.keys() == {data.names[1]}
    codes = {finding.code for finding in check_dataset(tmp_path / "fixed").findings}
    assert codes == {"mouth_nose_swapped", "few_examples"}


def test_a_repair_that_leaves_a_blocking_fault_names_it(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.mask_file(data.names[0]).unlink()
    data.change_images([data.names[1]], lambda image: image.convert("L"))
    with pytest.raises(UserError, match="image_format"):
        fix_dataset(data.path, ["unpaired"], tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


def test_masks_of_mostly_unknown_ids_are_left_out(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.change_masks(data.names[:1], lambda mask: np.where(mask > 0, mask + 72, 0).astype("uint8"))
    result = fix_dataset(data.path, "all", tmp_path / "fixed")
    assert result.dropped.keys() == {data.names[0]}


def test_unusable_codes_and_paths_are_refused(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    for code in ("magic", "few_examples"):
        with pytest.raises(UserError, match=code):
            fix_dataset(data.path, [code], tmp_path / "fixed")
    with pytest.raises(UserError, match=str(data.path)):
        fix_dataset(data.path, "all", data.path, overwrite=True)
    with pytest.raises(UserError, match="not found"):
        check_dataset(tmp_path / "nowhere")
    data.change_images(data.names, lambda image: Image.new("RGB", image.size))
    with pytest.raises(UserError, match="image_blank"):
        fix_dataset(data.path, "all", tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()
