"""What repairs do, and what they refuse."""

import json

import numpy as np
import pytest
from PIL import Image

from mate3d.errors import UserError
from mate3d.label_conversion import find_conversion
from mate3d.labels import CELEBAMASK_HQ, get_label_set
from tests.training.data.doctor.broken import OpenDataset, swap_values
from training.data.dataset import PortraitDataset
from training.data.doctor import check_dataset, fix_dataset
from training.data.format import open_dataset


def _open(path, like: OpenDataset) -> OpenDataset:
    return OpenDataset(path, like.label_set)


def _assert_same_masks(fixed: OpenDataset, clean, names, *, tolerance: float = 0.0) -> None:
    for name in names:
        with Image.open(clean / "masks" / name) as mask:
            expected = np.array(mask)
        assert (fixed.mask(name) != expected).mean() <= tolerance, name


def _assert_same_cameras(fixed: OpenDataset, clean) -> None:
    expected = dict(json.loads((clean / "dataset.json").read_text())["labels"])
    for name, camera in fixed.index["labels"]:
        np.testing.assert_allclose(camera, expected[name], atol=1e-5)


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


def test_many_faults_at_once_are_found_and_repaired(open_copy, clean_dataset, tmp_path) -> None:
    data = open_copy("cats")
    _break_everything(data)
    codes = {finding.code for finding in check_dataset(data.path).findings}
    assert codes == {
        "image_without_mask",
        "image_unreadable",
        "image_mode",
        "mask_multiplied",
        "mouth_nose_swapped",
        "camera_opengl",
        "camera_mirrored",
        "camera_pixels",
        "few_images",
    }
    result = fix_dataset(data.path, "all", tmp_path / "fixed.zip", num_workers=1)
    assert dict(result.dropped).keys() == {data.names[4], data.names[5]}
    assert result.num_written == 22
    assert {f.code for f in check_dataset(result.output).findings} == {"few_images"}
    files, index = open_dataset(result.output)
    assert len(index.names) == 22 and index.captions[0]
    cameras = dict(json.loads((clean_dataset("cats") / "dataset.json").read_text())["labels"])
    for name, camera in zip(index.names, index.cameras, strict=True):
        np.testing.assert_allclose(camera, cameras[name], atol=1e-5)
    with Image.open(clean_dataset("cats") / "masks" / data.names[0]) as mask:
        expected = np.array(mask)
    np.testing.assert_array_equal(PortraitDataset(result.output)[0]["label_map"], expected)


