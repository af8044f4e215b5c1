"""Download published weights from the Hugging Face hub and verify them."""

import logging
import re
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mate3d.errors import UserError
from mate3d.options import FilePath, OptionError, Options
from scripts._entry import run
from scripts._options import Paths

_logger = logging.getLogger(__name__)

_AUTHORS = "Ellis/MaTe3D"
_STABLE_DIFFUSION = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "")
# Repositories and folders of the presets of guidance that the hub has.
_PRIORS = {
    "mate3d_face": ((_AUTHORS, "face_controlnet"), _STABLE_DIFFUSION),
    "mate3d_cat": ((_AUTHORS, "cat_controlnet"), _STABLE_DIFFUSION),
    "stable_diffusion_1_5": (_STABLE_DIFFUSION,),
}


@dataclass(frozen=True, kw_only=True)
class DownloadOptions(Options):
    """Download published weights from the Hugging Face hub: resumable and verified.

    python -m scripts.download_weights list=true
    python -m scripts.download_weights output=weights
    python -m scripts.download_weights what=mate3d_face

    Args:
        what: Generators, or all that a preset of guidance needs, which goes to Hugging Face's cache
            (HF_HUB_CACHE): guidance=mate3d_face then needs no network.
        repo_id: Model repository on the hub; the default is that of MaTe3D's authors.
        revision: Branch, tag or commit.
        files: Files in the repository, separated by commas, such as face.pkl; empty takes every
            .pkl file outside of ControlNets.
        sha256: Expected SHA-256 of the file, from a source that you trust; empty relies on the
            hub's.
        list: Only list the files, with their sizes and checksums.
        output: Folder for the files. Files that are already there are verified, never overwritten.
        paths: Where files are.
    """

    what: Literal["generators", "mate3d_face", "mate3d_cat", "stable_diffusion_1_5"] = "generators"
    repo_id: str = _AUTHORS
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
        for name in ("repo_id", "revision", "files", "sha256", "output"):
            value = getattr(self, name)
            if self.what != "generators" and value != getattr(DownloadOptions, name):
                raise OptionError(name, value, f"leave it out with what={self.what}")


OPTIONS = DownloadOptions


def _download(options: DownloadOptions) -> None:
    from mate3d.checkpoints import hub
    from mate3d.diffusion.places import controlnet_folders, needed_files

    is_prior = options.what in _PRIORS
    folder = None if is_prior else options.output
    chosen, total, missing = [], 0, 0
    for repo_id, subfolder in _PRIORS.get(options.what, ((options.repo_id, ""),)):
        info = hub.read_repository(repo_id, options.revision)
        card = info.card_data.to_dict() if info.card_data else {}
        license = card.get("license_name") or card.get("license")
        stated = f"{license}, as its card states" if license else "not stated"
        _logger.info("hub id    %s", info.id)
        _logger.info("revision  %s (commit %s)", options.revision, info.sha)
        _logger.info("licence   %s; the authors' terms apply", stated)
        if is_prior:
            names = [file.rfilename for file in info.siblings]
            # All ControlNets if there are several: guidance.controlnet_subfolder chooses.
            found = controlnet_folders(names) if subfolder else [""]
            folders = [each for each in found if subfolder in each.split("/")]
            needed = needed_files(names, folders, None, f"what={options.what}: {info.id}")
            files = [file for file in info.siblings if file.rfilename in needed]
        else:
            files = info.siblings if options.list else hub.select_snapshots(info, options.files)
        for file in files:
            checksum = f"SHA-256 {file.lfs.sha256}" if file.lfs else f"git blob {file.blob_id}"
            _logger.info("file      %s, %s, %s", file.rfilename, _size(file.size), checksum)
            paths = hub.local_paths(info, file, folder)
            present = sum(path.stat().st_size for path in paths if path.exists())
            total, missing = total + file.size, missing + max(0, file.size - present)
            chosen.append((info, file))
    _logger.info("total     %s, of which %s are to be downloaded", _size(total), _size(missing))
    if options.list:
        return
    if options.sha256 and len(chosen) > 1:
        found = ", ".join(file.rfilename for _, file in chosen)
        raise UserError(f"sha256=... is for one file; name one of {found} as files=NAME")
    place = Path(hub.constants.HF_HUB_CACHE if is_prior else options.output)
    standing = next(each for each in (place, *place.absolute().parents) if each.exists())
    if (free := shutil.disk_usage(standing).free) < missing:
        raise UserError(f"{place} has {_size(free)} free, but {_size(missing)} more are needed")
    paths = [hub.download_file(info, file, folder, sha256=options.sha256) for info, file in chosen]
    for path in paths:
        _logger.info("verified  %s", path)


def _size(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


main = partial(run, "download_weights", _download)

if __name__ == "__main__":
    main()
