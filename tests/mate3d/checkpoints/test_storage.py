"""Documents are read whole and unharmed or not at all, and full disks are errors of the system."""

import errno
import random

import pytest
import torch

from mate3d.atomic import atomic_folder
from mate3d.checkpoints.storage import load_document, save_document, save_weights
from mate3d.errors import UserError
from tests.processes import error_with_file_limit

DOCUMENT = {"weights": torch.arange(2000.0), "steps": 3, "names": ["a", ("b", None)]}


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    path, noticed, rng = tmp_path / "x.pt", 0, random.Random(0)
    save_document(path, DOCUMENT)
    content = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = load_document(path)
        except UserError as error:
            noticed += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert loaded["weights"].equal(DOCUMENT["weights"]) and loaded["steps"] == 3
    assert noticed > 200


def test_a_document_that_was_cut_short_is_named(tmp_path):
    path = tmp_path / "x.pt"
    save_document(path, DOCUMENT)
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="x.pt cannot be read"):
            load_document(path)
    with pytest.raises(UserError, match="y.pt not found"):
        load_document(tmp_path / "y.pt")


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_document(path, {"x": torch.zeros(100_000)}),
        lambda path: save_weights(path, {"x": torch.zeros(100_000)}),
    ],
)
def test_a_file_that_cannot_grow_is_an_error_of_the_system(tmp_path, save):
    message = error_with_file_limit(lambda: save(tmp_path / "x"), 50_000)
    assert message.startswith(f"OSError: [Errno {errno.EFBIG}] File too large")

    def save_in_folder():
        with atomic_folder(tmp_path / "folder") as temporary:
            save(temporary / "x")

    message = error_with_file_limit(save_in_folder, 50_000)
    assert message == f"UserError: cannot write {tmp_path}/folder: File too large"
