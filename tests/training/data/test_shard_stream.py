"""Streamed shards: every sample once an epoch, exact resume, URLs and commands, clear refusals."""

import functools
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
from training.state import STATE_FILE, load_state


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
    streams = stream_all(
        PortraitDataset(shards),
        num_replicas,
        batch_size=2,
        seed=4,
        num_workers=num_workers,
    )
    steps = captions_of(streams, 3 * 16 // (2 * num_replicas))
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


def test_order_is_a_function_of_seed_and_epoch(shards):
    dataset = PortraitDataset(shards)
    orders = [captions_of(stream_all(dataset, batch_size=4, seed=seed), 8) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_samples_of_a_shard_are_shuffled_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_stream, "BLOCK_SIZE", 4)
    dataset = PortraitDataset(write_shards(tmp_path / "data", num_samples=10, shard_size=10))
    (seen,) = captions_of(stream_all(dataset, batch_size=10, seed=1), 1)
    blocks = [seen[:4], seen[4:8], seen[8:]]
    assert [sorted(map(int, block)) for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert seen != [str(i) for i in range(10)]


def test_only_one_block_is_held(tmp_path, monkeypatch):
    class Raw(tuple):
        num_alive = most = 0

        def __init__(self, _):
            Raw.num_alive += 1
            Raw.most = max(Raw.most, Raw.num_alive)

        def __del__(self):
            Raw.num_alive -= 1

    read = shard_stream.ShardStream._read_raw
    monkeypatch.setattr(shard_stream, "BLOCK_SIZE", 4)
    monkeypatch.setattr(
        shard_stream.ShardStream, "_read_raw", lambda self, table: map(Raw, read(self, table))
    )
    dataset = PortraitDataset(write_shards(tmp_path / "data", num_samples=12, shard_size=12))
    captions_of(stream_all(dataset, batch_size=12), 2)
    assert Raw.most <= 5


def test_first_block_is_not_shuffled_like_the_shards(shards, monkeypatch):
    keys = []
    stream = shard_stream.ShardStream(
        PortraitDataset(shards),
        shard_stream.StreamPlace(0, 1, 0, 1),
        seed=5,
        position=0,
        max_unreadable=0,
    )
    permutation = stream._permutation
    monkeypatch.setattr(
        stream, "_permutation", lambda n, *key: keys.append(key) or permutation(n, *key)
    )
    rows = iter(stream)
    for _ in range(16):
        next(rows)
    first_words = {len(key): key[0] for key in keys}
    assert len(first_words) == 2 and len(set(first_words.values())) == 2


@pytest.mark.parametrize("num_replicas", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_done", [1, 5, 12])
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


def test_streamed_items_are_those_of_random_access(shards):
    dataset = PortraitDataset(shards, with_flips=True)
    (stream,) = stream_all(dataset, batch_size=32, seed=1)
    batch = next(stream)
    items = {}
    for index in range(32):
        item = dataset[index]
        items[item["caption"], tuple(item["camera"].tolist())] = item
    assert len(items) == 32
    for row in range(32):
        key = batch["caption"][row], tuple(batch["camera"][row].tolist())
        torch.testing.assert_close(batch["image"][row], items[key]["image"])
        torch.testing.assert_close(batch["label_map"][row], items[key]["label_map"])


def test_repeated_samples_and_mirrored_copies_are_streamed(shards):
    edit_json(shards / "dataset.json", lambda c: c.update(repeats={image_name(3): 5}))
    dataset = PortraitDataset(shards, with_flips=True)
    assert len(dataset) == 40
    (seen,) = captions_of(stream_all(dataset, batch_size=40), 1)
    assert Counter(seen) == {**{str(i): 2 for i in range(16)}, "3": 10}


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


def test_too_many_damaged_samples_stop_the_stream(shards):
    for number in range(3):
        change_member(shards / f"shards/{number:06d}.tar", ".mask.png", b"no png")
    (stream,) = stream_all(PortraitDataset(shards), batch_size=4, max_unreadable=2)
    message = r"^3 sample\(s\) cannot be read, first: mask .*; max_unreadable=2 allows no more$"
    with pytest.raises(UserError, match=message):
        captions_of([stream], 4)


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_url_streams_what_the_folder_streams(shards, server, num_workers):
    options = {"batch_size": 4, "seed": 3, "num_workers": num_workers}
    local = stream_all(PortraitDataset(shards), **options)
    remote = stream_all(PortraitDataset(server), **options)
    assert captions_of(remote, 6) == captions_of(local, 6)
    resumed = stream_all(
        PortraitDataset(server + "/"),
        batch_size=4,
        state=remote[0].state_dict(),
        num_workers=num_workers,
    )
    assert captions_of(resumed, 2) == captions_of(local, 2)


def test_command_streams_what_the_folder_streams(shards):
    local = stream_all(PortraitDataset(shards), batch_size=4, seed=3)
    command = stream_all(PortraitDataset(f"pipe:cat {shards}/{{}}"), batch_size=4, seed=3)
    assert captions_of(command, 6) == captions_of(local, 6)


def test_items_behind_a_url_can_be_read_singly(shards, server):
    local, remote = PortraitDataset(shards), PortraitDataset(server)
    for index in (0, 3, 15):
        torch.testing.assert_close(remote[index]["image"], local[index]["image"])


def test_url_cannot_be_read_in_any_order(server):
    with pytest.raises(UserError, match="can only be streamed; say train.streaming=true"):
        make_loader(PortraitDataset(server), batch_size=2)


def test_missing_url_is_one_line(server):
    with pytest.raises(UserError, match=f"cannot read {server}/no/shards/index.json: ") as info:
        PortraitDataset(f"{server}/no")
    assert "\n" not in str(info.value) and "curl" not in str(info.value)


def test_command_without_a_place_for_names_is_refused():
    with pytest.raises(UserError, match="pipe:cat x: write {} where the command"):
        PortraitDataset("pipe:cat x")


def test_shard_missing_behind_a_url_is_named(shards, server):
    dataset = PortraitDataset(server)
    (shards / "shards/000005.tar").unlink()
    (stream,) = stream_all(dataset, batch_size=4)
    with pytest.raises(UserError, match=f"shard {server}/shards/000005.tar is ") as info:
        captions_of([stream], 8)
    assert "\n" not in str(info.value)


def test_local_shard_that_vanishes_is_named(shards):
    (stream,) = stream_all(PortraitDataset(shards), batch_size=4)
    (shards / "shards/000005.tar").unlink()
    with pytest.raises(UserError, match=f"^cannot read {shards}/shards/000005.tar: ") as info:
        captions_of([stream], 8)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("size", [700, 1024, 2048])
def test_shard_truncated_behind_a_url_is_named(shards, server, size):
    dataset, path = PortraitDataset(server), shards / "shards/000005.tar"
    path.write_bytes(path.read_bytes()[:size])
    (stream,) = stream_all(dataset, batch_size=4)
    with pytest.raises(UserError, match=r"shard .*000005.tar is (damaged or )?truncated|says") as e:
        captions_of([stream], 8)
    assert "\n" not in str(e.value)


def test_broken_header_is_called_damaged(shards):
    (stream,) = stream_all(PortraitDataset(shards), batch_size=4)
    path = shards / "shards/000005.tar"
    content = bytearray(path.read_bytes())
    start = content.index(b"00000/img00000011.image.png")
    content[start + 148 : start + 156] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(UserError, match="shard .*000005.tar is damaged or truncated: "):
        captions_of([stream], 8)


def test_resuming_with_other_shards_is_refused(tmp_path):
    paths = [write_shards(tmp_path / str(size), shard_size=size) for size in (2, 4)]
    first, second = (PortraitDataset(path) for path in paths)
    state = make_loader(first, batch_size=4, streaming=True).state_dict()
    with pytest.raises(UserError, match="cannot resume: this is another data set"):
        make_loader(second, batch_size=4, state=state, streaming=True)


def test_shard_of_other_samples_than_its_index_says_is_named(shards, server):
    dataset = PortraitDataset(server)
    (shards / "shards/000005.tar").write_bytes((shards / "shards/000006.tar").read_bytes())
    (stream,) = stream_all(dataset, batch_size=4)
    with pytest.raises(UserError, match="000005.tar is not what its index says: at 00000/img0000"):
        captions_of([stream], 8)


# Refusals.


def test_only_shards_can_be_streamed(dataset_folder):
    with pytest.raises(UserError, match="is not in shards, so it cannot be streamed; write it"):
        make_loader(PortraitDataset(dataset_folder), batch_size=2, streaming=True)


def test_fewer_shards_than_readers_are_refused(shards):
    with pytest.raises(
        UserError, match=r"has 8 shard\(s\) for 3 process\(es\) with 3 reader\(s\) each; use at"
    ):
        stream_all(PortraitDataset(shards), 3, batch_size=2, num_workers=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 2}, "the batch size of each process"),
        ({"num_workers": 2}, "train.num_workers"),
        ({"num_replicas": 2}, "the number of processes"),
    ],
    ids=str,
)
def test_resuming_in_another_order_is_refused(shards, change, words):
    dataset = PortraitDataset(shards)
    (stream,) = stream_all(dataset, batch_size=4, num_workers=0)
    next(stream)
    (value,), state = change.values(), stream.state_dict()
    options = {"batch_size": 4, "num_workers": 0} | change
    with pytest.raises(UserError, match=f"depends on {words}, which was .* is {value} now"):
        make_loader(dataset, state=state, streaming=True, **options)