def test_repairs_never_touch_the_original(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    _break_everything(data)
    before = {path: path.read_bytes() for path in data.path.rglob("*") if path.is_file()}
    fix_dataset(data.path, "all", tmp_path / "fixed")
    assert before == {path: path.read_bytes() for path in data.path.rglob("*") if path.is_file()}


def test_clean_data_is_copied_byte_for_byte(clean_dataset, tmp_path) -> None:
    result = fix_dataset(clean_dataset("faces"), "all", tmp_path / "copy")
    assert not result.changed and not result.dropped
    for path in clean_dataset("faces").rglob("*.png"):
        copied = result.output / path.relative_to(clean_dataset("faces"))
        assert copied.read_bytes() == path.read_bytes()


def test_masks_of_another_label_set_get_the_ids_back(open_copy, clean_dataset, tmp_path) -> None:
    data = open_copy("faces")
    conversion = find_conversion(CELEBAMASK_HQ, get_label_set("face_parsing_bisenet"))
    data.change_masks(data.names, conversion.apply)
    result = fix_dataset(data.path, ["label_order"], tmp_path / "fixed")
    fixed = _open(result.output, data)
    _assert_same_masks(fixed, clean_dataset("faces"), data.names)
    assert result.changed[data.names[0]][0].startswith("label_order")
    assert fixed.index["preparation"]["repairs"] == ["label_order"]


@pytest.mark.parametrize("kind", ["cats", "faces"])
def test_interpolated_masks_come_back_close(open_copy, clean_dataset, tmp_path, kind) -> None:
    data = open_copy(kind)
    for name in data.names:
        colors = Image.fromarray(data.colored_mask(name))
        colors = colors.resize((256, 256), Image.Resampling.NEAREST)
        colors.resize((64, 64), Image.Resampling.BICUBIC).save(data.mask_file(name))
    fix_dataset(data.path, "all", tmp_path / "fixed")
    fixed = _open(tmp_path / "fixed", data)
    # Lips and brows are one or two pixels thick here, so nothing of them is sure.
    _assert_same_masks(fixed, clean_dataset(kind), data.names, tolerance=0.05)


@pytest.mark.parametrize(
    "change",
    [
        lambda pose, k: (pose.T, k.T),
        lambda pose, k: (np.linalg.inv(pose), k),
        lambda pose, k: (np.diag([-1, 1, -1, 1.0]) @ pose, k),
        lambda pose, k: (pose @ np.diag([-1, -1, 1, 1.0]), k),
        lambda pose, k: (pose, np.diag([1024, 1024, 1]) @ k),
    ],
    ids=["transposed", "inverted", "seen from behind", "upside down", "pixels"],
)
def test_cameras_come_back_as_they_were(open_copy, clean_dataset, tmp_path, change) -> None:
    data = open_copy("faces")
    data.change_cameras(data.names, change)
    fix_dataset(data.path, "all", tmp_path / "fixed")
    _assert_same_cameras(_open(tmp_path / "fixed", data), clean_dataset("faces"))


def test_a_named_label_set_is_written(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    del data.index["label_set"]
    data.save_index()
    fix_dataset(data.path, "all", tmp_path / "fixed", label_set="catmask_hq")
    assert open_dataset(tmp_path / "fixed")[1].label_set.name == "catmask_hq"


def test_what_else_is_known_of_an_item_is_kept(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    name = data.names[0]
    data.index["camera_residuals"] = {name: 0.25}
    data.index["repeats"] = {name: 3}
    data.index["attributes"] = {name: {"ear_size": 1.2}}
    data.save_index()
    fix_dataset(data.path, "all", tmp_path / "fixed")
    fixed = _open(tmp_path / "fixed", data).index
    assert fixed["camera_residuals"] == {name: 0.25} and fixed["repeats"] == {name: 3}
    assert fixed["attributes"] == {name: {"ear_size": 1.2}}


def test_only_the_named_repairs_are_made(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.change_masks(data.names, lambda mask: swap_values(mask, (4, 5)))
    data.image_file(data.names[1]).unlink()
    fix_dataset(data.path, ["mask_without_image"], tmp_path / "fixed")
    codes = {finding.code for finding in check_dataset(tmp_path / "fixed").findings}
    assert codes == {"mouth_nose_swapped", "few_images"}


def test_a_repair_that_leaves_a_blocking_fault_names_it(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    data.mask_file(data.names[0]).unlink()
    data.change_images([data.names[1]], lambda image: image.convert("L"))
    with pytest.raises(UserError, match="while it has image_mode; add them"):
        fix_dataset(data.path, ["image_without_mask"], tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


def test_unusable_requests_are_refused_in_one_line(open_copy, tmp_path) -> None:
    data = open_copy("cats")
    with pytest.raises(UserError, match="fix 'magic' is no finding; use all or: "):
        fix_dataset(data.path, ["magic"], tmp_path / "fixed")
    with pytest.raises(UserError, match="fix 'few_images' has no repair"):
        fix_dataset(data.path, ["few_images"], tmp_path / "fixed")
    with pytest.raises(UserError, match="is the data set itself"):
        fix_dataset(data.path, "all", data.path, overwrite=True)
    with pytest.raises(UserError, match="data set not found"):
        check_dataset(tmp_path / "nowhere")
    with pytest.raises(UserError, match="max_images=0 must be at least 1"):
        check_dataset(data.path, max_images=0)
    data.change_images(data.names, lambda image: Image.new("RGB", image.size))
    with pytest.raises(UserError, match="nothing of data set .* would be left.* image_blank"):
        fix_dataset(data.path, "all", tmp_path / "fixed")
