"""Landmarks and attributes in files beside the photos."""

import json

import pytest

from mate3d.errors import UserError
from training.data.preparation.side_files import read_attributes, read_landmarks

FIVE = ((30.5, 40.0), (70.0, 41.0), (50.0, 60.0), (35.0, 80.0), (66.0, 80.5))


def test_landmarks_of_json_and_of_text_files_are_the_same(tmp_path):
    (tmp_path / "points.json").write_text(json.dumps({"sub/a.png": FIVE}))
    (tmp_path / "points/sub").mkdir(parents=True)
    lines = [f"{FIVE[0][0]}, {FIVE[0][1]}", *(f"{x} {y}" for x, y in FIVE[1:])]
    (tmp_path / "points/sub/a.txt").write_text("\n".join(lines) + "\n")
    assert read_landmarks(tmp_path / "points.json") == ({"sub/a.png": FIVE}, {})
    assert read_landmarks(tmp_path / "points") == ({"sub/a": FIVE}, {})


def test_68_landmarks_are_reduced_to_five(tmp_path):
    points = [[0.0, 0.0]] * 68
    points[36:42] = [[29 + 0.5 * i, 40.0] for i in range(6)]
    points[42:48] = [[69 + 0.5 * i, 41.0] for i in range(6)]
    points[30], points[48], points[54] = [50.0, 60.0], [35.0, 80.0], [66.0, 80.5]
    (tmp_path / "points.json").write_text(json.dumps({"a": points}))
    five = ((30.25, 40.0), (70.25, 41.0), (50.0, 60.0), (35.0, 80.0), (66.0, 80.5))
    assert read_landmarks(tmp_path / "points.json")[0] == {"a": five}


def test_unusable_landmarks_have_a_reason_each(tmp_path):
    swapped = [FIVE[1], FIVE[0], *FIVE[2:]]
    content = {"a": FIVE[:4], "b": swapped, "c": "none", "d": [[1, 2], [3]], "e": FIVE}
    (tmp_path / "points.json").write_text(json.dumps(content))
    found, problems = read_landmarks(tmp_path / "points.json")
    assert list(found) == ["e"]
    assert "at the image's left come before the right" in problems["b"]
    assert all("use five points" in problems[name] for name in "acd")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not found"), ("[1]", "must be {name: five points"), ("{}", "holds no landmarks")],
)
def test_malformed_landmark_files_are_refused(tmp_path, content, message):
    path = tmp_path / "points.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_landmarks(path)


def test_attributes_of_celeba_become_0_and_1(tmp_path):
    path = tmp_path / "CelebAMask-HQ-attribute-anno.txt"
    path.write_text("2\nSmiling Young\n0.jpg  -1 1\n1.jpg   1 1\n")
    assert read_attributes(path) == {
        "0.jpg": {"Smiling": 0.0, "Young": 1.0},
        "1.jpg": {"Smiling": 1.0, "Young": 1.0},
    }


def test_attributes_of_json_are_numbers(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a.png": {"age": 30, "Male": True}}))
    assert read_attributes(tmp_path / "a.json") == {"a.png": {"age": 30.0, "Male": 1.0}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", None, "not a readable text file"),
        ("a.txt", "Smiling\n0.jpg 1\n", "must begin with a count"),
        ("a.txt", "1\nSmiling Young\n0.jpg 1\n", "line 3: a name and 2 values 1 or -1"),
        ("a.txt", "1\nSmiling\n0.jpg 3\n", "line 3"),
        ("a.txt", "3\nSmiling\n0.jpg 1\n", "announces 3 images and has 1"),
        ("a.json", "[]", "must be {name: {attribute: number}}"),
        ("a.json", '{"a": {"age": "old"}}', "attributes of a must be"),
        ("a.json", '{"a": 3}', "attributes of a must be"),
    ],
)
def test_malformed_attribute_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_attributes(tmp_path / name)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + 400 * "0", '"big"'])
def test_attributes_that_are_no_finite_numbers_are_refused(tmp_path, value):
    (tmp_path / "attributes.json").write_text(f'{{"a": {{"size": {value}}}}}')
    with pytest.raises(UserError, match="attributes of a must be {attribute: finite number}"):
        read_attributes(tmp_path / "attributes.json")


def test_absurd_landmarks_have_a_problem_and_deep_nesting_is_one_line(tmp_path):
    path = tmp_path / "landmarks.json"
    path.write_text('{"a": [[' + "1" + 400 * "0" + ", 2], [2, 1], [1, 1], [0, 2], [2, 2]]}")
    landmarks, problems = read_landmarks(path)
    assert not landmarks and "five points" in problems["a"]
    path.write_text("[" * 200_000)
    with pytest.raises(UserError, match="nested too deeply"):
        read_landmarks(path)
