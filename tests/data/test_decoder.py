"""`data/decoder.py`: features to tensors, faulty boxes counted, contradictory records refused."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from object_detection_fpn.data import decoder, failures
from object_detection_fpn.data.augment import warp
from object_detection_fpn.data.report import Notice

NAN, INF = math.nan, math.inf


def decode(serialized: bytes, *, label_table=None, crop=None, **settings) -> decoder.DecodedExample:
    decoding = decoder.Decoding(num_classes=3, **settings)
    return decoder.decode_example(tf.constant(serialized), decoding, label_table=label_table, crop=crop)


def refusal(serialized: bytes, **settings) -> str:
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode(serialized, **settings)
    return failures.error_message(caught.value) or caught.value.message


def counts(decoded: decoder.DecodedExample) -> dict[Notice, int]:
    return {notice: n for notice, n in zip(Notice, decoded.issues.notices.numpy().tolist(), strict=True) if n}


def test_every_object_feature_arrives_in_its_field(make_record):
    record = make_record(
        [(0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 1.0, 1.0)],
        [3, 1],
        source_id="coco-1",
        more={
            "image/object/weight": [0.5, 2.0],
            "image/object/is_crowd": [0, 1],
            "image/object/difficult": [1, 0],
            "image/object/group_of": [1, 1],
            "image/object/area": [12.0, 600.0],
        },
    )
    decoded = decode(record)
    objects = decoded.example.objects
    np.testing.assert_allclose(objects.boxes, [(0.1, 0.2, 0.5, 0.6), (0, 0, 1, 1)], rtol=1e-6)
    assert objects.classes.numpy().tolist() == [2, 0]
    assert objects.weights.numpy().tolist() == [0.5, 2.0]
    assert objects.is_crowd.numpy().tolist() == [False, True]
    assert objects.is_difficult.numpy().tolist() == [True, False]
    assert objects.is_group_of.numpy().tolist() == [True, True]
    assert objects.areas.numpy().tolist() == [12.0, 600.0]
    assert objects.class_scores is None
    assert decoded.source_id.numpy() == b"coco-1"
    assert decoded.example.image.dtype == tf.uint8
    assert counts(decoded) == {}


def test_missing_features_have_defaults(make_record):
    objects = decode(make_record()).example.objects
    assert objects.weights.numpy().tolist() == [1.0]
    assert objects.areas.numpy().tolist() == [0.0]
    assert not objects.is_crowd[0] and not objects.is_difficult[0] and not objects.is_group_of[0]


@pytest.mark.parametrize("image_format, channels", [("jpeg", 3), ("jpeg", 1), ("png", 3), ("png", 1), ("png", 4)])
def test_images_of_every_format_become_three_channels(make_record, encode_image, image_format, channels):
    record = make_record(image=encode_image(8, 12, image_format, channels))
    image = decode(record).example.image
    assert image.shape == (8, 12, 3)
    assert image[0, -1, 0] > 240 and image[0, 0, 0] < 15


@pytest.mark.parametrize("image_format", ["gif", "bmp"])
def test_images_of_rarer_formats_become_three_channels(make_record, image_format):
    file = io.BytesIO()
    Image.new("RGB", (12, 8), (255, 0, 0)).save(file, image_format)
    image = decode(make_record(image=file.getvalue())).example.image
    assert image.shape == (8, 12, 3)
    assert image[0, 0].numpy().tolist() == [255, 0, 0]


@pytest.mark.parametrize("height, width", [(1, 1), (20, 10000), (10000, 20)])
def test_images_of_extreme_size_decode(make_record, encode_image, height, width):
    assert decode(make_record(image=encode_image(height, width))).example.image.shape == (height, width, 3)


def test_an_image_without_boxes_is_kept(make_record):
    decoded = decode(make_record([], []))
    assert decoded.example.objects.boxes.shape == (0, 4)
    assert counts(decoded) == {}


@pytest.mark.parametrize(
    "box, notice, kept",
    [
        ((0.1, 0.1, 0.5, 0.5), None, (0.1, 0.1, 0.5, 0.5)),
        ((NAN, 0.1, 0.5, 0.5), Notice.NOT_FINITE, None),
        ((0.1, 0.1, INF, 0.5), Notice.NOT_FINITE, None),
        ((0.5, 0.1, 0.1, 0.5), Notice.INVERTED, None),
        ((0.1, 0.5, 0.5, 0.1), Notice.INVERTED, None),
        ((0.1, 0.5, 0.5, 0.5), Notice.EMPTY, None),
        ((0.0, 0.0, 0.0, 0.0), Notice.EMPTY, None),
        ((1.2, 0.1, 1.5, 0.5), Notice.OUTSIDE, None),
        ((-0.5, 0.1, 0.0, 0.5), Notice.OUTSIDE, None),
        ((-0.5, 0.1, 0.5, 1.5), Notice.CLIPPED, (0.0, 0.1, 0.5, 1.0)),
        ((0.1, 0.1, 1.0000001, 0.5), None, (0.1, 0.1, 1.0, 0.5)),  # rounding is no fault of the data
    ],
)
def test_faulty_boxes_are_dropped_or_clipped_and_counted(make_record, box, notice, kept):
    good = (0.2, 0.2, 0.4, 0.4)
    decoded = decode(make_record([box, good], [2, 3], more={"image/object/weight": [0.25, 0.75]}))
    objects = decoded.example.objects
    np.testing.assert_allclose(objects.boxes, [kept, good] if kept else [good], rtol=1e-6)
    assert objects.classes.numpy().tolist() == ([1, 2] if kept else [2])
    assert objects.weights.numpy().tolist() == ([0.25, 0.75] if kept else [0.75])
    assert counts(decoded) == ({} if notice is None else {notice: 1})


_COORDINATE = st.one_of(st.floats(-2, 3, width=32), st.sampled_from([NAN, INF, -INF, 0.0, 1.0]))


@settings(max_examples=40, deadline=None)
@given(boxes=st.lists(st.tuples(*[_COORDINATE] * 4), max_size=6))
def test_whatever_the_boxes_kept_ones_are_inside_and_the_others_counted(make_record, boxes):
    decoded = decode(make_record(boxes))
    kept = decoded.example.objects.boxes.numpy()
    assert np.isfinite(kept).all() and (kept >= 0).all() and (kept <= 1).all()
    assert (kept[:, 2:] > kept[:, :2]).all()
    num_dropped = sum(n for notice, n in counts(decoded).items() if notice is not Notice.CLIPPED)
    assert len(kept) + num_dropped == len(boxes)


@pytest.mark.parametrize(
    "text, labels, has_map, expected, num_unknown",
    [
        ([b"dog", b"cat"], [3, 3], True, [1, 0], 0),  # names go before ids
        ([b"dog", b"cat"], [3, 3], False, [2, 2], 0),  # unless there is no map
        ([b"dog", b"cat"], [], True, [1, 0], 0),
        ([], [3, 1], True, [2, 0], 0),
        ([b"cow", b"cat"], [3, 1], True, [0], 1),  # as in the Object Detection API, unknown names are left out
    ],
)
def test_classes_come_from_names_or_ids(make_record, text, labels, has_map, expected, num_unknown):
    record = make_record([(0.1, 0.1, 0.5, 0.5)] * 2, labels, more={"image/object/class/text": text})
    table = decoder.make_label_table({"cat": 1, "dog": 2}) if has_map else None
    decoded = decode(record, label_table=table)
    assert decoded.example.objects.classes.numpy().tolist() == expected
    assert counts(decoded).get(Notice.UNKNOWN_CLASS, 0) == num_unknown


def test_multiclass_scores_have_one_row_a_box_and_follow_it(make_record):
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    record = make_record(
        [(0.5, 0.5, 0.1, 0.1), (0.1, 0.1, 0.5, 0.5)], more={"image/object/class/multiclass_scores": scores}
    )
    class_scores = decode(record, load_class_scores=True).example.objects.class_scores
    np.testing.assert_allclose(class_scores, [scores[4:]], rtol=1e-6)


def test_additional_channels_are_stacked_behind_the_image(make_record, encode_image):
    channels = [encode_image(20, 30, "png", 1)] * 2
    record = make_record(more={"image/additional_channels/encoded": channels})
    image = decode(record, num_additional_channels=2).example.image
    assert image.shape == (20, 30, 5)
    np.testing.assert_array_equal(image[0, :, 3], np.linspace(0, 255, 30).astype(np.uint8))


def test_class_ids_outside_the_label_map_are_refused(make_record):
    record = make_record([(0.1, 0.1, 0.5, 0.5)] * 3, [1, 9, 0])
    words = refusal(record)
    assert words == "image/object/class/label gives class id 9. Allowed: 1 to 3 (num_classes)."
    for label in (0, -1, 4):
        message = refusal(make_record(labels=[label]))
        assert message == f"image/object/class/label gives class id {label}. Allowed: 1 to 3 (num_classes)."


@pytest.mark.parametrize(
    "more, settings, words",
    [
        ({"image/object/bbox/xmax": [0.5]}, {}, "image/object/bbox/xmax has 2 values, ymin has 1."),
        ({"image/object/class/label": [1]}, {}, "image/object/class/label has 2 values for 1 boxes."),
        ({"image/object/area": [1.0, 2.0]}, {}, "image/object/area has 2 values for 1 boxes."),
        (
            {"image/object/class/multiclass_scores": [0.5, 0.5]},
            {"load_class_scores": True},
            "image/object/class/multiclass_scores has 2 values for 1 boxes; num_classes = 3 values a box expected, or "
            "one more with the background first.",
        ),
        ({}, {"num_additional_channels": 1}, "image/additional_channels/encoded holds 0 images, 1 expected."),
    ],
)
def test_lists_that_do_not_fit_each_other_are_refused(make_record, more, settings, words):
    assert refusal(make_record(more=more), **settings) == words


def test_additional_channels_of_another_size_are_refused(make_record, encode_image):
    record = make_record(more={"image/additional_channels/encoded": [encode_image(5, 6, "png", 1)]})
    words = refusal(record, num_additional_channels=1)
    assert "image 0 has height and width 5 6, image/encoded has 20 30" in words


def test_boxes_without_any_class_are_refused(make_record):
    assert "image/object/class/label has 0 values for 1 boxes." in refusal(make_record(labels=[]))


def test_an_empty_label_map_is_refused():
    with pytest.raises(ValueError, match="label_to_id is empty"):
        decoder.make_label_table({})


SCORES = "image/object/class/multiclass_scores"


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0.2, 0.3, 0.5], [0.0, 0.2, 0.3, 0.5]),  # as the Object Detection API has them: no background
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]),
        ([], [0.0, 0.0, 1.0, 0.0]),  # the class of the box
    ],
)
def test_class_scores_have_the_background_first(make_record, values, expected):
    objects = decode(make_record(labels=[2], more={SCORES: values}), load_class_scores=True).example.objects
    np.testing.assert_allclose(objects.class_scores, [expected], rtol=1e-6)
    assert objects.class_scores.shape == (1, 4)


def test_class_scores_go_with_their_boxes(make_record):
    boxes = [(0.1, 0.1, 0.5, 0.5), (0.5, 0.5, 0.1, 0.1), (0.2, 0.2, 0.4, 0.4)]
    record = make_record(boxes, [1, 2, 3], more={SCORES: [float(i) for i in range(9)]})
    scores = decode(record, load_class_scores=True).example.objects.class_scores
    assert scores.numpy().tolist() == [[0, 0, 1, 2], [0, 6, 7, 8]]
    empty = decode(make_record([], []), load_class_scores=True).example.objects.class_scores
    assert empty.shape == (0, 4)


TABLE = {"cat": 1, "dog": 2, "animal": 3}
WITH_NAMES = {"names": True}


@pytest.mark.parametrize(
    "more, settings, expected",
    [
        ({"image/class/label": [1, 3]}, {}, [True, False, True]),
        ({"image/class/label": [1, 7, 0, -1]}, {}, [True, False, False]),  # classes that the model does not have
        ({"image/class/text": [b"dog", b"bird"], "image/class/label": [1]}, WITH_NAMES, [False, True, False]),
        ({"image/class/label": [1]}, WITH_NAMES, [True, False, False]),
        ({}, {}, [True, True, True]),
        ({}, {"map_empty_labeled_classes_to_ones": False}, [False, False, False]),
        ({"image/class/text": [b"bird"]}, WITH_NAMES, [True, True, True]),
        ({"image/neg_category_ids": [2, 9]}, {}, [False, True, False]),
        ({"image/neg_category_ids": [2], "image/class/label": [1]}, {}, [True, True, False]),
    ],
)
def test_labels_of_the_image_say_what_was_looked_for(make_record, more, settings, expected):
    if settings == WITH_NAMES:
        settings = {"label_table": decoder.make_label_table(TABLE)}
    example = decode(make_record(more=more), load_labeled_classes=True, **settings).example
    assert example.labeled_classes.numpy().tolist() == expected
    assert decode(make_record(more=more)).example.labeled_classes is None


def test_classes_of_which_not_all_objects_are_marked_are_read(make_record):
    record = make_record(more={"image/not_exhaustive_category_ids": [3, 7]})
    example = decode(record, load_labeled_classes=True).example
    assert example.not_exhaustive_classes.numpy().tolist() == [False, False, True]
    assert decode(record).example.not_exhaustive_classes is None


# Cats (1) and dogs (2) are animals (3).
KINDS = decoder.Hierarchy(
    ancestors=np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], bool),
    descendants=np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]], bool),
)


def test_boxes_are_of_the_ancestors_of_their_class_too(make_record):
    boxes = [(0.1, 0.1, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0), (0.5, 0.5, 0.1, 0.1)]
    more = {"image/object/weight": [0.25, 0.5, 0.75], "image/object/group_of": [1, 0, 0]}
    decoded = decode(make_record(boxes, [2, 3, 1], more=more), hierarchy=KINDS, load_class_scores=True)
    objects = decoded.example.objects
    np.testing.assert_allclose(objects.boxes, [boxes[0], boxes[0], boxes[1]], rtol=1e-6)
    assert objects.classes.numpy().tolist() == [1, 2, 2]
    assert objects.weights.numpy().tolist() == [0.25, 0.25, 0.5]
    assert objects.is_group_of.numpy().tolist() == [True, True, False]
    assert np.argmax(objects.class_scores, axis=1).tolist() == [2, 3, 3]
    assert counts(decoded) == {Notice.INVERTED: 1}


@pytest.mark.parametrize(
    "labels, confidences, expected",
    [
        ([1], [1.0], [True, False, True]),  # there is a cat, so there is an animal
        ([3], [0.0], [True, True, True]),  # there is no animal, so there are no cats nor dogs
        ([1], [0.0], [True, False, False]),  # there is no cat, but perhaps another animal
        ([3], [1.0], [False, False, True]),
        ([1], [0.5], [True, False, False]),  # nobody is sure
        ([1], [], [True, False, True]),
        ([2, 3], [0.0, 1.0], [False, True, True]),
    ],
)
def test_labels_of_the_image_follow_the_hierarchy(make_record, labels, confidences, expected):
    record = make_record(more={"image/class/label": labels, "image/class/confidence": confidences})
    example = decode(record, load_labeled_classes=True, hierarchy=KINDS).example
    assert example.labeled_classes.numpy().tolist() == expected


def test_confidences_that_do_not_fit_the_labels_are_refused(make_record):
    record = make_record(more={"image/class/label": [1], "image/class/confidence": [1.0, 1.0]})
    words = refusal(record, load_labeled_classes=True, hierarchy=KINDS)
    assert words == "image/class/confidence has 2 values, image/class/label has 1."


def _sequence_example() -> bytes:
    example = tf.train.SequenceExample()
    example.feature_lists.feature_list["image/encoded"].feature.add().bytes_list.value.append(b"x")
    return example.SerializeToString()


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda record: b"\xff" * 9, "f.tfrecord, record 4: 9 bytes that are no serialized tf.Example."),
        (lambda record: _sequence_example(), "is a tf.SequenceExample; write one tf.Example for each of its frames."),
        (
            lambda record: record(image=b""),
            "f.tfrecord, record 4 (source_id 7): image/encoded is missing or empty.",
        ),
        (
            lambda record: record(image=b"not an image"),
            "image/encoded (12 bytes beginning with 6e 6f 74 20) does not decode; it is truncated, corrupted or",
        ),
        (lambda record: record(labels=[5]), "f.tfrecord, record 4 (source_id 7): image/object/class/label gives class"),
        (lambda record: record(more={"image/object/weight": [1]}), "Data types don't match"),
    ],
)
def test_an_explanation_names_file_record_source_id_and_reason(make_record, spoil, words):
    explained = failures.explain_failure(
        spoil(make_record),
        file="f.tfrecord",
        index=4,
        decode=functools.partial(decoder.decode_example, decoding=decoder.Decoding(num_classes=3)),
    )
    assert words in explained
    assert "\n" not in explained


def test_a_truncated_jpeg_is_explained(make_record, encode_image):
    jpeg = encode_image(64, 64)
    record = make_record(image=jpeg[: len(jpeg) // 2])
    explained = failures.explain_failure(
        record,
        file="f",
        index=0,
        decode=functools.partial(decoder.decode_example, decoding=decoder.Decoding(num_classes=3)),
    )
    assert explained.startswith(
        f"f, record 0 (source_id 7): image/encoded ({len(jpeg) // 2:,} bytes beginning with ff d8"
    )


def test_a_failure_that_does_not_recur_is_said_to_be_one(make_record):
    explained = failures.explain_failure(make_record(), file="f", index=0, decode=lambda serialized: decode(serialized))
    assert explained.endswith("for a reason that did not recur.")


def test_errors_that_are_no_refusal_have_no_message():
    assert failures.error_message(tf.errors.NotFoundError(None, None, "no such file")) is None


@pytest.mark.no_cover
def test_decoding_is_the_same_in_a_graph(make_record):
    record = make_record([(0.1, 0.2, 0.5, 0.6), (0.5, 0.5, 0.1, 0.1)])
    eager = decode(record)
    traced = tf.function(
        functools.partial(decoder.decode_example, decoding=decoder.Decoding(num_classes=3)), autograph=False
    )(tf.constant(record))
    for a, b in zip(tf.nest.flatten(eager), tf.nest.flatten(traced), strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "min_side, size", [(0, (64, 90)), (33, (64, 90)), (32, (32, 45)), (9, (16, 23)), (8, (8, 12)), (1, (8, 12))]
)
def test_a_jpeg_is_decoded_no_larger_than_is_needed(make_record, encode_image, min_side, size):
    decoded = decode(make_record(image=encode_image(64, 90)), jpeg_min_side=min_side)
    image = decoded.example.image.numpy()
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    ratio = -(-90 // size[1])
    ramp = np.minimum((np.arange(size[1]) + 0.5) * ratio / 90 * 255, 255)  # boxes hold to within a pixel
    np.testing.assert_allclose(image.mean(axis=(0, 2)), ramp, atol=8)
    np.testing.assert_allclose(decoded.example.objects.boxes, [[0.1, 0.2, 0.5, 0.6]], atol=1e-6)


@pytest.mark.parametrize("kind", ["420", "444", "progressive", "gray", "png"])
def test_a_window_has_the_pixels_of_the_whole_image(make_record, kind):
    rng = np.random.default_rng(0)
    colours = tf.image.resize(rng.uniform(0, 255, (8, 12, 3)), (61, 90), "bicubic") + rng.normal(0, 20, (61, 90, 3))
    image = tf.saturate_cast(colours, tf.uint8)
    encoded = {
        "420": lambda: tf.io.encode_jpeg(image),
        "444": lambda: tf.io.encode_jpeg(image, chroma_downsampling=False),
        "progressive": lambda: tf.io.encode_jpeg(image, progressive=True),
        "gray": lambda: tf.io.encode_jpeg(image[..., :1], "grayscale"),
        "png": lambda: tf.io.encode_png(image),
    }[kind]()
    record = make_record(image=encoded.numpy())
    whole = decode(record).example.image.numpy()
    for _ in range(20):
        begin = rng.integers(0, [61, 90])
        shape = rng.integers(1, [62, 91] - begin)
        window = warp.make_window(tf.constant(begin, tf.int32), tf.constant(shape, tf.int32), clip_boxes=False)
        sizes = []

        def crop(size, objects, window=window, sizes=sizes):
            sizes.append(size.numpy().tolist())
            return warp.Warp(window=window)

        example = decode(record, crop=crop).example
        assert sizes == [[61, 90]]
        end = begin + shape
        np.testing.assert_array_equal(example.image, whole[begin[0] : end[0], begin[1] : end[1]])
        moved = warp.apply(warp.Warp(window=window), decode(record).example)
        np.testing.assert_array_equal(example.objects.boxes, moved.objects.boxes)


def test_what_is_no_jpeg_is_decoded_whole(make_record, encode_image):
    record = make_record(image=encode_image(64, 90, "png"))
    assert decode(record, jpeg_min_side=8).example.image.shape == (64, 90, 3)
    assert "does not decode" in failures.explain_failure(
        make_record(image=b"\xff\xd8\xffgarbage"), file="f", index=0, decode=functools.partial(decode, jpeg_min_side=8)
    )


def exif(orientation: int, *, byte_order: str = "little", before: int = 0, thumbnail: int | None = None) -> bytes:
    """An APP1 segment with an orientation after `before` other entries, and perhaps one of a thumbnail."""

    def entry(tag: int, kind: int, value: int) -> bytes:
        parts = [tag.to_bytes(2, byte_order), kind.to_bytes(2, byte_order), (1).to_bytes(4, byte_order)]
        return b"".join(
            [*parts, value.to_bytes(2, byte_order) + b"\0\0" if kind == 3 else value.to_bytes(4, byte_order)]
        )

    entries = [entry(0x0100 + i, 4, 9) for i in range(before)] + [entry(0x0112, 3, orientation)]
    entries += [entry(0x011A + i, 4, 9) for i in range(30)]
    directory = len(entries).to_bytes(2, byte_order) + b"".join(entries)
    directory += b"" if thumbnail is None else (1).to_bytes(2, byte_order) + entry(0x0112, 3, thumbnail)
    tiff = (b"II*\0" if byte_order == "little" else b"MM\0*") + (8).to_bytes(4, byte_order) + directory
    segment = b"Exif\0\0" + tiff
    return b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("behind_jfif", [False, True])
@pytest.mark.parametrize(
    "options, is_rotated",
    [
        *[({"orientation": value}, value > 1) for value in range(10) if value != 9],
        ({"orientation": 6, "before": 12}, True),
        ({"orientation": 1, "thumbnail": 6}, False),
        (None, False),
    ],
)
@pytest.mark.no_cover
def test_rotated_photographs_are_counted_and_stay_as_they_are(
    make_record, encode_image, options, is_rotated, behind_jfif, byte_order
):
    jpeg = encode_image(20, 30)
    head = 2 + (2 + int.from_bytes(jpeg[4:6], "big") if behind_jfif else 0)  # SOI, and APP0
    with_exif = jpeg[:head] + (exif(**options, byte_order=byte_order) if options else b"") + jpeg[head:]
    decoded = decode(make_record(image=with_exif))
    assert counts(decoded) == ({Notice.ROTATED: 1} if is_rotated else {})
    np.testing.assert_array_equal(decoded.example.image, decode(make_record(image=jpeg)).example.image)


def test_what_only_looks_like_an_orientation_is_none(make_record, encode_image):
    png = encode_image(20, 30, "png")
    assert counts(decode(make_record(image=png + exif(6)))) == {}
    assert counts(decode(make_record(image=encode_image(20, 30) + exif(6)[10:]))) == {}


def test_the_first_bad_value_of_each_reason_is_told(make_record):
    boxes = [(0.1, 0.1, 0.5, 0.5), (12, 8, 100, 90), (30, 8, 100, 90), (0.5, 0.25, 0.125, 0.75), (0.1, 0.1, 0.5, 1.5)]
    names = [b"dog", b"dog", b"dog", b"dog", b"dog"]
    record = make_record([*boxes, (0.1, 0.1, 0.5, 0.5)], [], more={"image/object/class/text": [*names, b"Cat"]})
    issues = decode(record, label_table=decoder.make_label_table({"cat": 1, "dog": 2})).issues
    assert int(issues.num_boxes) == 6
    found = {notice: value.decode() for notice, value in zip(Notice, issues.values.numpy(), strict=True) if value}
    assert found == {
        Notice.OUTSIDE: "12, 8, 100, 90",
        Notice.INVERTED: "0.5, 0.25, 0.125, 0.75",
        Notice.CLIPPED: "0.1, 0.1, 0.5, 1.5",
        Notice.UNKNOWN_CLASS: "Cat",
    }


@pytest.mark.parametrize("weight, text", [(float("nan"), "nan"), (float("inf"), "inf"), (-1.0, "-1")])
def test_weights_that_cannot_be_are_refused(make_record, weight, text):
    record = make_record([(0.1, 0.1, 0.5, 0.5)] * 2, more={"image/object/weight": [0.5, weight]})
    assert refusal(record) == f"image/object/weight is {text}. Allowed: 0 and above."
