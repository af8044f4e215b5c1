"""Captions, landmarks and attributes in files beside the photos."""

import json

import pytest

from mate3d.errors import UserError
from training.data.preparation.side_files import (
    SideFile,
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
    (tmp_path / "headed.csv").write_text("name,caption\n" + rows, encoding="utf-8-sig")
    for name in ("c.json", "metadata.jsonl", "plain.csv", "headed.csv"):
        assert read_captions(tmp_path / name) == SideFile(wanted), name
    (tmp_path / "texts/sub").mkdir(parents=True)
    (tmp_path / "texts/a.txt").write_text(wanted["a.png"])
    (tmp_path / "texts/sub/b.txt").write_text("two\nlines\n")
    assert read_captions(tmp_path / "texts").values == {"a": wanted["a.png"], "sub/b": "two lines"}


def test_columns_of_a_csv_may_stand_in_any_order(tmp_path):
    (tmp_path / "c.csv").write_text("file_name,size,text\na.png,3,a cat\n")
    assert read_captions(tmp_path / "c.csv").values == {"a.png": "a cat"}


def test_landmarks_of_json_and_of_text_files_are_the_same(tmp_path):
    (tmp_path / "points.json").write_text(json.dumps({"sub/a.png": FIVE}))
    (tmp_path / "points/sub").mkdir(parents=True)
    lines = [f"{FIVE[0][0]}, {FIVE[0][1]}", *(f"{x} {y}" for x, y in FIVE[1:])]
    (tmp_path / "points/sub/a.txt").write_text("\n".join(lines) + "\n")
    assert read_landmarks(tmp_path / "points.json") == SideFile({"sub/a.png": FIVE})
    assert read_landmarks(tmp_path / "points") == SideFile({"sub/a": FIVE})


def test_68_landmarks_are_reduced_to_five(tmp_path):
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
    assert list(file.values) == ["e"]
    assert "at the image's left come before the right" in file.problems["b"]
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
        (read_captions, "c.json", "[]", "must be {name: text}"),
        (read_captions, "c.json", "{}", "are empty"),
        (read_captions, "c.json", '{"a": 3}', "'a' must be a name with a text"),
        (read_captions, "c.jsonl", '{"file_name": "a"}\n', "line 1 needs one of file_name"),
        (read_captions, "c.jsonl", "{\n", "line 1 is not valid JSON"),
        (read_captions, "c.csv", "a,b,c\n", "row 1: use name,caption; texts with commas need"),
        (read_captions, "c.csv", "name,text\na,b,c\n", "row 2: use name,text; texts with commas"),
        (read_captions, "c.csv", "name,words\na,b\n", "row 2 needs one of"),
        (read_captions, "c.csv", "a,x\na,y\n", "names a twice"),
        (read_captions, "c.csv", b"\xff\xfe\xfa", "cannot be read"),
        (read_landmarks, "p.json", None, "landmarks not found"),
        (read_landmarks, "p.json", "[1]", "must be {name: five points"),
        (read_landmarks, "p.json", "{}", "are empty"),
        (read_landmarks, "p.json", "[" * 200_000, "nested too deeply"),
        (read_attributes, "a.txt", None, "attributes not found"),
        (read_attributes, "a.txt", "Smiling\n0.jpg 1\n", "must begin with a count"),
        (read_attributes, "a.txt", "1\nSmiling Young\n0.jpg 1\n", "line 3: a name and 2 values 1"),
        (read_attributes, "a.txt", "1\nSmiling\n0.jpg 3\n", "line 3"),
        (read_attributes, "a.txt", "3\nSmiling\n0.jpg 1\n", "announce 3 images and have 1"),
        (read_attributes, "a.json", "[]", "must be {name: {attribute: number}}"),
        (read_attributes, "a.json", '{"a": {"age": "old"}}', "of a must be {attribute: finite"),
        (read_attributes, "a.json", '{"a": 3}', "attributes of a must be"),
        (read_attributes, "a.json", '{"a": {"size": NaN}}', "attributes of a must be"),
        (read_attributes, "a.json", '{"a": {"size": Infinity}}', "attributes of a must be"),
        (read_attributes, "a.json", '{"a": {"size": 1' + 400 * "0" + "}}", "of a must be"),
        (read_cameras, "c.json", None, "camera file not found"),
        (read_cameras, "c.json", "{", "is not valid JSON"),
        (read_cameras, "c.json", "[]", "must be"),
        (read_cameras, "c.json", '{"labels": null}', "must be"),
        (read_cameras, "c.json", '{"labels": [["a.png"]]}', "must be"),
        (read_cameras, "c.json", '{"labels": {}}', "no usable camera: the file: it is empty"),
        (read_cameras, "c.json", '{"a.png": [1, 2]}', "camera: a.png: a camera is 25 finite numb"),
    ],
)
def test_malformed_files_are_refused(tmp_path, read, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)
