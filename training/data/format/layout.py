"""Names inside a data set: its index, its folders, the members of its tar shards."""

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
    """Return the name of image number `index` in data sets that we make."""
    return f"{index // 1000:05d}/img{index:08d}{SUFFIX}"


def shard_name(index: int) -> str:
    """Return the path of shard number `index`, relative to the data set."""
    return f"{SHARD_FOLDER}/{index:06d}.tar"


def check_name(name: str) -> None:
    """Check that a name stays below the folder that it is appended to.

    Raises:
        UserError: If it is not a relative path with forward slashes.
    """
    # A lone surrogate, which JSON can hold, is no text that a file can be called.
    is_text = "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)
    is_below = "\\" not in name and {"", ".", ".."}.isdisjoint(name.split("/"))
    if not is_text or not is_below:
        raise UserError(
            f"name {name!r} is unsafe; use a relative path with '/', without '..' and empty parts"
        )


def is_safe_name(name: str) -> bool:
    """Tell whether `check_name` accepts a name."""
    try:
        check_name(name)
    except UserError:
        return False
    return True


def with_png_suffix(name: str) -> str:
    """Return the name of a PNG as the writer spells it: `.png` instead of `.PNG`."""
    return name[: -len(SUFFIX)] + SUFFIX if name.lower().endswith(SUFFIX) else name


def is_image_of(name: str, folder: str) -> bool:
    """Tell whether a file is a PNG below a folder."""
    return name.startswith(folder) and name.lower().endswith(SUFFIX)


def key_from_name(name: str) -> str:
    """Return the WebDataset key of an image name: without suffix, dots as %2E.

    A WebDataset key ends at the first dot of the member's name. Sub-folders stay as they are.
    """
    assert name.endswith(SUFFIX), name
    return name.removesuffix(SUFFIX).replace("%", "%25").replace(".", "%2E")


def name_from_key(key: str) -> str:
    """Return the image name of a WebDataset key."""
    return key.removeprefix("./").replace("%2E", ".").replace("%25", "%") + SUFFIX


def name_from_member(member: str) -> str | None:
    """Return the path that a shard's member has in a folder, or None if it has none."""
    for suffix, folder in _FOLDERS.items():
        if member.endswith(suffix):
            return folder + name_from_key(member.removesuffix(suffix))
    return None
