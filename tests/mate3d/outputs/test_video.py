"""Videos as other programs read them; complete or absent; the same bytes for the same frames."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from mate3d.errors import UserError
from mate3d.outputs import video


def _frames(num_frames: int = 5, height: int = 64, width: int = 64) -> list[np.ndarray]:
    """A white square that moves over a coloured ground."""
    frames = []
    for index in range(num_frames):
        frame = np.full((height, width, 3), (200, 60, 20), dtype=np.uint8)
        frame[8:24, 8 * index : 8 * index + 8] = 255
        frames.append(frame)
    return frames


def _write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    with video.open_videos([path], fps) as append:
        for frame in frames:
            append(frame)


def test_mp4_holds_all_frames_at_the_speed_asked_for(tmp_path):
    frames = _frames()
    _write_video(tmp_path / "a.mp4", frames, 25)
    with imageio.get_reader(tmp_path / "a.mp4") as reader:
        assert reader.get_meta_data()["fps"] == 25
        decoded = [np.array(frame) for frame in reader]
    assert len(decoded) == len(frames)
    for frame, expected in zip(decoded, frames, strict=True):
        assert np.abs(frame.astype(int) - expected).mean() < 4


def test_odd_sides_are_extended_by_the_last_pixels(tmp_path):
    _write_video(tmp_path / "a.mp4", _frames(height=63, width=61), 10)
    with imageio.get_reader(tmp_path / "a.mp4") as reader:
        assert reader.get_data(0).shape == (64, 62, 3)


def test_gif_holds_few_colors_exactly_and_loops_for_its_whole_length(tmp_path):
    frames = _frames(6)
    _write_video(tmp_path / "a.gif", frames, 24)
    durations = []
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6 and gif.info["loop"] == 0
        for index, frame in enumerate(frames):
            gif.seek(index)
            durations.append(gif.info["duration"])
            assert np.array_equal(np.array(gif.convert("RGB")), frame)
    assert sum(durations) == 250 and set(durations) <= {40, 50}


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_failure_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"old")

    def broken_frames():
        yield from _frames(2)
        raise RuntimeError("renderer failed")

    with pytest.raises(RuntimeError, match="renderer failed"):
        _write_video(path, broken_frames(), 30)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_small_frames_are_enlarged_by_a_whole_factor():
    images = torch.rand(1, 3, 96, 96)
    large = video.enlarge_for_video(images, is_smooth=False)
    assert large.shape == (1, 3, 288, 288)
    assert torch.equal(large[..., ::3, ::3], images)
    assert video.enlarge_for_video(torch.rand(1, 3, 300, 300)).shape[-1] == 300


@pytest.mark.parametrize(
    ("name", "fps", "named"),
    [
        ("a.avi", 30, "avi"),
        ("a.mp4", 0, "0"),
        ("a.gif", 60, "gif .*50"),
        ("taken/a.gif", 30, "taken"),
        ("broken/a.mp4", 30, "a.mp4"),
    ],
)
def test_impossible_videos_are_refused(tmp_path, monkeypatch, name, fps, named):
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(video, "get_ffmpeg_exe", lambda: shutil.which("false"))
    with pytest.raises(UserError, match=named):
        _write_video(tmp_path / name, _frames(), fps)
    assert not list(tmp_path.glob("**/a.*"))
