"""Samples on their way to a data set: kept on disk, so that an interrupted preparation goes on."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from mate3d.errors import UserError
from training.data.format import DatasetWriter
from training.data.format.layout import check_name
from training.data.preparation.samples import PreparedSample

_JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class _Entry:
    """What the journal knows of a finished sample."""

    camera: list[float]
    caption: str
    residual: float | None
    repeats: int
    attributes: dict[str, Any]
    version: str


class Staging:
    """A hidden folder beside the output that holds finished samples and a journal of them.

    Use as a context manager. A sample is in the journal once its files are written, so whatever
    stops the process, the next one with the same settings goes on behind it.

    Args:
        output: Where the data set shall be.
        settings: All that the samples depend on; JSON values.
        versions: What each sample is made of, by name; a sample of an earlier preparation counts
            only if it is the same.
        restart: Discard what an earlier, interrupted preparation has done.

    Raises:
        UserError: If another process prepares the same output, an interrupted preparation with
            other settings is there, or the disk cannot be written.
    """

    def __init__(
        self,
        output: Path,
        settings: Mapping[str, Any],
        versions: Mapping[str, str],
        *,
        restart: bool = False,
    ):
        self.folder = output.parent / f".{output.name}.preparing"
        self._output = output
        text = json.dumps(settings, sort_keys=True)
        self._heading = {"settings": hashlib.sha256(text.encode()).hexdigest()}
        self._versions = versions
        self._restart = restart
        self._lock = FileLock(output.parent / f".{output.name}.preparing.lock")
        self._entries: dict[str, _Entry] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the finished samples, sorted."""
        return tuple(sorted(self._entries))

    @property
    def cameras(self) -> np.ndarray:  # [N, 25], in the order of `names`
        """Cameras of the finished samples."""
        return np.array([self._entries[name].camera for name in self.names]).reshape(-1, 25)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __enter__(self) -> "Staging":
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"another process is preparing {self._output} already") from None
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._journal.close()
        self._lock.release()
        if not self.folder.exists():
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def add(self, sample: PreparedSample) -> None:
        """Keep a finished sample.

        Raises:
            UserError: If its name is unsafe, or the disk cannot be written.
        """
        check_name(sample.name)
        entry = _Entry(
            list(sample.camera),
            sample.caption,
            sample.residual,
            sample.repeats,
            dict(sample.attributes),
            self._versions[sample.name],
        )
        try:
            for folder, content in (("images", sample.image), ("masks", sample.mask)):
                path = self.folder / folder / sample.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._write_line({"name": sample.name, **vars(entry)})
        except OSError as error:
            raise self._cannot_write(error) from error
        self._entries[sample.name] = entry

    def write_to(
        self,
        writer: DatasetWriter,
        repeats: Sequence[int] | None = None,
    ) -> None:
        """Write all samples in the order of their names.

        Args:
            writer: An entered writer of the output.
            repeats: One number a sample, in the order of `names`; None takes the samples' own.
        """
        for index, name in enumerate(self.names):
            entry = self._entries[name]
            writer.add_encoded(
                name,
                (self.folder / "images" / name).read_bytes(),
                (self.folder / "masks" / name).read_bytes(),
                entry.camera,
                entry.caption,
                residual=entry.residual,
                repeats=entry.repeats if repeats is None else int(repeats[index]),
                attributes=entry.attributes,
            )

    def discard(self) -> None:
        """Remove the folder; called once the data set has its name."""
        # First, so that a kill in between leaves what `remove_leftovers` knows to be done with.
        (self.folder / _JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_unused(self) -> None:
        """Remove folder and lock, unless another process holds it."""
        with suppress(Timeout), self._lock.acquire(timeout=0):
            self.discard()
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def _open(self) -> None:
        if self._restart:
            self.discard()
        path = self.folder / _JOURNAL
        try:
            self.folder.mkdir(exist_ok=True)
            lines = self._read_lines(path)
            if lines and lines[0] != self._heading:
                raise UserError(
                    f"an interrupted preparation of {self._output} with other options lies in "
                    f"{self.folder}; give its options to go on, or restart=true to discard it"
                )
            # Written anew without a line that a kill cut short.
            self._journal = path.with_suffix(".new").open("w", encoding="utf-8")
            for line in lines or [self._heading]:
                self._write_line(line)
            path.with_suffix(".new").replace(path)
        except OSError as error:
            raise self._cannot_write(error) from error
        for line in lines[1:]:
            name = line.pop("name")
            if self._versions.get(name) == line["version"] and self._has_files(name):
                self._entries[name] = _Entry(**line)

    def _has_files(self, name: str) -> bool:
        return all((self.folder / folder / name).is_file() for folder in ("images", "masks"))

    def _read_lines(self, path: Path) -> list[dict[str, Any]]:
        if not path.exists():
            return []
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    def _write_line(self, line: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(line) + "\n")
        self._journal.flush()

    def _cannot_write(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.folder}: {error.strerror or error}")


def remove_leftovers(output: Path) -> None:
    """Remove what a preparation of `output` left that was killed after its work was done."""
    staging = Staging(output, {}, {})
    if staging.folder.is_dir() and not (staging.folder / _JOURNAL).exists():
        staging.remove_unused()
