"""The records that cross file borders: one NamedTuple each, every field documented once, here.

Shape letters are those of the whole package: B images, H W size, F channels, K anchors per image, R rois, G groundtruth
boxes, D detections, C classes (C+1 with background first). `boxes` are float32 `(ymin, xmin, ymax, xmax)`; the frame each
record uses is stated at its field. Padding rows come last and are zero; a count says how many rows are real.

NamedTuples are what `tf.function`, `tf.data`, `tf.distribute` and XLA pass through unchanged; a field that a pipeline does
not carry is None.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

TOTAL_LOSS = "Loss/total_loss"
REGULARIZATION_LOSS = "Loss/regularization_loss"
"""Names, among the losses, of their sum and of the share that belongs to the weights alone."""


class Context(NamedTuple):
    """Features of other images of the same camera, one of an object each (Context R-CNN). Letters: M rows of context."""

    features: tf.Tensor
    """[B, M, F] float32, zeros in padding rows."""
    num_features: tf.Tensor
    """[B] int32, how many rows are real; 0 for an image without context."""


class Inputs(NamedTuple):
    """What a detector looks at."""

    images: tf.Tensor
    """[B, H, W, channels] float32, resized, zeros beyond each image's true shape: in [0, 255], or after
    `Detector.preprocess` as the backbone wants them."""
    true_shapes: tf.Tensor
    """[B, 3] int32 (height, width, channels) of each resized image without its padding."""
    context: Context | None = None
    """What else is known of the place; None for models without context."""


class Groundtruth(NamedTuple):
    """What an image shows, padded to the same number of rows for every image of a batch."""

    boxes: tf.Tensor
    """[B, G, 4] float32, pixels of the resized, padded image."""
    classes: tf.Tensor
    """[B, G] int32, 0-based; 0 in padding rows."""
    num_boxes: tf.Tensor
    """[B] int32, how many rows are real."""
    weights: tf.Tensor
    """[B, G] float32, the share each box has in the losses; 0 in padding rows."""
    is_crowd: tf.Tensor
    """[B, G] bool, a region with many objects: neither object nor background in training, ignored by the metrics."""
    is_difficult: tf.Tensor | None = None
    """[B, G] bool, PASCAL VOC's mark of a box that metrics may ignore."""
    is_group_of: tf.Tensor | None = None
    """[B, G] bool, Open Images' mark of a box around several objects."""
    areas: tf.Tensor | None = None
    """[B, G] float32, area of the object in pixels of the original image, 0 where the record has none."""
    class_scores: tf.Tensor | None = None
    """[B, G, C+1] float32, soft class targets with background first (`load_multiclass_scores`)."""
    masks: tf.Tensor | None = None
    """[B, G, M, M] uint8, 0 to 255: the share of each cell of `mask_frames` that belongs to the object; zeros in padding rows
    and for objects without a mask. Rows and columns may differ in number (`mask_frame: IMAGE` of tests)."""
    mask_frames: tf.Tensor | None = None
    """[B, G, 4] float32, pixels of the resized, padded image: the rectangle that each mask covers. It may reach beyond the
    image, and be larger or smaller than the box."""


class Batch(NamedTuple):
    """What the input pipeline hands to training and evaluation."""

    inputs: Inputs
    """Images in [0, 255]."""
    groundtruth: Groundtruth
    original_shapes: tf.Tensor
    """[B, 2] int32 (height, width) of each image as it was stored."""
    source_id: tf.Tensor | None = None
    """[B] string, the record's `image/source_id`; only in evaluation (strings cannot enter XLA)."""
    is_padding: tf.Tensor | None = None
    """[B] bool, True for the images that only fill the last evaluation batch."""
    labeled_classes: tf.Tensor | None = None
    """[B, C] bool, the classes that somebody looked for in each image; only in evaluation, where metrics ask for it."""
    not_exhaustive_classes: tf.Tensor | None = None
    """[B, C] bool, the classes of which each image has more objects than are marked (LVIS); only in evaluation."""
    record_keys: tf.Tensor | None = None
    """[B] int64, from which `data.record_keys` finds the record of each image; only in training, which cannot carry strings."""
    encoded_masks: tf.Tensor | None = None
    """[B, G] string, the masks of the records as PNG files of the size of the original image, in which all but 0 is the object;
    empty in padding rows and for objects without a mask. Only in evaluation, for models with masks."""


class RpnOutputs(NamedTuple):
    """What the region proposal network says of every anchor, finest level first, then rows, columns, anchors of a cell."""

    objectness_logits: tf.Tensor
    """[B, K, 2] float32, background then object, scored by a softmax; or [B, K, 1], object alone, scored by a sigmoid."""
    box_deltas: tf.Tensor
    """[B, K, 4] float32, encoded against `anchors`."""
    anchors: tf.Tensor
    """[K, 4] float32, pixels, clipped to the image where the model clips anchors."""
    is_valid: tf.Tensor
    """[K] bool, False for anchors that neither propose nor train (outside the image)."""
    is_trained: tf.Tensor | None = None
    """[K] bool, False for anchors that do not train although they may propose; None: all valid ones train."""


class Proposals(NamedTuple):
    """Candidate regions, best first."""

    boxes: tf.Tensor
    """[B, R, 4] float32, pixels; zero area in padding rows."""
    scores: tf.Tensor
    """[B, R] float32 objectness, 0 in padding rows."""
    num_proposals: tf.Tensor
    """[B] int32."""
    matches: tf.Tensor | None = None
    """[B, R] int32, the groundtruth row of each (`ops.matching`), where they were sampled by it."""


