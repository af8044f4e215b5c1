"""Options shared by several scripts."""

from dataclasses import dataclass
from typing import Literal

from mate3d.options import FilePath, Options

Resume = Literal["false", "true", "auto"]


@dataclass(frozen=True, kw_only=True)
class Paths(Options):
    """Where files are.

    Args:
        outputs: Folder for the run folders of all scripts.
        run_folder: Folder for this run's config.yaml, log.txt and git_revision.txt.
    """

    outputs: FilePath = "outputs"
    run_folder: FilePath
