"""Streamed shards: every sample once an epoch, exact resume, URLs and commands, clear refusals."""

import functools
import gc
import http.server
import threading
from collections import Counter
from dataclasses import replace

import pytest
import torch

from mate3d.errors import UserError
from tests.training.data.shard_data import change_member, edit_json, write_shards
from training.data import shard_stream
from training.data.dataset import PortraitDataset
from training.data.format import DatasetWriter, image_name, open_dataset
from training.data.loader import make_loader
from training.run_folder.state_file import STATE_FILE
from training.state import load_state


@pytest.fixture
def shards(tmp_path):
    """Sixteen samples in eight shards."""
    return write_shards(tmp_path / "shards")


def stream_all(dataset, num_replicas=1, **options):
    return [
        make_loader(dataset, rank=rank, num_replicas=num_replicas, streaming=True, **options)
        for rank in range(num_replicas)
    ]


def captions_of(streams, num_batches):
    """Return the captions of each step, those of all replicas together."""
    return [
        [caption for stream in streams for caption in next(stream)["caption"]]
        for _ in range(num_batches)
    ]


@pytest.mark.parametrize("num_replicas, num_workers", [(1, 0), (1, 2), (2, 0), (2, 2), (8, 0)])
def test_every_sample_is_seen_once_an_epoch(shards, num_replicas, num_workers):
    options = {"batch_size": 2, "num_workers": num_workers}
    dataset, num_steps = PortraitDataset(shards), 3 * 16 // (2 * num_replicas)
    steps, again, other = (
        captions_of(stream_all(dataset, num_replicas, seed=seed, **options), num_steps)
        for seed in (4, 4, 5)
    )
    assert steps == again != other
    seen = [caption for step in steps for caption in step]
    epochs = [seen[start : start + 16] for start in (0, 16, 32)]
    assert all(sorted(epoch, key=int) == [str(i) for i in range(16)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_readers_share_shards_that_do_not_divide_evenly(tmp_path):
    dataset = PortraitDataset(write_shards(tmp_path / "data", num_samples=14, shard_size=2))
    streams = stream_all(dataset, 2, batch_size=1, seed=4, num_workers=2)
    seen = Counter(caption for step in captions_of(streams, 7 * 14 // 2) for caption in step)
    # Seven epochs over seven shards: each of the four readers is at most one shard off.
    assert set(seen) == {str(i) for i in range(14)}
    assert min(seen.values()) >= 6 and max(seen.values()) <= 8


def test_samples_of_a_shard_are_held_and_shuffled_block_by_block(tmp_path, monkeypatch):
    class Raw(tuple):
        pass

    read, num_held = shard_stream.ShardStream._read_raw, []

    def read_raw(self, table):
        for raw in map(Raw, read(self, table)):
            num_held.append(sum(type(thing) is Raw for thing in gc.get_objects()))
            yield raw

    monkeypatch.setattr(shard_stream.ShardStream, "_read_raw", read_raw)
    monkeypatch.setattr(shard_stream, "BLOCK_SIZE", 4)
    dataset = PortraitDataset(write_shards(tmp_path / "data", num_samples=10, shard_size=10))
    (seen,) = captions_of(stream_all(dataset, batch_size=10, seed=1), 1)
    blocks = [seen[:4], seen[4:8], seen[8:]]
    assert [sorted(map(int, block)) for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert seen != [str(i) for i in range(10)]
    assert 4 <= max(num_held) <= 5


@pytest.mark.parametrize("num_replicas", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_done", [1, 12])
def test_stream_resumes_exactly(tmp_path, monkeypatch, num_replicas, num_workers, num_done):
    monkeypatch.setattr(shard_stream, "BLOCK_SIZE", 2)
    path = write_shards(tmp_path / "data", num_samples=13, shard_size=3)
    edit_json(path / "dataset.json", lambda c: c.update(repeats={image_name(5): 3}))
    dataset = PortraitDataset(path, with_flips=True)
    options = {"batch_size": 3, "num_workers": num_workers}
    streams = stream_all(dataset, num_replicas, seed=7, **options)
    captions_of(streams, num_done)
    state = streams[0].state_dict()
    assert state["position"] == num_done * 3 * num_replicas
    resumed = stream_all(dataset, num_replicas, state=state, **options)
    for _ in range(6):
        for whole, part in zip(streams, resumed, strict=True):
            expected, got = next(whole), next(part)
            assert got["caption"] == expected["caption"]
            torch.testing.assert_close(got["image"], expected["image"])
            torch.testing.assert_close(got["camera"], expected["camera"])
    assert resumed[0].state_dict() == streams[0].state_dict()


def test_streamed_items_with_repeats_and_mirrored_copies_are_those_of_random_access(shards):
    edit_json(shards / "dataset.json", lambda c: c.update(repeats={image_name(3): 5}))
    dataset = PortraitDataset(shards, with_flips=True)
    assert len(dataset) == 40
    (stream,) = stream_all(dataset, batch_size=40, seed=1)
    batch = next(stream)
    assert Counter(batch["caption"]) == {**{str(i): 2 for i in range(16)}, "3": 10}
    items = {}
    for index in range(40):
        item = dataset[index]
        items[item["caption"], tuple(item["camera"].tolist())] = item
    assert len(items) == 32
    for row in range(40):
        key = batch["caption"][row], tuple(batch["camera"][row].tolist())
        torch.testing.assert_close(batch["image"][row], items[key]["image"])
        torch.testing.assert_close(batch["label_map"][row], items[key]["label_map"])


def test_damaged_sample_is_replaced_and_counted(shards, caplog):
    member = change_member(shards / "shards/000002.tar", ".mask.png", b"no png")
    assert member == "00000/img00000004.mask.png"
    streams = [stream_all(PortraitDataset(shards), batch_size=4, num_workers=2)[0] for _ in "ab"]
    seen = [captions_of([stream], 8) for stream in streams]
    assert seen[0] == seen[1]
    assert Counter(c for step in seen[0] for c in step) == {
        **{str(i): 2 for i in range(16) if i != 4},
        "5": 4,
    }
    assert [stream.num_unreadable for stream in streams] == [1, 1]
    assert caplog.text.count("skipped a sample: mask masks/00000/img00000004.png in ") == 2


# URLs and commands.


@pytest.fixture
def server(shards):
    """Serve the shards' folder on this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("kind", ["url", "command"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_url_and_command_stream_what_the_folder_streams(shards, server, kind, num_workers):
    options = {"batch_size": 4, "seed": 3, "num_workers": num_workers}
    place = f"pipe:cat {shards}/{{}}" if kind == "command" else f"{server}/"
    local = stream_all(PortraitDataset(shards), **options)
    remote = stream_all(PortraitDataset(place), **options)
    assert captions_of(remote, 6) == captions_of(local, 6)
    state, _ = remote[0].state_dict(), options.pop("seed")
    resumed = stream_all(PortraitDataset(place), state=state, **options)
    assert captions_of(resumed, 2) == captions_of(local, 2)


def test_items_behind_a_url_can_be_read_singly_but_not_in_any_order(shards, server):
    local, remote = PortraitDataset(shards), PortraitDataset(server)
    for index in (0, 3, 15):
        torch.testing.assert_close(remote[index]["image"], local[index]["image"])
    with pytest.raises(UserError, match="train.streaming=true"):
        make_loader(remote, batch_size=2)


def test_places_that_cannot_be_read_are_one_line(server):
    with pytest.raises(UserError, match=f"cannot read {server}/no/shards/index.json: ") as info:
        PortraitDataset(f"{server}/no")
    assert "\n" not in str(info.value) and "curl" not in str(info.value)
    with pytest.raises(UserError, match="pipe:cat x: .*{}"):
        PortraitDataset("pipe:cat x")


def _break_header(path):
    content = bytearray(path.read_bytes())
    start = content.index(b"00000/img00000011.image.png")
    content[start + 148 : start + 156] = b"\xff" * 8
    path.write_bytes(content)


def _truncate(size):
    return lambda path: path.write_bytes(path.read_bytes()[:size])


CUT = r"shard .*000005.tar (is damaged or truncated|does not match)"
FAULTS = {
    "missing": (True, lambda path: path.unlink(), "shard http.*/shards/000005.tar is "),
    "vanished": (False, lambda path: path.unlink(), "^cannot read /.*/shards/000005.tar: "),
    "700 bytes": (True, _truncate(700), CUT),
    "1024 bytes": (True, _truncate(1024), CUT),
    "2048 bytes": (True, _truncate(2048), CUT),
    "broken header": (False, _break_header, "shard .*000005.tar is damaged or truncated: "),
    "other samples": (
        True,
        lambda path: path.write_bytes(path.with_name("000006.tar").read_bytes()),
        "000005.tar .*index at 00000/img0000",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_shard_that_is_damaged_while_it_is_used_is_named(shards, server, name):
    is_remote, damage, message = FAULTS[name]
    (stream,) = stream_all(PortraitDataset(server if is_remote else shards), batch_size=4)
    damage(shards / "shards/000005.tar")
    with pytest.raises(UserError, match=message) as info:
        captions_of([stream], 8)
    assert "\n" not in str(info.value)


# Refusals.


def test_data_that_cannot_be_streamed_is_refused(dataset_folder, shards):
    with pytest.raises(UserError, match="is not in shards"):
        make_loader(PortraitDataset(dataset_folder), batch_size=2, streaming=True)
    with pytest.raises(
        UserError, match=r"has 8 shard\(s\) for 3 process\(es\) with 3 reader\(s\) each; use at"
    ):
        stream_all(PortraitDataset(shards), 3, batch_size=2, num_workers=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 2}, "batch size of each process.* 4 to 2"),
        ({"num_workers": 2}, "train.num_workers.* 1 to 2"),
        ({"num_replicas": 2}, "number of processes.* 1 to 2"),
        ({"streaming": False}, "train.streaming.* True to False"),
    ],
    ids=str,
)
def test_resuming_in_another_order_is_refused(shards, change, words):
    dataset, options = PortraitDataset(shards), {"batch_size": 4, "streaming": True}
    state = make_loader(dataset, **options).state_dict()
    with pytest.raises(UserError, match=f"cannot resume: .*{words}"):
        make_loader(dataset, state=state, **options | change)
    others = PortraitDataset(write_shards(shards.parent / "others", shard_size=4))
    with pytest.raises(UserError, match=r"cannot resume: .*dataset \(names, repeats"):
        make_loader(others, state=state, **options)


# A training run.


@pytest.fixture
def streaming_run(dataset_folder, make_trainer, tiny_settings, tmp_path):
    """Return a function that makes a run on the usual data, one sample a shard."""
    files, index = open_dataset(dataset_folder)
    contents = [[files.read(f"{f}/{name}") for f in ("images", "masks")] for name in index.names]
    with DatasetWriter(dataset_folder, index.label_set, overwrite=True, shard_size=1) as writer:
        for name, content, camera in zip(index.names, contents, index.cameras, strict=True):
            writer.add_encoded(name, *content, camera)

    def make(folder, **options):
        loop = replace(tiny_settings.loop, streaming=True, **options)
        return make_trainer(tmp_path / folder, replace(tiny_settings, loop=loop))

    return make


def test_streamed_training_resumes_exactly(streaming_run, tmp_path):
    trainer, whole = streaming_run("whole", num_workers=2)
    assert trainer.run()
    streaming_run("parts", num_workers=2, total_kimg=0.004)[0].run()
    trainer, resumed = streaming_run("parts", num_workers=2)
    load_state(tmp_path / "parts" / STATE_FILE, resumed)
    assert trainer.run() and resumed.data == whole.data
    for name, module in whole.modules().items():
        for key, value in module.state_dict().items():
            assert torch.equal(resumed.modules()[name].state_dict()[key], value), (name, key)


def test_training_stops_where_a_shard_has_nothing_readable(streaming_run, dataset_folder):
    change_member(dataset_folder / "shards/000003.tar", ".image.png", b"no png")
    trainer, _ = streaming_run("run")
    with pytest.raises(UserError, match=r"1 sample\(s\), first"):
        trainer.run()
