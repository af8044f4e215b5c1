"""Staging of finished samples on disk, so that an interrupted preparation can be resumed."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mate3d.atomic import file_lock
from mate3d.errors import UserError
from torch_utils.stages import stage
from training.data.format import DatasetWriter
from training.data.format.layout import check_name
from training.data.preparation.samples import PreparedSample

_JOURNAL = "journal.jsonl"


class Staging:
    """A hidden folder beside the output with finished samples and a journal of them.

    A sample is added to the journal after its files are written, so a later process with the same
    settings resumes after it. Created by `open_staging`.

    Args:
        folder: Folder of the staged samples.
        settings: Everything the samples depend on, as JSON values.
        versions: Version of each sample's inputs, by name; staged samples of another version are
            made again.

    Raises:
        UserError: If the folder belongs to an interrupted preparation with other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], versions: Mapping[str, str]):
        self._folder, self._versions = folder, versions
        self._known: dict[str, dict[str, Any]] = {}
        heading = json.loads(json.dumps({"settings": settings}))
        lines = self._read_journal()
        if not lines:
            with self._naming_errors():
                self._write_line(heading)
        elif lines[0] != heading:
            raise UserError(
                f"{folder} belongs to an interrupted preparation with other options; use the same "
                "options to resume it, or restart=true to discard it"
            )
        for line in lines[1:]:
            name, version = line.pop("name"), line.pop("version")
            is_there = all(path.is_file() for path in self._paths(name))
            if is_there and versions.get(name) == version:
                self._known[name] = line

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the finished samples, sorted."""
        return tuple(sorted(self._known))

    @property
    def cameras(self) -> np.ndarray:  # [N, 25], in the order of `names`
        """Cameras of the finished samples."""
        return np.array([self._known[name]["camera"] for name in self.names]).reshape(-1, 25)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def add(self, sample: PreparedSample) -> None:
        """Stage a finished sample.

        Raises:
            UserError: If its name is unsafe, or the disk cannot be written.
        """
        check_name(sample.name)
        version = self._versions[sample.name]
        with self._naming_errors():
            files = zip(self._paths(sample.name), (sample.image, sample.mask), strict=True)
            for path, content in files:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._write_line({"name": sample.name, "version": version, **sample.known})
        self._known[sample.name] = dict(sample.known)

    def write_to(self, writer: DatasetWriter, repeats: Sequence[int] | None = None) -> None:
        """Write all samples in order of name.

        Args:
            writer: An entered writer of the output.
            repeats: One number per sample, in the order of `names`; None keeps the samples' own.
        """
        with stage("Writing the dataset", len(self.names)) as bar:
            for index, name in enumerate(self.names):
                known = self._known[name]
                if repeats is not None:
                    known = {**known, "repeats": int(repeats[index])}
                image, mask = (path.read_bytes() for path in self._paths(name))
                writer.add_encoded(name, image, mask, **known)
                bar.update()

    def discard(self) -> None:
        """Remove the folder, after the dataset is written."""
        # Remove the journal first, so that a kill in between does not leave a resumable rest.
        (self._folder / _JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self, name: str) -> tuple[Path, Path]:
        return self._folder / "images" / name, self._folder / "masks" / name

    def _read_journal(self) -> list[dict[str, Any]]:
        """Return the journal's lines, without those truncated by a kill or a full disk."""
        lines, path = [], self._folder / _JOURNAL
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return lines

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self._folder}: {error.strerror or error}") from error

    def _write_line(self, line: Mapping[str, Any]) -> None:
        # Start a new line, because the last one may be truncated.
        with (self._folder / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(f"\n{json.dumps(line)}")


@contextmanager
def open_staging(
    output: Path, settings: Mapping[str, Any], versions: Mapping[str, str], *, restart: bool
) -> Iterator[Staging]:
    """Yield the staged samples of `output`, locked against other processes; see `Staging`.

    Args:
        restart: Discard the samples of an interrupted preparation.

    Raises:
        UserError: See `Staging`; or if another process is preparing the same output.
    """
    folder = output.parent / f".{output.name}.preparing"
    with file_lock(folder / "lock", f"another process is already preparing {output}"):
        if restart:
            (folder / _JOURNAL).unlink(missing_ok=True)
        yield Staging(folder, settings, versions)
