"""Augmentation of whole batches: what moves together, what stays, and what is random."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_utils.batch_random import BatchRandom
from training.augmentation import Augmenter, AugmentSettings

ALL = AugmentSettings(mode="fixed", with_flip=True, with_quarter_turns=True)
NO_COLOR = AugmentSettings(mode="fixed", with_color=False)
COLOR = AugmentSettings(mode="fixed", with_blit=False, with_geometry=False)


def source(places: Sequence[int] = range(8)) -> BatchRandom:
    return BatchRandom((5,), places)


def make_views(num_batch: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Return images of 16 and 8 pixels and masks of four labels."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(3, 16), (3, 8), (4, 16), (4, 8)]
    return tuple(
        torch.rand((num_batch, channels, side, side), generator=generator, dtype=dtype) * 2 - 1
        for channels, side in shapes
    )


def test_probability_zero_returns_its_arguments_and_draws_nothing():
    views, random = make_views(), source()
    result = Augmenter(ALL)(*views, 0.0, random)
    assert all(a is b for a, b in zip(result, views, strict=True))
    assert torch.equal(random.rand((8, 2)), source().rand((8, 2)))


def test_masks_move_with_their_images():
    image, image_raw, _, _ = make_views()
    result = Augmenter(NO_COLOR)(image, image_raw, image, image_raw, 0.8, source())
    assert torch.equal(result[0], result[2])
    assert torch.equal(result[1], result[3])


def test_colors_change_images_of_both_sizes_alike_and_masks_not():
    image_raw, mask, mask_raw = make_views()[1:]
    image = image_raw.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    result = Augmenter(COLOR)(image, image_raw, mask, mask_raw, 1.0, source())
    assert (result[0] - image).abs().amax(dim=(1, 2, 3)).min() > 0.05
    torch.testing.assert_close(result[0][:, :, ::2, ::2], result[1])
    assert result[2] is mask and result[3] is mask_raw


def test_split_batch_is_augmented_like_the_whole_without_global_random_numbers():
    views, before = make_views(), torch.get_rng_state()
    whole = Augmenter(ALL)(*views, 0.6, source())
    assert torch.equal(torch.get_rng_state(), before)
    for first in range(2):
        part = Augmenter(ALL)(*(v[first::2] for v in views), 0.6, source(range(first, 8, 2)))
        for a, b in zip(part, whole, strict=True):
            torch.testing.assert_close(a, b[first::2], atol=1e-5, rtol=0)


def test_augmentation_has_exact_first_and_second_derivatives():
    views = [view[:, :, :4, :4].clone().requires_grad_() for view in make_views(1, torch.float64)]

    def augmented(*views: Tensor) -> tuple[Tensor, ...]:
        return Augmenter(ALL)(*views, 1.0, source([3]))

    assert torch.autograd.gradcheck(augmented, views, fast_mode=True)

    def squared(*views: Tensor) -> tuple[Tensor, ...]:
        return tuple(view.square() for view in augmented(*views))

    assert torch.autograd.gradgradcheck(squared, views, fast_mode=True)
