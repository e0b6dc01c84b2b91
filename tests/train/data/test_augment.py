"""Augmentation: every crop and flip is one of those that may be, and all of them come up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.data.images.augment import augment, normalize

pytestmark = pytest.mark.usefixtures("strict_promotion")
IMAGES = np.random.default_rng(0).integers(1, 256, (64, 4, 6, 3), np.uint8)


def _augmented(images, seed=0, **options):
    apply = jax.jit(lambda key: augment(key, images, **options))
    return np.asarray(apply(jax.random.key(seed)))


def test_without_options_images_stay_as_they_are():
    np.testing.assert_array_equal(_augmented(IMAGES), IMAGES)


def test_flip_mirrors_about_half_of_the_images_left_and_right():
    flipped = _augmented(IMAGES, flip=True)
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(flipped, IMAGES, strict=True)]
    kept = [np.array_equal(new, old) for new, old in zip(flipped, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48
    assert flipped.dtype == np.uint8


def test_every_crop_is_one_of_the_padded_image_and_every_offset_comes_up():
    image = IMAGES[:1]
    crops = _augmented(np.repeat(image, 200, axis=0), crop_padding=1)
    padded = np.pad(image[0], ((1, 1), (1, 1), (0, 0)))
    windows = {padded[y : y + 4, x : x + 6].tobytes(): (y, x) for y in range(3) for x in range(3)}
    assert {windows[crop.tobytes()] for crop in crops} == set(windows.values())


def test_augmentation_depends_on_the_key_alone():
    options = dict(crop_padding=2, flip=True)
    first = _augmented(IMAGES, seed=1, **options)
    np.testing.assert_array_equal(first, _augmented(IMAGES, seed=1, **options))
    assert not np.array_equal(first, _augmented(IMAGES, seed=2, **options))


def test_normalized_images_have_mean_zero_and_deviation_one():
    scaled = IMAGES / 255
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
    result = normalize(jnp.asarray(IMAGES), tuple(mean.tolist()), tuple(std.tolist()))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, (scaled - mean) / std, atol=1e-5)


def test_normalize_rounds_to_the_wanted_dtype_last():
    exact = normalize(jnp.asarray(IMAGES), (0.5,) * 3, (0.25,) * 3)
    half = normalize(jnp.asarray(IMAGES), (0.5,) * 3, (0.25,) * 3, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))
