"""`data/context.py`: the context features of records, checked and padded, and their way into batches."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data import context, decoder, failures, preparing, resize
from object_detection_fpn.data import pipeline as input_pipeline
from object_detection_fpn.data.augment import crop, geometry, policies
from object_detection_fpn.data.context import ContextDecoding
from object_detection_fpn.data.report import DataReport, Notice

LENGTH = 3
FEATURES = np.random.default_rng(0).random([4, LENGTH]).astype(np.float32)
DECODING = decoder.Decoding(num_classes=3, context=ContextDecoding(max_num=6, length=LENGTH))


def stored(features, length: int = LENGTH) -> dict[str, list]:
    """The two keys of a record."""
    return {context.FEATURES_KEY: [float(value) for value in np.ravel(features)], context.LENGTH_KEY: [length]}


@pytest.fixture
def decode(make_record):
    """(features of the record, how they are read) -> what is decoded, or why it is not."""

    def decode(more: dict[str, list], decoding: decoder.Decoding = DECODING):
        record = make_record(more=more)
        decode = functools.partial(decoder.decode_example, decoding=decoding)
        try:
            return decode(tf.constant(record))
        except tf.errors.InvalidArgumentError:
            return failures.explain_failure(record, file="f", index=4, decode=decode)

    return decode


@pytest.mark.parametrize("num_features", [0, 1, 4])
def test_features_are_padded_with_zeros(decode, num_features):
    found = decode(stored(FEATURES[:num_features])).example.context
    assert found.num_features.numpy() == num_features
    np.testing.assert_array_equal(found.features, np.pad(FEATURES[:num_features], [[0, 6 - num_features], [0, 0]]))


def test_features_beyond_the_last_row_are_cut_and_counted(decode):
    decoding = decoder.Decoding(num_classes=3, context=ContextDecoding(max_num=2, length=LENGTH))
    decoded = decode(stored(FEATURES), decoding)
    np.testing.assert_array_equal(decoded.example.context.features, FEATURES[:2])
    assert decoded.example.context.num_features.numpy() == 2
    assert decoded.issues.notices.numpy()[Notice.CONTEXT_CUT] == 1
    assert decode(stored(FEATURES)).issues.notices.numpy()[Notice.CONTEXT_CUT] == 0


def test_context_is_left_out_where_it_is_not_asked_for(decode):
    assert decode(stored(FEATURES), decoder.Decoding(num_classes=3)).example.context is None


@pytest.mark.parametrize(
    "more, message",
    [
        (
            {},
            "has no image/context_features and no image/context_feature_length, which a model with context_config needs; a "
            "record of an image without context has the second alone.",
        ),
        (
            {context.FEATURES_KEY: [0.5] * 6},
            "image/context_feature_length is missing beside the 6 numbers of image/context_features.",
        ),
        (
            stored(FEATURES, length=4),
            "image/context_feature_length is 4, context_config.context_feature_length is 3: they must be equal.",
        ),
        (
            stored([0.5] * 7),
            "image/context_features has 7 numbers, which are no multiple of image/context_feature_length = 3.",
        ),
        (
            stored([0.5, 0.5, 0.5, 0.5, np.nan, 0.5]),
            "image/context_features has a number that is NaN or infinite, at position 4.",
        ),
    ],
)
def test_a_record_whose_context_cannot_be_used_is_named(decode, more, message):
    assert decode(more) == f"f, record 4 (source_id 7): {message}"


def test_a_record_with_context_of_another_type_is_named(decode):
    found = decode({context.FEATURES_KEY: [1, 2, 3], context.LENGTH_KEY: [LENGTH]})
    assert found.startswith("f, record 4 (source_id 7): ") and context.FEATURES_KEY in found


def test_a_sequence_example_is_told_to_become_examples(decode):
    sequence = tf.train.SequenceExample()
    sequence.feature_lists.feature_list["image/encoded"].feature.add()
    found = failures.explain_failure(sequence.SerializeToString(), file="f", index=0, decode=lambda _: None)
    assert "write one tf.Example for each of its frames. Where the model has context_config, each needs" in found


@pytest.fixture
def records(make_record, write_records):
    """A file of four records, the first without context, each further one with one feature more."""
    return write_records([make_record(source_id=str(i), more=stored(FEATURES[:i])) for i in range(4)])


def batches(path: str, *, is_training: bool, batch_size: int, augmentations=(), decoding=DECODING, report=None):
    return input_pipeline.make_dataset(
        input_pipeline.Reading([path], shuffle=False),
        decoding,
        preparing.Preparing(
            resizer=resize.fixed_shape(height=32, width=32), augmentations=augmentations, max_num_boxes=5
        ),
        batch_size=batch_size,
        is_training=is_training,
        seed=0,
        report=report,
    )


def test_batches_of_training_have_context_of_static_shape(records):
    dataset = batches(records, is_training=True, batch_size=4)
    assert dataset.element_spec.inputs.context.features.shape == [4, 6, LENGTH]
    assert dataset.element_spec.inputs.context.num_features.shape == [4]
    found = next(iter(dataset)).inputs.context
    assert found.num_features.numpy().tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(found.features[3, :3], FEATURES[:3])
    assert not np.any(found.features[1, 1:])


def test_augmentations_do_not_change_context(records):
    steps = [
        geometry.random_horizontal_flip,
        geometry.random_self_concat_image,
        crop.random_crop_image,
        functools.partial(policies.autoaugment_image, policy_name="v0"),
    ]
    plain = next(iter(batches(records, is_training=True, batch_size=4))).inputs
    augmented = next(iter(batches(records, is_training=True, batch_size=4, augmentations=steps))).inputs
    assert np.any(plain.images != augmented.images)
    np.testing.assert_array_equal(plain.context.features, augmented.context.features)
    np.testing.assert_array_equal(plain.context.num_features, augmented.context.num_features)


def test_images_that_fill_up_the_last_batch_of_evaluation_have_no_context(records):
    *_, last = batches(records, is_training=False, batch_size=3)
    assert last.is_padding.numpy().tolist() == [False, True, True]
    assert last.inputs.context.num_features.numpy().tolist() == [3, 0, 0]


def test_images_of_different_sizes_carry_their_context(records):
    dataset = input_pipeline.make_dataset(
        input_pipeline.Reading([records]),
        DECODING,
        preparing.Preparing(resizer=resize.keep_aspect_ratio(min_dimension=20, max_dimension=40)),
        batch_size=2,
        is_training=False,
    )
    assert [batch.inputs.context.num_features.numpy().tolist() for batch in dataset] == [[0, 1], [2, 3]]


def test_cut_context_is_reported(records):
    report = DataReport()
    decoding = decoder.Decoding(num_classes=3, context=ContextDecoding(max_num=1, length=LENGTH))
    list(batches(records, is_training=False, batch_size=4, decoding=decoding, report=report))
    assert report.counts[Notice.CONTEXT_CUT] == 2 and report.num_dropped == 0
    assert report.summary() == "2 images with more context features than max_num_context_features: those beyond are cut"


def test_training_names_the_record_without_context(make_record, write_records):
    path = write_records([make_record(more=stored(FEATURES)), make_record(source_id="8")])
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        next(iter(batches(path, is_training=True, batch_size=2)))
    assert failures.error_message(error.value).startswith(
        f"{path}, record 1 (source_id 8): has no image/context_features"
    )
