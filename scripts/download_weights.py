"""Download published weights from the Hugging Face hub and verify them."""

import logging
import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from omegaconf import DictConfig, OmegaConf

from mate3d.checkpoints.hub_download import HubFile, HubRepository, download_file, read_repository
from mate3d.errors import UserError
from mate3d.option_checks import parse_words
from scripts._entry import run

_logger = logging.getLogger(__name__)


def _download(config: DictConfig) -> None:
    sha256, names = _read_checksum(config.sha256), _read_names(config)
    repository = read_repository(config.repo_id, config.revision)
    _describe(repository)
    if config.list:
        for file in repository.files:
            _describe_file(file)
        return
    files = repository.select(names, ".pkl")
    if sha256 and len(files) > 1:
        found = ", ".join(file.name for file in files)
        raise UserError(f"sha256=... is for one file; name one of {found} as files=NAME")
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
        words = ["python", "-m", "scripts.convert_checkpoint", f"source={path}", f"output={folder}"]
        _logger.info("  %s", shlex.join(words))


def _read_checksum(text: str | None) -> str | None:
    if text and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise UserError(f"sha256={text}; a SHA-256 checksum has 64 hexadecimal digits")
    return text or None


def _read_names(config: DictConfig) -> list[str]:
    """Return the files that are asked for; none asks for every snapshot."""
    files = OmegaConf.to_container(config)["files"]
    return list(parse_words("files", files)) if files else []


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
