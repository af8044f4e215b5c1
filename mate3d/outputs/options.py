"""Options of the files that heads are written to: videos and meshes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mate3d.options import Above, OptionError, Options, Range

VideoFormat = Literal["mp4", "gif"]
MeshFormat = Literal["ply", "obj", "glb"]
Coloring = Literal["texture", "label"]

# Browsers play delays below two hundredths of a second as if they were ten.
MAX_GIF_FPS = 50


@dataclass(frozen=True)
class VideoOptions(Options):
    """Videos of closed camera paths.

    Args:
        formats: Video formats, mp4 or gif, or both separated by a comma.
        fps: Frames per second; a GIF plays at most 50.
    """

    formats: tuple[VideoFormat, ...] = ("mp4",)
    fps: Annotated[float, Above(0, up_to=240)] = 30.0

    def __post_init__(self):
        super().__post_init__()
        if not self.formats:
            raise OptionError("formats", self.formats, "use mp4, gif, or both")
        if "gif" in self.formats and self.fps > MAX_GIF_FPS:
            raise OptionError("fps", self.fps, f"a gif plays at most {MAX_GIF_FPS}")


@dataclass(frozen=True)
class MeshOptions(Options):
    """Meshes of a head's surface.

    Args:
        enabled: Also write each head's surface as a mesh.
        resolution: Grid points per side of the box. Doubling it takes about five times as long;
            the grid takes 0.07 GB at 256 and 4.3 GB at 1024.
        formats: File formats, any of ply, obj and glb, separated by commas.
        coloring: Vertex colours of the head, from its texture or its labels.
        per_label: Also write one closed mesh per label.
    """

    enabled: bool = False
    resolution: Annotated[int, Range(8, 1024)] = 256
    formats: tuple[MeshFormat, ...] = ("ply",)
    coloring: Coloring = "texture"
    per_label: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not self.formats:
            raise OptionError("formats", self.formats, "use any of ply, obj, glb")
