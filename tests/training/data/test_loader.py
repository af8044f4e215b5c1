"""Batches come in an order that replicas share and a run resumes; damaged samples are skipped."""

import json
import logging
import traceback
from itertools import islice

import pytest
import torch

from mate3d.errors import UserError
from tests.training.data.shard_data import edit_json
from training.data.dataset import PortraitDataset
from training.data.format import image_name
from training.data.loader import infinite_order, make_loader


def test_sampler_visits_every_item_once_an_epoch_and_continues_anywhere():
    whole = list(islice(infinite_order(10, seed=3), 60))
    epochs = [whole[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    for position in (0, 4, 10, 27):
        rest = list(islice(infinite_order(10, seed=3, position=position), 20))
        assert rest == whole[position : position + 20]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stream_resumes_exactly(dataset_zip, num_workers):
    dataset = PortraitDataset(dataset_zip, with_flips=True)
    stream = make_loader(dataset, batch_size=5, seed=7, num_workers=num_workers)
    for _ in range(4):
        next(stream)
    state = stream.state_dict()
    resumed = make_loader(dataset, batch_size=5, state=state, num_workers=num_workers)
    for _ in range(3):
        expected, got = next(stream), next(resumed)
        torch.testing.assert_close(got["image"], expected["image"])
        torch.testing.assert_close(got["camera"], expected["camera"])
        assert got["caption"] == expected["caption"] and len(got["caption"]) == 5
    assert state["unreadable"] == {} and len(state["digest"]) == 32
    order = {key: state[key] for key in ("seed", "position", "num_items")}
    assert order == {"seed": 7, "position": 20, "num_items": 12}
    assert resumed.state_dict() == stream.state_dict()


def _rename_first(folder):
    old, new = image_name(0), "00000/renamed.png"
    for kind in ("images", "masks"):
        (folder / kind / old).rename(folder / kind / new)
    path = folder / "dataset.json"
    path.write_text(path.read_text().replace(old, new))


def _edit_index(folder, **changes):
    edit_json(folder / "dataset.json", lambda index: index.update(changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_rename_first, r"dataset \(names"),
        (lambda f: _edit_index(f, repeats={image_name(2): 3}), r"dataset \(names"),
        (lambda f: _edit_index(f, label_set="face_8"), r"dataset \(names"),
        (lambda f: _edit_index(f, repeats={}), "number of items.* 8 "),
    ],
)
def test_stream_refuses_the_state_of_another_data_set(dataset_folder, change, words):
    _edit_index(dataset_folder, repeats={image_name(1): 3})
    state = make_loader(PortraitDataset(dataset_folder), batch_size=2).state_dict()
    make_loader(PortraitDataset(dataset_folder), batch_size=2, state=state)
    change(dataset_folder)
    with pytest.raises(UserError, match=f"cannot resume: .*{words}"):
        make_loader(PortraitDataset(dataset_folder), batch_size=2, state=state)


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_replicas_see_together_what_one_process_sees_and_goes_on_with(dataset_folder, num_replicas):
    _edit_index(dataset_folder, repeats={image_name(1): 3})
    dataset = PortraitDataset(dataset_folder, with_flips=True)
    single = make_loader(dataset, batch_size=8, seed=5)
    parts = [
        make_loader(
            dataset, batch_size=8 // num_replicas, seed=5, rank=rank, num_replicas=num_replicas
        )
        for rank in range(num_replicas)
    ]
    for _ in range(5):
        cameras = torch.cat([next(part)["camera"] for part in parts])
        assert sorted(cameras.tolist()) == sorted(next(single)["camera"].tolist())
    assert all(part.state_dict() == single.state_dict() for part in parts)
    resumed = make_loader(dataset, batch_size=8, state=parts[-1].state_dict())
    for _ in range(3):
        torch.testing.assert_close(next(resumed)["image"], next(single)["image"])


def test_epoch_shows_repeated_samples_more_often(dataset_folder):
    _edit_index(dataset_folder, repeats={image_name(2): 4})
    dataset = PortraitDataset(dataset_folder)
    assert len(dataset) == len(dataset.camera_labels) == 9
    captions = next(make_loader(dataset, batch_size=9, seed=1))["caption"]
    assert captions.count("cat number 2") == 4 and len(set(captions)) == 6
    for index in range(9):
        torch.testing.assert_close(dataset[index]["camera"], dataset.camera_labels[index])


# Samples that cannot be read.


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_sample_is_replaced_named_once_and_counted(dataset_folder, num_workers, caplog):
    damaged = dataset_folder / "images/00000/img00000003.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    dataset = PortraitDataset(dataset_folder)
    streams = [
        make_loader(dataset, batch_size=6, seed=2, num_workers=num_workers) for _ in range(2)
    ]
    with caplog.at_level(logging.WARNING):
        captions = [[next(stream)["caption"] for _ in range(4)] for stream in streams]
    assert captions[0] == captions[1]
    for epoch in captions[0]:
        assert sorted(epoch) == [f"cat number {i}" for i in (0, 1, 2, 4, 4, 5)]
    assert [stream.num_unreadable for stream in streams] == [1, 1]
    assert caplog.text.count("skipped a sample: image ") == len(streams)
    assert str(damaged) in caplog.text


def test_resumed_stream_goes_on_counting(dataset_folder, caplog):
    (dataset_folder / "images/00000/img00000003.png").write_bytes(b"no png")
    (dataset_folder / "masks/00000/img00000004.png").write_bytes(b"no png")
    dataset = PortraitDataset(dataset_folder)
    stream = make_loader(dataset, batch_size=6)
    next(stream)
    state = stream.state_dict()
    assert sorted(state["unreadable"]) == ["00000/img00000003.png", "00000/img00000004.png"]
    caplog.clear()
    resumed = make_loader(dataset, batch_size=6, state=state)
    assert resumed.num_unreadable == 2
    next(resumed)
    assert resumed.num_unreadable == 2 and "skipped" not in caplog.text


def test_too_many_damaged_samples_stop_with_the_first_names(dataset_folder):
    for mask in sorted((dataset_folder / "masks").rglob("*.png"))[:5]:
        mask.write_bytes(b"not a png")
    stream = make_loader(
        PortraitDataset(dataset_folder), batch_size=1, seed=2, num_workers=2, max_unreadable=4
    )
    message = (
        r"5 sample\(s\), first: mask .*png is not a readable image.*; mask .*; "
        r".*max_unreadable=4$"
    )
    with pytest.raises(UserError, match=message):
        for _ in range(20):
            next(stream)
    dataset = PortraitDataset(dataset_folder)
    for mask in (dataset_folder / "masks").rglob("*.png"):
        mask.unlink()
    with pytest.raises(UserError, match=r"6 sample\(s\)"):
        next(make_loader(dataset, batch_size=2, num_workers=1))
    with pytest.raises(UserError, match="cannot read .*max_unreadable=0"):
        next(make_loader(dataset, batch_size=6, max_unreadable=0))


class _Broken(PortraitDataset):
    def __getitem__(self, index):
        raise ZeroDivisionError("a mistake in the program")


def test_programming_error_in_a_worker_keeps_its_traceback(dataset_folder):
    message = "(?s)Traceback .*__getitem__.*a mistake in the"
    with pytest.raises(ZeroDivisionError, match=message) as info:
        next(make_loader(_Broken(dataset_folder), batch_size=2, num_workers=1))
    # Workers that the garbage collector finds end only after seconds.
    traceback.clear_frames(info.tb)


def test_training_counts_damaged_samples_and_logs_each_once(
    dataset_folder, make_trainer, tmp_path, caplog
):
    # The first is in the grid of pictures, too, which is drawn before training.
    for kind, number in (("images", 0), ("masks", 3)):
        (dataset_folder / f"{kind}/00000/img{number:08d}.png").write_bytes(b"no png")
    trainer, state = make_trainer(tmp_path / "run")
    assert trainer.run()
    records = (tmp_path / "run/stats.jsonl").read_text().splitlines()
    counts = [json.loads(record)["Progress/unreadable_samples"] for record in records]
    assert 1 <= counts[0] and counts[-1] <= 2 and counts == sorted(counts)
    assert caplog.text.count("skipped a sample: image ") == 1
    assert "00000/img00000000.png" in state.data["unreadable"]
