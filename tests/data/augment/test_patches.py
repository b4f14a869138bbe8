"""`data/augment/patches.py`: what each parameter does; `test_all.py` has the laws that hold for all."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data.augment import patches


@pytest.fixture(scope="module")
def gray(draw_example):
    return draw_example([], 40, 60)._replace(image=tf.fill([40, 60, 4], 128.0))


def changed(augment, example, seed=0, **settings):
    """[H, W] bool, where any channel changed; and the new image."""
    image = augment(example, seed=tf.constant([seed, 5]), **settings).image.numpy()
    return (image != example.image.numpy()).any(axis=-1), image


@pytest.mark.parametrize("ratio, side", [(0.1, 4), (0.5, 20), (1.0, 40), (0.01, 0)])
def test_a_black_patch_is_a_square_of_the_shorter_side(gray, ratio, side):
    for seed in range(5):
        mask, image = changed(
            patches.random_black_patches, gray, seed, max_black_patches=1, probability=1.0, size_to_image_ratio=ratio
        )
        assert mask.sum() == side**2
        assert (image[mask] == 0).all()
        assert mask.any(axis=0).sum() == mask.any(axis=1).sum() == side


@pytest.mark.parametrize(
    "max_black_patches, probability, low, high", [(0, 1, 0, 0), (5, 0, 0, 0), (5, 1, 5, 5), (5, 0.5, 2, 3)]
)
@pytest.mark.no_cover
def test_black_patches_are_as_many_as_asked(gray, max_black_patches, probability, low, high):
    num_pixels = [
        changed(
            patches.random_black_patches,
            gray,
            seed,
            max_black_patches=max_black_patches,
            probability=float(probability),
            size_to_image_ratio=0.025,
        )[0].sum()
        for seed in range(60)
    ]
    assert max(num_pixels) <= max_black_patches
    assert low - 0.1 <= np.mean(num_pixels) <= high


def test_noise_fills_a_square_of_the_size_asked_for(gray):
    sides = set()
    for seed in range(60):
        mask, _ = changed(
            patches.random_patch_gaussian, gray, seed, min_patch_size=5, max_patch_size=8, min_gaussian_stddev=0.1
        )
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        if rows[0] > 0 and rows[-1] < 39:  # not cut off by the border
            sides.add(len(rows))
    assert sides == {5, 6, 7}


def test_noise_has_the_deviation_asked_for(gray):
    deviations = []
    for seed in range(30):
        mask, image = changed(
            patches.random_patch_gaussian,
            gray,
            seed,
            min_patch_size=60,
            max_patch_size=60,
            min_gaussian_stddev=0.02,
            max_gaussian_stddev=0.1,
        )
        deviations.append(image[mask].std() / 255)
        assert abs(image[mask].mean() - 128) < 3
    assert 0.018 < min(deviations) < 0.03 and 0.09 < max(deviations) < 0.105


@pytest.mark.parametrize("random_coef, low, high", [(0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)])
def test_random_coef_is_the_probability_of_no_noise(gray, random_coef, low, high):
    settings = {"random_coef": random_coef, "min_gaussian_stddev": 0.1}
    same = [not changed(patches.random_patch_gaussian, gray, seed, **settings)[0].any() for seed in range(100)]
    assert low <= sum(same) <= high
