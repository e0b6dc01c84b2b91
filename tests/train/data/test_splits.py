"""Pictures cut to one size, and the moments of their channels."""

import numpy as np
import pytest
from PIL import Image

from train.data.images.resize import center_crop, random_crop_box
from train.data.images.splits import Split, channel_moments


def test_deviation_of_a_constant_channel_is_not_zero():
    images = np.zeros((4, 2, 2, 2), np.uint8)
    images[..., 1] = np.arange(4)[:, None, None]
    mean, std = channel_moments(Split(images, np.zeros(4, np.int32)))
    assert mean == (0.0, 1.5 / 255)
    np.testing.assert_allclose(std, (1 / 255, np.arange(4).std() / 255), rtol=1e-9)


def test_fit_covers_and_crops_the_centre():
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    np.testing.assert_array_equal(center_crop(Image.fromarray(wide), (4, 4, 3)), wide[:, 4:8])
    grey = center_crop(Image.fromarray(wide[..., 0]), (4, 4, 3))
    assert grey.shape == (4, 4, 3) and (grey == 200).all()
    assert center_crop(Image.fromarray(wide), (2, 2, 1)).shape == (2, 2, 1)


@pytest.mark.parametrize("size", [(300, 200), (10, 1000), (1, 1)])
def test_random_box_lies_within_the_picture(size):
    rng = np.random.default_rng(0)
    for _ in range(200):
        left, upper, right, lower = random_crop_box(*size, rng)
        assert 0 <= left < right <= size[0] and 0 <= upper < lower <= size[1]
