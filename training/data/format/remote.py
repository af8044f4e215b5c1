"""Stream the files of a dataset from a URL or command."""

import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from webdataset.gopen import gopen

from mate3d.errors import UserError

PLACE = "{}"


def is_remote(location: str) -> bool:
    """Return whether a location is a URL (`https://...`) or command (`pipe:...`)."""
    return location.startswith("pipe:") or "://" in location


def file_url(location: str, name: str) -> str:
    """Return the URL or command for a file: its name replaces `{}`, or is appended to a URL.

    Raises:
        UserError: If a command has no `{}`.
    """
    if PLACE in location:
        return location.replace(PLACE, name)
    if location.startswith("pipe:"):
        raise UserError(
            f"dataset {location}: put {PLACE} in the command as a placeholder for the file name, "
            f"e.g. pipe:aws s3 cp s3://bucket/cats/{PLACE} -"
        )
    return f"{location.rstrip('/')}/{name}"


@contextmanager
def open_stream(url: str) -> Iterator[BinaryIO]:
    """Open a path, URL or command for sequential reading.

    Raises:
        UserError: If it cannot be opened, or reading it fails in the block.
    """
    if url.startswith(("http:", "https:")) and shutil.which("curl") is None:
        raise UserError(f"cannot read {url}: curl is not installed")
    try:
        stream = gopen(url)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot read {url}: {describe(error)}") from None
    try:
        yield stream
    except OSError as error:
        raise UserError(f"cannot read {url}: {describe(error)}") from None
    finally:
        # A command stopped early reports an error; what was read is checked elsewhere.
        with suppress(OSError):
            stream.close()


def read_file(url: str, offset: int = 0, size: int = -1) -> bytes:
    """Return `size` bytes of a stream after skipping `offset`; -1 for all.

    Raises:
        UserError: If it cannot be read, or ends too early.
    """
    with open_stream(url) as stream:
        _skip(stream, offset)
        content = stream.read() if size < 0 else stream.read(size)
    if size >= 0 and len(content) < size:
        raise UserError(f"{url} ends before byte {offset + size}; is the upload complete?")
    if size < 0 and not content:
        raise UserError(f"cannot read {url}: missing or empty")
    return content


def describe(error: Exception) -> str:
    """Return the reason of a failure in one line, without webdataset's command."""
    text = str(error.args[0] if isinstance(error, tarfile.TarError) and error.args else error)
    code = re.search(r"\): exit (\d+) ", text)
    if code:
        return f"the command failed with exit code {code[1]}"
    return (text or type(error).__name__).splitlines()[0].partition(" @ <")[0]


def _skip(stream: BinaryIO, count: int, chunk: int = 1 << 20) -> None:
    while count > 0:
        skipped = len(stream.read(min(count, chunk)))
        if skipped == 0:
            return
        count -= skipped
