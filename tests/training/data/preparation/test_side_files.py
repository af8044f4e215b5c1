"""Captions, landmarks, attributes and cameras in files beside the photos."""

import json
import math

import numpy as np
import pytest
import torch

from mate3d.camera_checks import exchange_axes
from mate3d.cameras import make_camera
from mate3d.errors import UserError
from training.data.preparation.side_files import (
    SideFile,
    camera_conventions,
    read_attributes,
    read_cameras,
    read_captions,
    read_landmarks,
)

FIVE = ((30.5, 40.0), (70.0, 41.0), (50.0, 60.0), (35.0, 80.0), (66.0, 80.5))


def test_all_forms_of_captions_say_the_same(tmp_path):
    wanted = {"a.png": 'a "grey" cat, old', "sub/b.png": "two lines"}
    (tmp_path / "c.json").write_text(json.dumps(wanted | {"sub/b.png": "two \n lines "}))
    lines = [json.dumps({"file_name": n, "text": t, "more": 1}) for n, t in wanted.items()]
    (tmp_path / "metadata.jsonl").write_text("\n".join([*lines, ""]))
    rows = 'a.png,"a ""grey"" cat, old"\nsub/b.png,"two\nlines"\n'
    (tmp_path / "plain.csv").write_text(rows)
    rows = 'file_name,size,text\na.png,3,"a ""grey"" cat, old"\nsub/b.png,4,"two\nlines"\n'
    (tmp_path / "headed.csv").write_text(rows, encoding="utf-8-sig")
    for name in ("c.json", "metadata.jsonl", "plain.csv", "headed.csv"):
        assert read_captions(tmp_path / name) == SideFile(wanted), name
    (tmp_path / "texts/sub").mkdir(parents=True)
    (tmp_path / "texts/a.txt").write_text(wanted["a.png"])
    (tmp_path / "texts/sub/b.txt").write_text("two\nlines\n")
    assert read_captions(tmp_path / "texts").values == {"a": wanted["a.png"], "sub/b": "two lines"}


def test_landmarks_of_text_files_and_68_landmarks_become_five(tmp_path):
    (tmp_path / "points/sub").mkdir(parents=True)
    lines = [f"{FIVE[0][0]}, {FIVE[0][1]}", *(f"{x} {y}" for x, y in FIVE[1:])]
    (tmp_path / "points/sub/a.txt").write_text("\n".join(lines) + "\n")
    assert read_landmarks(tmp_path / "points") == SideFile({"sub/a": FIVE})
    points = [[0.0, 0.0]] * 68
    points[36:42] = [[29 + 0.5 * i, 40.0] for i in range(6)]
    points[42:48] = [[69 + 0.5 * i, 41.0] for i in range(6)]
    points[30], points[48], points[54] = [50.0, 60.0], [35.0, 80.0], [66.0, 80.5]
    (tmp_path / "points.json").write_text(json.dumps({"a": points}))
    five = ((30.25, 40.0), (70.25, 41.0), (50.0, 60.0), (35.0, 80.0), (66.0, 80.5))
    assert read_landmarks(tmp_path / "points.json").values == {"a": five}


def test_unusable_landmarks_have_a_reason_each(tmp_path):
    swapped = [FIVE[1], FIVE[0], *FIVE[2:]]
    content = {"a": FIVE[:4], "b": swapped, "c": "none", "d": [[1, 2], [3]], "e": FIVE}
    content["f"] = [[10**400, 2], *FIVE[1:]]
    (tmp_path / "points.json").write_text(json.dumps(content))
    file = read_landmarks(tmp_path / "points.json")
    assert file.values == {"e": FIVE}
    assert "left" in file.problems["b"]
    assert all("use five points" in file.problems[name] for name in "acdf")


def test_attributes_become_numbers(tmp_path):
    path = tmp_path / "CelebAMask-HQ-attribute-anno.txt"
    path.write_text("2\nSmiling Young\n0.jpg  -1 1\n\n1.jpg   1 1\n")
    assert read_attributes(path).values == {
        "0.jpg": {"Smiling": 0.0, "Young": 1.0},
        "1.jpg": {"Smiling": 1.0, "Young": 1.0},
    }
    (tmp_path / "a.json").write_text(json.dumps({"a.png": {"age": 30, "Male": True}}))
    assert read_attributes(tmp_path / "a.json").values == {"a.png": {"age": 30.0, "Male": 1.0}}


