"""File names inside a dataset: index, folders, and members of tar shards."""

from mate3d.errors import UserError

INDEX_NAME = "dataset.json"
SHARD_FOLDER = "shards"
SHARD_INDEX_NAME = f"{SHARD_FOLDER}/index.json"
IMAGE_FOLDER = "images/"
MASK_FOLDER = "masks/"
IMAGE_SUFFIX = ".image.png"
MASK_SUFFIX = ".mask.png"
SUFFIX = ".png"

_FOLDERS = {IMAGE_SUFFIX: IMAGE_FOLDER, MASK_SUFFIX: MASK_FOLDER}


def image_name(index: int) -> str:
    """Return the name of image number `index` in datasets that we generate."""
    return f"{index // 1000:05d}/img{index:08d}{SUFFIX}"


def shard_name(index: int) -> str:
    """Return the path of shard number `index`, relative to the dataset."""
    return f"{SHARD_FOLDER}/{index:06d}.tar"


def check_name(name: str) -> None:
    """Check that a name stays below the folder that it is appended to.

    Raises:
        UserError: If it is not a relative path with forward slashes.
    """
    # JSON can contain lone surrogates, which are invalid in file names.
    is_text = "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)
    is_below = "\\" not in name and {"", ".", ".."}.isdisjoint(name.split("/"))
    if not is_text or not is_below:
        raise UserError(
            f"unsafe name {name!r}; use a relative path with '/', without '..' and empty parts"
        )


def is_safe_name(name: str) -> bool:
    """Return whether `check_name` accepts a name."""
    try:
        check_name(name)
    except UserError:
        return False
    return True


def with_png_suffix(name: str) -> str:
    """Return the name of a PNG with a lower-case suffix, as the writer uses it."""
    return name[: -len(SUFFIX)] + SUFFIX if name.lower().endswith(SUFFIX) else name


def is_image_of(name: str, folder: str) -> bool:
    """Return whether a file is a PNG in a folder or its subfolders."""
    return name.startswith(folder) and name.lower().endswith(SUFFIX)


def key_from_name(name: str) -> str:
    """Return the WebDataset key of an image name: without suffix, and with dots as %2E.

    WebDataset keys end at the first dot of a member's name. Subfolders are unchanged.
    """
    assert name.endswith(SUFFIX), name
    return name.removesuffix(SUFFIX).replace("%", "%25").replace(".", "%2E")


def name_from_key(key: str) -> str:
    """Return the image name of a WebDataset key."""
    return key.removeprefix("./").replace("%2E", ".").replace("%25", "%") + SUFFIX


def name_from_member(member: str) -> str | None:
    """Return the path of a shard's member in a folder dataset, or None for other members."""
    for suffix, folder in _FOLDERS.items():
        if member.endswith(suffix):
            return folder + name_from_key(member.removesuffix(suffix))
    return None
