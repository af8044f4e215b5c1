"""The on-disk dataset: files, index and writer. The format is described in datasets/README.md."""

from training.data.format.files import DatasetFiles, NamedContent, open_files
from training.data.format.index import DatasetIndex, open_dataset, parse_index
from training.data.format.layout import INDEX_NAME, image_name
from training.data.format.writer import DatasetWriter, encode_image, encode_mask, encode_pair

__all__ = [
    "INDEX_NAME",
    "DatasetFiles",
    "DatasetIndex",
    "DatasetWriter",
    "NamedContent",
    "encode_image",
    "encode_mask",
    "encode_pair",
    "image_name",
    "open_dataset",
    "open_files",
    "parse_index",
]