def test_resuming_without_streaming_is_refused(shards):
    dataset = PortraitDataset(shards)
    for was in (True, False):
        state = make_loader(dataset, batch_size=4, streaming=was).state_dict()
        with pytest.raises(UserError, match=f"the run used train.streaming={str(was).lower()}"):
            make_loader(dataset, batch_size=4, state=state, streaming=not was)


# A training run.


@pytest.fixture
def streaming_run(dataset_folder, label_set, make_trainer, tiny_settings, tmp_path):
    """Return a function that makes a run on the usual data, one sample a shard."""
    files, index = open_dataset(dataset_folder)
    contents = [[files.read(f"{f}/{name}") for f in ("images", "masks")] for name in index.names]
    with DatasetWriter(dataset_folder, label_set, overwrite=True, shard_size=1) as writer:
        for name, content, camera in zip(index.names, contents, index.cameras, strict=True):
            writer.add_encoded(name, *content, camera)

    def make(folder, **options):
        loop = replace(tiny_settings.loop, streaming=True, **options)
        return make_trainer(tmp_path / folder, replace(tiny_settings, loop=loop))

    return make


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_training_resumes_exactly(streaming_run, tmp_path, num_workers):
    trainer, whole = streaming_run("whole", num_workers=num_workers)
    assert trainer.run()
    streaming_run("parts", num_workers=num_workers, total_kimg=0.004)[0].run()
    trainer, resumed = streaming_run("parts", num_workers=num_workers)
    load_state(tmp_path / "parts" / STATE_FILE, resumed)
    assert trainer.run() and resumed.data == whole.data
    for name, module in whole.modules().items():
        for key, value in module.state_dict().items():
            assert torch.equal(resumed.modules()[name].state_dict()[key], value), (name, key)


def test_training_stops_where_a_shard_has_nothing_readable(streaming_run, dataset_folder):
    change_member(dataset_folder / "shards/000003.tar", ".image.png", b"no png")
    trainer, _ = streaming_run("run")
    with pytest.raises(UserError, match=r"no sample is left: 1 sample\(s\) cannot be read, first"):
        trainer.run()