@pytest.mark.parametrize(
    ("read", "name", "content", "message"),
    [
        (read_captions, "c.json", None, "captions not found"),
        (read_captions, "c.xml", "", "use .json, .jsonl, .csv or a folder"),
        (read_captions, "c.json", '{"a": 3}', "'a' must be strings"),
        (read_captions, "c.jsonl", '{"file_name": "a"}\n', "line 1 needs one of file_name"),
        (read_captions, "c.jsonl", "{\n", "line 1 is not valid JSON"),
        (read_captions, "c.csv", "a,b,c\n", "row 1: use name,caption"),
        (read_captions, "c.csv", "name,words\na,b\n", "row 2 needs one of"),
        (read_captions, "c.csv", "a,x\na,y\n", "a twice"),
        (read_captions, "c.csv", b"\xff\xfe\xfa", "cannot read"),
        (read_landmarks, "p.json", "[1]", "must be {name: five points"),
        (read_landmarks, "p.json", "{}", "are empty"),
        (read_landmarks, "p.json", "[" * 200_000, "nested too deeply"),
        (read_attributes, "a.txt", "Smiling\n0.jpg 1\n", "must start with a count"),
        (read_attributes, "a.txt", "1\nSmiling Young\n0.jpg 1\n", "line 3 .*2 values 1"),
        (read_attributes, "a.txt", "3\nSmiling\n0.jpg 1\n", "list 1 images .*3"),
        (read_attributes, "a.json", '{"a": {"age": "old"}}', "of a must be {attribute: finite"),
        (read_attributes, "a.json", '{"a": {"size": NaN}}', "attributes of a must be"),
        (read_attributes, "a.json", '{"a": {"size": 1' + 400 * "0" + "}}", "of a must be"),
        (read_cameras, "c.json", '{"labels": [["a.png"]]}', "must be"),
        (read_cameras, "c.json", '{"labels": {}}', "no usable camera: the file"),
        (read_cameras, "c.json", '{"a.png": [1, 2]}', "camera: a.png: .*25 finite numb"),
    ],
)
def test_malformed_files_are_refused(tmp_path, read, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


# Cameras.


@pytest.fixture(scope="module")
def cameras() -> np.ndarray:
    """Cameras all around the front of a head, up to profiles and steep views."""
    rng = np.random.default_rng(0)
    yaw = torch.as_tensor(rng.uniform(-1.4, 1.4, 40))
    pitch = torch.as_tensor(rng.uniform(-0.8, 0.8, 40))
    return make_camera(yaw, pitch).double().numpy()


def _names(count: int) -> list[str]:
    return [f"00000/img{i:08d}.png" for i in range(count)]


def _write(path, cameras, *, as_list: bool = True):
    pairs = list(zip(_names(len(cameras)), cameras.tolist(), strict=True))
    path.write_text(json.dumps({"labels": pairs} if as_list else dict(pairs)))
    return path


@pytest.mark.parametrize(("as_list", "axes"), [(True, "opencv"), (False, "opengl")])
def test_both_forms_and_both_axes_are_read(tmp_path, cameras, as_list, axes):
    """IDE-3D negates the entries 1, 2, 5, 6, 9 and 10 of EG3D's cameras."""
    signs = np.ones(25)
    signs[[1, 2, 5, 6, 9, 10]] = -1 if axes == "opengl" else 1
    file = read_cameras(_write(tmp_path / "dataset.json", cameras * signs, as_list=as_list))
    assert ("OpenGL" in file.note) == (axes == "opengl") and not file.problems
    assert list(file.values) == _names(40)
    np.testing.assert_array_equal(np.array(list(file.values.values())), cameras)


def test_rolled_cameras_keep_their_axes(cameras):
    roll = math.radians(60)
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]]
    rolled = cameras.copy()
    near_level = np.abs(cameras[:, 7]) < 1.0
    rolled[:, :16] = (cameras[:, :16].reshape(-1, 4, 4) @ turn).reshape(-1, 16)
    assert (camera_conventions(rolled[near_level]) == "opencv").all()


def test_unusable_cameras_have_a_reason_each(tmp_path, cameras):
    labels = dict(zip(_names(40), cameras.tolist(), strict=True))
    labels |= {"short.png": [1.0] * 24, "nan.png": [math.nan] * 25, "text.png": "none"}
    mirrored = cameras[0].copy()
    mirrored[[0, 4, 8]] *= -1
    labels |= {"mirrored.png": mirrored.tolist(), "zero.png": [0] * 25}
    labels["pixels.png"] = _in_pixels(cameras[:1])[0].tolist()
    labels["focal.png"] = [*cameras[0, :16].tolist(), -4.0, 0, 0.5, 0, -4.0, 0.5, 0, 0, 1]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": list(labels.items())}))
    file = read_cameras(path)
    assert len(file.values) == 40
    for name in ("short.png", "nan.png", "text.png"):
        assert "25 finite numbers" in file.problems[name]
    for name in ("mirrored.png", "zero.png"):
        assert "camera-to-world" in file.problems[name]
    for name in ("pixels.png", "focal.png"):
        assert "intrinsics" in file.problems[name]


def test_a_few_cameras_that_look_elsewhere_are_listed(tmp_path, cameras):
    many = np.concatenate([cameras, cameras, cameras])
    many[7] = exchange_axes(many[7:8])[0]
    file = read_cameras(_write(tmp_path / "c.json", exchange_axes(many)))
    assert "OpenGL" in file.note
    name = _names(8)[7]
    assert list(file.problems) == [name]
    assert len(file.values) == 119 and name not in file.values
    assert file.values[_names(9)[8]] == tuple(cameras[8])


def _in_pixels(cameras):
    pixels = cameras.copy()
    pixels[:, 16:22] *= 512
    return pixels


def _world_to_camera(cameras):
    inverted = cameras.copy()
    inverted[:, :16] = np.linalg.inv(cameras[:, :16].reshape(-1, 4, 4)).reshape(-1, 16)
    return inverted


def _mixed(cameras):
    return np.concatenate([cameras[:20], exchange_axes(cameras[20:])])


def _upside_down(cameras):
    turned = cameras.copy()
    turned[:, [0, 1, 4, 5, 8, 9]] *= -1
    return turned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_in_pixels, "no usable camera: .*plausible intrinsics; divide pixels"),
        (_world_to_camera, "world-to-camera matrices"),
        (_mixed, "of 40 cameras, 20 .*OpenCV.* 20 with OpenGL"),
        (_upside_down, "of 40 cameras, 0 look at the origin"),
    ],
)
def test_cameras_of_another_kind_are_refused(tmp_path, cameras, change, message):
    path = _write(tmp_path / "dataset.json", change(cameras))
    with pytest.raises(UserError, match=message):
        read_cameras(path)
