"""From a photo to an item of a data set: landmarks, crop, camera, label map, caption."""