class Targets(NamedTuple):
    """What anchors or RoIs should say."""

    classes: tf.Tensor
    """[B, K] int32, 0 = background, c + 1 = class c (RPN: 1 = object)."""
    class_weights: tf.Tensor
    """[B, K] float32, 0 = ignored."""
    box_deltas: tf.Tensor
    """[B, K, 4] float32, 0 where `box_weights` is 0."""
    box_weights: tf.Tensor
    """[B, K] float32, 0 unless matched to an object."""
    matches: tf.Tensor
    """[B, K] int32, row of the matched groundtruth box, -1 = background, -2 = ignored."""
    class_targets: tf.Tensor | None = None
    """[B, K, C+1] float32, background first, where the groundtruth says more of the classes than one; `classes` is then the
    class that counts most."""
    best: tf.Tensor | None = None
    """[B, G] int32, of all anchors (also where K of them were sampled) the one that overlaps each groundtruth box most; their
    number where none may match. None for RoIs."""


class BoxOutputs(NamedTuple):
    """What the box head says of every RoI."""

    class_logits: tf.Tensor
    """[B, R, C+1] float32, background first."""
    box_deltas: tf.Tensor
    """[B, R, C or 1, 4] float32, encoded against the RoIs; 1 when one box serves all classes."""
    roi_features: tf.Tensor
    """[B, R, S, S, F], the pyramid pooled within each RoI."""
    cell_features: tf.Tensor | None = None
    """[B, R, S', S', U], what the box head's layers make of `roi_features`, where these keep cells; the predictors see the mean
    over them."""
    raw_boxes: tf.Tensor | None = None
    """[B, R, C or 1, 4] float32, the decoded boxes before suppression in the frame of `Detections`; only if asked for."""
    raw_level_indices: tf.Tensor | None = None
    """[B, R] int32, the entry of `Predictions.pyramid` from which each RoI was pooled; only if asked for."""


class ContextOutputs(NamedTuple):
    """What RoIs find in the context. Letters: U numbers of an RoI's features, M rows of context, A numbers of a value."""

    features: tf.Tensor
    """[B, R, U], what is added to the features of each RoI at each of its cells."""
    weights: tf.Tensor
    """[B, R, M] float32, the share of each context feature; they add up to 1, and are 0 in padding rows, unless all are."""
    values: tf.Tensor
    """[B, M, A] float32, what is shared out; zeros in padding rows."""


class MaskOutputs(NamedTuple):
    """What the mask head says of the RoIs that it trains on. Letters: K RoIs, M mask side."""

    logits: tf.Tensor
    """[B, K, M, M] float32, of each RoI's class."""
    boxes: tf.Tensor
    """[B, K, 4] float32, the RoIs in pixels; zeros in padding rows."""
    matches: tf.Tensor
    """[B, K] int32, the groundtruth row of each; -2 in padding rows."""


class DenseOutputs(NamedTuple):
    """What the head of a single-stage detector says of every anchor, in the order of `RpnOutputs`."""

    class_logits: tf.Tensor
    """[B, K, C+1] float32, background first, or [B, K, C] where it has no column; scores outside of training where the head
    converts them."""
    box_deltas: tf.Tensor
    """[B, K, 4] float32, encoded against `anchors`."""
    anchors: tf.Tensor
    """[K, 4] float32, pixels, not clipped."""


class Predictions(NamedTuple):
    """Everything a detector computes of a batch: what its heads share, and one record for each head that it has."""

    image_size: tf.Tensor
    """[2] int32 (height, width) of the padded image, the frame of every box here."""
    pyramid: tuple[tf.Tensor, ...] | None = None
    """Per level, finest first, [B, H, W, F]."""
    seed: tf.Tensor | None = None
    """[2] int32, drives the random choices of `Detector.loss`. None outside of training: every image's are then those of a
    batch of one, so that its losses do not depend on the images beside it."""
    rpn: RpnOutputs | None = None
    rois: Proposals | None = None
    """The proposals (in training: the sampled ones) that the heads of the second stage saw."""
    box: BoxOutputs | None = None
    context: ContextOutputs | None = None
    """Of the same RoIs, for models that look at context."""
    mask: MaskOutputs | None = None
    """Only in training; at inference only the final detections get masks."""
    dense: DenseOutputs | None = None
    proposals: Proposals | None = None
    """Only in training: those of which `rois` are a sample."""


class Detections(NamedTuple):
    """What a batch shows according to the model, best first."""

    boxes: tf.Tensor
    """[B, D, 4] float32, normalized to the resized image without its padding; zeros in padding rows."""
    scores: tf.Tensor
    """[B, D] float32."""
    classes: tf.Tensor
    """[B, D] int32, 0-based."""
    num_detections: tf.Tensor
    """[B] int32."""
    class_scores: tf.Tensor | None = None
    """[B, D, C+1] float32, the scores of all classes of the detection's RoI or anchor, background first."""
    roi_indices: tf.Tensor | None = None
    """[B, D] int32, row of the detection's RoI or anchor in `raw_boxes`."""
    raw_boxes: tf.Tensor | None = None
    """[B, R, 4] float32, decoded boxes before suppression, normalized and clipped like `boxes`; the best class's box. Of a
    single-stage detector, of all anchors, normalized to the padded image and not clipped, as in the Object Detection API."""
    raw_class_scores: tf.Tensor | None = None
    """[B, R, C+1] float32, scores before suppression."""
    box_features: tf.Tensor | None = None
    """[B, D, 1, 1, U] float32, what the box head's layers make of `roi_features`, or [B, D, S', S', U] where these keep cells;
    only if asked for."""
    roi_features: tf.Tensor | None = None
    """[B, D, S, S, F] float32, the pyramid pooled within each detection; only if asked for."""
    masks: tf.Tensor | None = None
    """[B, D, M, M] float32 in [0, 1]: how sure it is that each cell of the box belongs to the object; zeros in padding rows."""
