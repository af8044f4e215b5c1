"""Download published weights from the Hugging Face hub and verify them."""

import logging
import re
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from mate3d.errors import UserError
from mate3d.options import FilePath, OptionError, Options
from scripts._entry import run
from scripts._options import Paths

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(Options):
    """Download published weights from the Hugging Face hub: resumable and verified.

    python -m scripts.download_weights list=true
    python -m scripts.download_weights output=weights

    Args:
        repo_id: Model repository on the hub; the default is that of MaTe3D's authors.
        revision: Branch, tag or commit.
        files: Files in the repository, separated by commas, such as face.pkl; empty takes every
            .pkl file.
        sha256: Expected SHA-256 of the file, from a source that you trust; empty relies on the
            hub's.
        list: Only list the files of the repository, with their sizes and checksums.
        output: Folder for the files. Files that are already there are verified, never overwritten.
        paths: Where files are.
    """

    repo_id: str = "Ellis/MaTe3D"
    revision: str = "main"
    files: tuple[str, ...] = ()
    sha256: str = ""
    list: bool = False
    output: FilePath = "weights"
    paths: Paths

    def __post_init__(self):
        super().__post_init__()
        if self.sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise OptionError("sha256", self.sha256, "use 64 hexadecimal digits")


OPTIONS = DownloadOptions


def _download(options: DownloadOptions) -> None:
    from mate3d.checkpoints.hub import download_file, read_repository, select_files

    info = read_repository(options.repo_id, options.revision)
    card = info.card_data.to_dict() if info.card_data else {}
    license = card.get("license_name") or card.get("license")
    stated = f"{license}, as its card states" if license else "not stated"
    _logger.info("hub id    %s", info.id)
    _logger.info("revision  %s (commit %s)", options.revision, info.sha)
    _logger.info("licence   %s; the authors' terms apply", stated)
    files = info.siblings if options.list else select_files(info, list(options.files), ".pkl")
    for file in files:
        checksum = f"SHA-256 {file.lfs.sha256}" if file.lfs else f"git blob {file.blob_id}"
        _logger.info("file      %s, %s, %s", file.rfilename, _format_size(file.size), checksum)
    if options.list:
        return
    if options.sha256 and len(files) > 1:
        found = ", ".join(file.rfilename for file in files)
        raise UserError(f"sha256=... is for one file; name one of {found} as files=NAME")
    paths = [download_file(info, file, options.output, sha256=options.sha256) for file in files]
    for path in paths:
        _logger.info("verified  %s", path)
    snapshots = [path for path in paths if path.suffix == ".pkl"]
    if snapshots:
        _logger.info("next:")
    for path in snapshots:
        folder = PurePosixPath("checkpoints") / path.stem
        words = ["python", "-m", "scripts.convert_checkpoint", f"source={path}", f"output={folder}"]
        _logger.info("  %s", shlex.join(words))


def _format_size(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


main = partial(run, "download_weights", _download)

if __name__ == "__main__":
    main()
