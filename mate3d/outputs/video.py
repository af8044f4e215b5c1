"""Write frames as MP4 (H.264) or GIF; the same frames give the same bytes."""

import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image
from torch import Tensor

from mate3d.atomic import atomic_file
from mate3d.errors import UserError
from mate3d.outputs.options import VideoOptions

# Players and browsers show smaller videos badly.
MIN_VIDEO_SIDE = 256
# Constant rate factor of H.264; 18 is visually close to lossless.
_CRF = 18

AppendFrame = Callable[[np.ndarray], None]


def enlarge_for_video(
    images: Tensor,  # [B, C, H, W]
    *,
    is_smooth: bool = True,
) -> Tensor:  # [B, C, s * H, s * W]
    """Enlarge images by the smallest whole factor that makes them wide enough for players.

    Args:
        images: Unchanged if at least `MIN_VIDEO_SIDE` wide.
        is_smooth: Interpolate between pixels; False repeats them, for label colours.
    """
    factor = -(-MIN_VIDEO_SIDE // images.shape[-1])
    if factor <= 1:
        return images
    mode = "bicubic" if is_smooth else "nearest"
    return torch.nn.functional.interpolate(images, scale_factor=factor, mode=mode)


@contextmanager
def open_videos(paths: Iterable[str | Path], fps: float) -> Iterator[AppendFrame]:
    """Yield a function that appends a frame, [H, W, 3] uint8, to each of several videos.

    The files appear complete when the block ends, or not at all. H.264 needs even sides, so an odd
    side is extended by repeating the last pixels.

    Args:
        paths: The suffix, .mp4 or .gif, selects the format.
        fps: Frames per second; for a GIF, delays are rounded to hundredths of a second.

    Raises:
        UserError: If a suffix or `fps` is not supported, or a file cannot be written.
    """
    paths = [Path(path) for path in paths]
    # Refuses what cannot be written.
    VideoOptions(tuple(path.suffix.removeprefix(".") for path in paths), fps)
    with ExitStack() as stack:
        appends = []
        for path in paths:
            temporary = stack.enter_context(atomic_file(path))
            encode = _encode_mp4 if path.suffix == ".mp4" else _encode_gif
            appends.append(stack.enter_context(encode(temporary, fps)))

        def append(frame: np.ndarray) -> None:
            assert frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8, frame.shape
            for function in appends:
                function(frame)

        yield append


@contextmanager
def _encode_mp4(path: Path, fps: float) -> Iterator[AppendFrame]:
    process = None
    with tempfile.TemporaryFile() as messages:

        def append(frame: np.ndarray) -> None:
            nonlocal process
            height, width = frame.shape[:2]
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if process is None:
                command = _mp4_command(path, frame.shape, fps)
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=messages)
            process.stdin.write(frame.tobytes())

        try:
            yield append
            assert process is not None, "a video needs at least one frame"
            process.stdin.close()
            if process.wait() != 0:
                raise BrokenPipeError
        except BrokenPipeError:
            process.wait()
            messages.seek(0)
            reason = messages.read().decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(f"cannot write video {path.name}: {' '.join(reason)}") from None
        finally:
            if process is not None:
                process.kill()
                process.wait()


def _mp4_command(path: Path, shape: tuple[int, ...], fps: float) -> list[str]:
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}", "-r", str(fps)]
    # With one thread and no version strings, the bytes depend on the frames only.
    same_bytes = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    quality = ["-c:v", "libx264", "-crf", str(_CRF), "-pix_fmt", "yuv420p"]
    # The index comes before the frames, so that browsers start playing at once.
    target = ["-movflags", "+faststart", str(path)]
    start = [get_ffmpeg_exe(), "-y", "-loglevel", "error"]
    return [*start, *source, "-i", "-", "-an", *quality, *same_bytes, *target]


@contextmanager
def _encode_gif(path: Path, fps: float) -> Iterator[AppendFrame]:
    frames: list[Image.Image] = []

    def append(frame: np.ndarray) -> None:
        # One byte per pixel and 256 colours per frame. No dithering: its noise flickers and makes
        # the file larger.
        frames.append(Image.fromarray(frame).quantize(256, dither=Image.Dither.NONE))

    yield append
    assert frames, "a video needs at least one frame"
    ends = [round(100 * (index + 1) / fps) for index in range(len(frames))]
    durations = [10 * (end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    frames[0].save(
        path, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
