"""From a photo to a dataset item: landmarks, crop, camera, label map, caption."""
