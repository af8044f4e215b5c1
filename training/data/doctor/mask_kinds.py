"""Findings about masks: their pixels, and where their classes lie."""

from training.data.doctor.kind import LEAVES_OUT, Kind

# Ordered as a report lists them: first what hides other things.
MASK_KINDS = (
    Kind(
        "mask_unreadable",
        "error",
        "masks that cannot be read",
        "The file is cut off or damaged; usually an interrupted copy or download.",
        LEAVES_OUT,
    ),
    Kind(
        "mask_lossy",
        "error",
        "masks saved as JPEG",
        "JPEG changes pixel values, so that label ids get lost along all borders. Export the "
        "masks as PNG.",
        LEAVES_OUT,
    ),
    Kind(
        "mask_size",
        "error",
        "masks of another size than their image",
        "A mask needs one label for every pixel of its image.",
        "resizes the masks by nearest neighbour, which invents no ids",
    ),
    Kind(
        "mask_colors",
        "error",
        "coloured masks",
        "The masks store the colours of the classes and not their ids.",
        "looks the colours up in the label set's palette",
    ),
    Kind(
        "mask_blended_colors",
        "error",
        "coloured masks with blurred borders",
        "The masks store colours, and were resized or saved with smoothing, so that borders have "
        "colours of no class.",
        "looks the colours up; mixed pixels get the class beside them that they are most like",
    ),
    Kind(
        "mask_foreign_colors",
        "error",
        "coloured masks with unknown colours",
        "The colours are not those of the label set, so nothing says which class they mean.",
        LEAVES_OUT,
    ),
    Kind(
        "mask_grey_channels",
        "error",
        "masks with several channels",
        "The ids are there, but repeated in every colour channel.",
        "keeps one channel",
    ),
    Kind(
        "mask_depth",
        "error",
        "masks of 16 or 32 bits",
        "Masks must be 8-bit palette or grey PNGs.",
        "writes them with 8 bits",
    ),
    Kind(
        "mask_palette_order",
        "error",
        "palette masks with ids in another order",
        "The colours are right, but the pixel values are not the ids: an image program sorted "
        "the palette when saving.",
        "looks the colours up in the label set's palette",
    ),
    Kind(
        "mask_binary",
        "error",
        "black and white masks",
        "The masks tell foreground from background only (0 and 255) and name no classes.",
        LEAVES_OUT,
    ),
    Kind(
        "mask_multiplied",
        "error",
        "masks with multiplied ids",
        "Pixel values are grey levels made for looking at (id times a factor), not ids.",
        "divides by the factor",
    ),
    Kind(
        "mask_one_based",
        "error",
        "masks that count from 1",
        "Ids run from 1 to the number of classes; they must start at 0.",
        "subtracts 1",
    ),
    Kind(
        "mask_interpolated",
        "error",
        "masks resized with smoothing",
        "Between two classes lie thin lines of ids between theirs, which are other classes. Masks "
        "must be resized by nearest neighbour.",
        "gives those lines the class beside them that they are most like",
    ),
    Kind(
        "mask_unknown_ids",
        "error",
        "masks with unknown ids",
        "The label set has no such class. If all masks are concerned, it is the wrong label set.",
        "fills up to a tenth of a mask from the nearest known class, leaves the item out otherwise",
    ),
    Kind(
        "mask_empty",
        "error",
        "masks with one class only",
        "Usually the segmentation found no head.",
        LEAVES_OUT,
    ),
    Kind(
        "mask_duplicate",
        "warning",
        "one mask for different images",
        "Often files were paired by their order and not by their names.",
        LEAVES_OUT,
    ),
    Kind(
        "mask_palette",
        "note",
        "masks with another palette",
        "Training reads the ids only; viewers show other colours than usual.",
        "writes the label set's palette",
    ),
    Kind(
        "label_order",
        "error",
        "masks follow another label set",
        "The classes lie where a head has other ones: the ids are those of another label set with "
        "other numbers for the same classes.",
        "converts the ids; cameras that were estimated from these masks stay wrong, so prepare "
        "such a data set again",
    ),
    Kind(
        "mouth_nose_swapped",
        "error",
        "mouth above the nose",
        "The ids of mouth and nose are exchanged.",
        "exchanges the two ids; cameras that were estimated from these masks stay wrong, so "
        "prepare such a data set again",
    ),
    Kind(
        "left_right_swapped",
        "error",
        "left and right classes exchanged",
        "Classes l_... must be on the left of the image. Often an image was mirrored without "
        "exchanging them, or the person's own left is meant.",
        "exchanges the pairs of classes",
    ),
    Kind(
        "upside_down",
        "error",
        "heads upside down",
        "The eyes lie below nose or mouth; often a lost rotation tag.",
        LEAVES_OUT,
    ),
    Kind(
        "layout_implausible",
        "warning",
        "masks that look like no face",
        "Eyes, nose and mouth are not above each other; usually a failed segmentation.",
    ),
    Kind(
        "mask_mirrored",
        "warning",
        "masks mirrored against their image",
        "The mask fits the image far better when mirrored; one of them was flipped alone.",
        "mirrors the masks (and exchanges left and right classes)",
    ),
    Kind(
        "mask_shifted",
        "warning",
        "masks shifted against their image",
        "The borders fit the edges of the image at another place; the two were cropped "
        "differently.",
    ),
    Kind(
        "mask_misfit",
        "warning",
        "masks that do not fit their image",
        "The borders meet far fewer edges than in the other pairs; the mask may be of another "
        "image.",
    ),
)
