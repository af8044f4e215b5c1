"""Download published weights from the Hugging Face hub and verify them."""

import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from omegaconf import DictConfig, OmegaConf

from mate3d.checkpoints.hub import download_file, read_repository, select_files
from mate3d.errors import UserError
from mate3d.option_checks import parse_words
from scripts._entry import run

_logger = logging.getLogger(__name__)


def _download(config: DictConfig) -> None:
    if config.sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", config.sha256):
        raise UserError(f"sha256={config.sha256}; a SHA-256 checksum has 64 hexadecimal digits")
    wanted = OmegaConf.to_container(config)["files"]
    names = list(parse_words("files", wanted)) if wanted else []
    info = read_repository(config.repo_id, config.revision)
    card = info.card_data.to_dict() if info.card_data else {}
    license = card.get("license_name") or card.get("license")
    stated = f"{license}, as its card states" if license else "not stated"
    _logger.info("hub id    %s", info.id)
    _logger.info("revision  %s (commit %s)", config.revision, info.sha)
    _logger.info("licence   %s; the authors' terms apply", stated)
    files = info.siblings if config.list else select_files(info, names, ".pkl")
    for file in files:
        checksum = f"SHA-256 {file.lfs.sha256}" if file.lfs else f"git blob {file.blob_id}"
        _logger.info("file      %s, %s, %s", file.rfilename, _format_size(file.size), checksum)
    if config.list:
        return
    if config.sha256 and len(files) > 1:
        found = ", ".join(file.rfilename for file in files)
        raise UserError(f"sha256=... is for one file; name one of {found} as files=NAME")
    paths = [download_file(info, file, config.output, sha256=config.sha256) for file in files]
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script with the words of the command line."""
    run("download_weights", _download, argv)


if __name__ == "__main__":
    main()
