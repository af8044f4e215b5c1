"""Findings about names, files and images."""

from training.data.doctor.kind import LEAVES_OUT, Kind

# Ordered as a report lists them: first what hides other things.
FILE_KINDS = (
    Kind(
        "index_missing",
        "error",
        "dataset.json is missing",
        "It holds the cameras and names the label set; without it nothing can be trained.",
    ),
    Kind(
        "index_invalid",
        "error",
        "dataset.json cannot be read",
        "The file is not JSON, or not of the documented form; it is often cut off by a full disk "
        "or an interrupted copy.",
    ),
    Kind(
        "label_set_missing",
        "error",
        "label set not named",
        "Nothing says what the numbers in the masks mean.",
        "writes the label set that you name with label_set=",
    ),
    Kind(
        "label_set_unknown",
        "error",
        "unknown label set",
        "The name in dataset.json is none of the known label sets.",
        "writes the label set that you name with label_set=",
    ),
    Kind(
        "convention_missing",
        "error",
        "camera convention not named",
        "dataset.json does not say which way the axes of its cameras point.",
        "writes 'opencv' (the axes are checked, and turned if the fix camera_opengl is on too)",
    ),
    Kind(
        "convention_unknown",
        "error",
        "unknown camera convention",
        "dataset.json names a camera convention that the project does not know.",
        "writes 'opencv' (the axes are checked, and turned if the fix camera_opengl is on too)",
    ),
    Kind(
        "label_entry_invalid",
        "error",
        "malformed entries of 'labels'",
        "An entry must be [name, [25 numbers]].",
        "leaves the entries out",
    ),
    Kind(
        "name_duplicate",
        "error",
        "names listed twice",
        "'labels' has several cameras for the same image; only one can be right.",
        "keeps the entry if all are equal, and leaves the item out if they differ",
    ),
    Kind(
        "captions_invalid",
        "error",
        "captions are no texts",
        "'captions' must map image names to texts.",
        "leaves these captions out",
    ),
    Kind(
        "values_invalid",
        "error",
        "malformed repeats, residuals or attributes",
        "repeats are whole numbers of 1..1000, camera_residuals numbers of at least 0, attributes "
        "numbers or lists of numbers.",
        "leaves these values out",
    ),
    Kind("no_images", "error", "no images", "There is nothing below images/."),
    Kind(
        "name_mismatch",
        "error",
        "names that do not match exactly",
        "Image, mask and camera belong together by the same name; these differ in extension, "
        "folder prefix, slashes or capitals.",
        "gives all parts the image's name",
    ),
    Kind(
        "name_unsafe",
        "error",
        "names that lead out of the data set",
        "A name must be a relative path with '/' and without '..'; writing such a file elsewhere "
        "would put it outside of the output. Backslashes come from programs that pack on Windows.",
        LEAVES_OUT,
    ),
    Kind(
        "image_without_mask",
        "error",
        "images without a mask",
        "A training sample needs both.",
        LEAVES_OUT,
    ),
    Kind(
        "mask_without_image",
        "error",
        "masks without an image",
        "A training sample needs both; often a download that was not complete.",
        LEAVES_OUT,
    ),
    Kind(
        "image_without_camera",
        "error",
        "images without a camera",
        "Without a camera the generator cannot know from where the picture was taken.",
        LEAVES_OUT,
    ),
    Kind(
        "camera_without_image",
        "error",
        "cameras without an image",
        "dataset.json lists images that are not there.",
        LEAVES_OUT,
    ),
    Kind(
        "caption_missing",
        "warning",
        "captions for a part of the images only",
        "Text-guided training sees no text for the others. (No captions at all is fine.)",
    ),
    Kind(
        "caption_empty",
        "warning",
        "empty captions",
        "An empty text teaches the text-guided parts nothing.",
    ),
    Kind(
        "caption_without_image",
        "note",
        "captions without an image",
        "They are ignored.",
        "leaves these captions out",
    ),
    Kind(
        "stray_files",
        "note",
        "files that do not belong to the data set",
        "They are ignored, but may be a sign of files in the wrong folder.",
        "leaves them out",
    ),
    Kind(
        "image_format",
        "error",
        "images that are no .png files",
        "The loader reads images/**/*.png only.",
        "writes them as PNG",
    ),
    Kind(
        "image_unreadable",
        "error",
        "images that cannot be read",
        "The file is cut off or damaged; usually an interrupted copy or download.",
        LEAVES_OUT,
    ),
    Kind(
        "image_mode",
        "error",
        "images that are not 8-bit RGB",
        "Grey, transparent, palette, CMYK or 16-bit images have other channels than the network.",
        "converts them to RGB (transparent pixels over white)",
    ),
    Kind(
        "image_orientation",
        "warning",
        "images that a viewer shows turned",
        "An EXIF tag says that the pixels must be rotated; training ignores the tag. If masks were "
        "made from the turned view, they do not fit the pixels.",
    ),
    Kind(
        "image_not_square",
        "error",
        "images that are not square",
        "All images must be square.",
        "cuts out the central square, of the mask too",
    ),
    Kind(
        "image_size",
        "error",
        "images of another size than the most",
        "All images must have one size.",
        "resizes them, and their masks by nearest neighbour",
    ),
    Kind(
        "image_blank",
        "error",
        "images of one colour",
        "Nothing is on them; often a failed crop or a missing frame.",
        LEAVES_OUT,
    ),
    Kind(
        "image_duplicate",
        "warning",
        "identical images",
        "Duplicates are seen more often than others, and spoil a split into training and test "
        "images.",
        "keeps the first of each group",
    ),
)
