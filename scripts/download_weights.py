"""Download published weights from the Hugging Face hub and verify them."""

import logging
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from omegaconf import DictConfig

from mate3d.errors import UserError
from mate3d.hub_download import HubFile, HubRepository, download_file, read_repository
from scripts._entry import run

_logger = logging.getLogger(__name__)


def _download(config: DictConfig) -> None:
    sha256 = _read_checksum(config.sha256)
    repository = read_repository(config.repo_id, config.revision)
    _describe(repository)
    if config.list:
        for file in repository.files:
            _describe_file(file)
        return
    files = repository.select(list(config.files), ".pkl")
    if sha256 and len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"sha256=... is for one file; name one of {names} as files=[NAME]")
    for file in files:
        _describe_file(file)
    paths = [download_file(repository, file, config.output, sha256=sha256) for file in files]
    for path in paths:
        _logger.info("verified  %s", path)
    snapshots = [path for path in paths if path.suffix == ".pkl"]
    if snapshots:
        _logger.info("next:")
    for path in snapshots:
        folder = PurePosixPath("checkpoints") / path.stem
        _logger.info("  python -m scripts.convert_checkpoint source=%s output=%s", path, folder)


def _read_checksum(text: str | None) -> str | None:
    if text and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise UserError(f"sha256={text}; a SHA-256 checksum has 64 hexadecimal digits")
    return text or None


def _describe(repository: HubRepository) -> None:
    _logger.info("hub id    %s", repository.repo_id)
    _logger.info("revision  %s (commit %s)", repository.revision, repository.commit)
    license = f"{repository.license}, as its card states" if repository.license else "not stated"
    _logger.info("licence   %s; the authors' terms apply", license)


def _describe_file(file: HubFile) -> None:
    checksum = f"SHA-256 {file.sha256}" if file.sha256 else f"git blob {file.blob_id}"
    _logger.info("file      %s, %s, %s", file.name, _format_size(file.size), checksum)


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
