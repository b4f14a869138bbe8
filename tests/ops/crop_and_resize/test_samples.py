"""Where the samples of a crop lie."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from object_detection_fpn.ops.crop_and_resize import samples


def test_samples_share_a_box_as_linspace_does_to_the_last_bit():
    for num_samples in range(2, 64):
        np.testing.assert_array_equal(samples.shares_of(num_samples), tf.linspace(0.0, 1.0, num_samples))


def test_one_sample_lies_in_the_middle():
    np.testing.assert_array_equal(samples.shares_of(1), [0.5])
