"""Runs a model over an evaluation set: metrics and losses to the screen, to TensorBoard and to `metrics.jsonl`.

The model is a detector (`preprocess`, `predict`, `loss`, `postprocess`), the
dataset one of `records.Batch`.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import rich.console
import rich.table
import rich.text
import tensorflow as tf
import tqdm

from object_detection_fpn import records
from object_detection_fpn.evaluation.images import EvaluatedImage, in_original_pixels, real_images, split_by_name
from object_detection_fpn.evaluation.metric import EvaluationError, Metric
from object_detection_fpn.evaluation.pictures import Pictures, PictureSettings
from object_detection_fpn.evaluation.results import print_results, write_results, writing_to
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.ops.pasting import MaskPasting

_LOGGER = logging.getLogger(__name__)

_ON_HOST = ("source_id", "is_padding", "labeled_classes", "not_exhaustive_classes", "encoded_masks")
"""Fields of a batch that metrics alone read."""

_SECONDS_BETWEEN_LINES = 30.0  # of progress, where the output is a file and not a terminal


class EvalStep(NamedTuple):
    """What an evaluation asks a model for."""

    run: Callable[[records.Batch], tuple[records.Detections, dict[str, tf.Tensor]]]
    """Takes a batch of each replica; returns its detections, and each image's losses [B] by name, {} if there are none."""
    regularization_loss: Callable[[], tf.Tensor] | None
    """The scalar that is reported and counts beside these losses; None = none is."""


def make_eval_step(
    *,
    model: Detector,
    strategy: tf.distribute.Strategy | None = None,
    compute_losses: bool = True,
    add_regularization_loss: bool = True,
) -> EvalStep:
    """Makes the compiled step, for those who evaluate a model more than once and want it traced once.

    The losses are those of training mode off: on all proposals rather than a sample of them, one value an image, so that
    images which only fill the last batch can be left out of the mean.

    Args:
        model: the detector.
        strategy: the one the model was built under; None = the current one.
        compute_losses: False for models or datasets without losses.
        add_regularization_loss: whether it is reported and counts in `Loss/total_loss`.
    """
    strategy = strategy or tf.distribute.get_strategy()

    def replica_step(batch: records.Batch) -> tuple[records.Detections, dict[str, tf.Tensor]]:
        inputs = model.preprocess(batch.inputs)
        predictions = model.predict(inputs, training=False)
        detections = model.postprocess(predictions, inputs)
        losses = {}
        if compute_losses:
            losses = model.loss(predictions, batch.groundtruth)
        # The optional fields but the masks are the large ones, and no metric reads them.
        large = ("class_scores", "roi_indices", "raw_boxes", "raw_class_scores", "box_features", "roi_features")
        return detections._replace(**dict.fromkeys(large)), losses

    # The model decides nothing by Python's `if` on a tensor, and without autograph it is traced several times as fast.
    @tf.function(autograph=False, reduce_retracing=True)
    def step(batch: records.Batch) -> tuple[records.Detections, dict[str, tf.Tensor]]:
        return strategy.run(replica_step, args=(batch,))

    return EvalStep(step, model.regularization_loss if compute_losses and add_regularization_loss else None)


def evaluate(
    *,
    eval_step: EvalStep,
    dataset: tf.data.Dataset,
    metrics: Sequence[Metric],
    step: int,
    strategy: tf.distribute.Strategy | None = None,
    categories: Sequence[Mapping[str, Any]] = (),
    output_dir: str | None = None,
    pictures: PictureSettings | None = None,
    ignore_groundtruth: bool = False,
    mask_pasting: MaskPasting = "CORNERS_ALIGNED",
    console: rich.console.Console | None = None,
) -> dict[str, float]:
    """Evaluates a model on a dataset once.

    Args:
        eval_step: what `make_eval_step` gave for the model under `strategy`.
        dataset: of `records.Batch`, finite; batches of the global size, the last filled up with images marked by
            `is_padding`, which count nowhere.
        metrics: fresh ones, each sees every image once. Masks are pasted, in threads, where one of them needs masks.
        step: the training step that the model's weights are of.
        strategy: the one the model was built under; None = the current one. One worker, any number of replicas.
        categories: `{"id": 1-based, "name": ...}`, the names shown in pictures.
        output_dir: where TensorBoard's events and `metrics.jsonl` (one JSON object an evaluation, appended) go; None = nowhere.
        pictures: which images are drawn, and how; None = the first ones. Where neither `output_dir` nor
            `pictures.export_dir` is given, none is.
        ignore_groundtruth: only draw detections; `metrics` see nothing.
        mask_pasting: how the model's masks become pixels, see `ops.pasting`.
        console: where the table goes; None = standard output.

    Returns:
        Every metric's results, and the losses averaged over the images (`Loss/...`, `Loss/total_loss`).

    Raises:
        EvaluationError: if the dataset is infinite or gives no image, two metrics give the same name, the strategy spans
            several workers, results cannot be written, or a metric needs masks and the model or the dataset has none.
    """
    strategy = strategy or tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise EvaluationError(
            "Evaluation runs on one worker, but the strategy is MultiWorkerMirroredStrategy. Use another one."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise EvaluationError("The evaluation dataset repeats for ever. Evaluation needs one that ends.")
    pictures = pictures or PictureSettings()
    if output_dir is None and pictures.export_dir is None:
        pictures = dataclasses.replace(pictures, num_images=0)
    names = {int(category["id"]) - 1: str(category["name"]) for category in categories}
    for folder in filter(None, (output_dir, pictures.export_dir)):
        with writing_to(folder):  # before the evaluation, so that a mistake in the path is known at once
            tf.io.gfile.makedirs(folder)
    drawn = Pictures(pictures, names=names, ignore_groundtruth=ignore_groundtruth)
    metrics = () if ignore_groundtruth else metrics
    loss_sums: dict[str, float] = {}
    num_evaluated = num_objects = num_without_mask = 0
    unnamed: collections.Counter[int] = collections.Counter()
    started = time.monotonic()
    images = run_model(eval_step, dataset, strategy, description=f"evaluating step {step}")
    for image, groundtruth, detections in in_original_pixels(
        images, mask_pasting if any(metric.needs_masks for metric in metrics) else None
    ):
        num_evaluated += 1
        if names:
            groundtruth, unnamed_here = split_by_name(groundtruth, list(names))
            unnamed.update(unnamed_here)
        num_objects += len(groundtruth.classes)
        if groundtruth.masks is not None:
            has_none = np.array([mask is None for mask in groundtruth.masks], bool)
            num_without_mask += int(np.sum(has_none & ~groundtruth.is_crowd))
        for metric in metrics:
            metric.update(groundtruth, detections)
        for name, value in image.losses.items():
            loss_sums[name] = loss_sums.get(name, 0.0) + value
        if drawn.wants_more:
            drawn.add(image.pixels(), **image.to_draw(mask_pasting), source_id=image.source_id)
    if not num_evaluated:
        raise EvaluationError(
            f"The evaluation at step {step} saw no image. Do the files of eval_input_reader hold any records?"
        )
    if not num_objects and not ignore_groundtruth:
        _LOGGER.warning(
            "None of the %d evaluated images has a groundtruth object, so the metrics are undefined (-1 or NaN). Do the "
            "records have boxes (image/object/bbox/...), and classes of the label map?", num_evaluated,
        )  # fmt: skip
    if unnamed:
        _LOGGER.warning(
            "%d groundtruth objects are left out of the metrics: the label map names no class of id %s.",
            unnamed.total(), ", ".join(str(class_id) for class_id in sorted(unnamed)),
        )  # fmt: skip
    if num_without_mask:
        _LOGGER.warning(
            "%d groundtruth objects have no mask: metrics of masks ignore what is detected in their boxes.",
            num_without_mask,
        )
    results: dict[str, float] = {}
    for metric in metrics:
        of_metric = metric.result()
        repeated = sorted(results.keys() & of_metric.keys())
        if repeated:
            raise EvaluationError(f"Two metrics give the same name {repeated[0]!r}. Ask for each set of metrics once.")
        results.update(of_metric)
    losses = {name: total / num_evaluated for name, total in loss_sums.items()}
    if losses:
        if eval_step.regularization_loss is not None:
            losses[records.REGULARIZATION_LOSS] = float(eval_step.regularization_loss())
        losses[records.TOTAL_LOSS] = sum(losses.values())
    results.update(losses)
    seconds = time.monotonic() - started
    print_results(results, f"step {step}: {num_evaluated} images in {seconds:.1f} s", console or rich.console.Console())
    if output_dir is not None:
        write_results(output_dir, results, drawn.sheets, step=step, num_images=num_evaluated)
    return results


def run_model(
    eval_step: EvalStep,
    dataset: tf.data.Dataset,
    strategy: tf.distribute.Strategy,
    *,
    description: str,
) -> Iterator[EvaluatedImage]:
    """Runs the step over the dataset and takes the batches apart into their real images, in order.

    Args:
        eval_step: what `make_eval_step` gave for the model under `strategy`.
        dataset: as for `evaluate`.
        strategy: the one the model was built under.
        description: what the progress bar says.
    """
    # Batches stay on the host until the step takes them: their strings and original shapes never enter an accelerator.
    options = tf.distribute.InputOptions(experimental_fetch_to_device=False)
    is_terminal = sys.stderr.isatty()
    progress = tqdm.tqdm(
        desc=description, unit="image", mininterval=0.5 if is_terminal else _SECONDS_BETWEEN_LINES,
        dynamic_ncols=is_terminal,
    )  # fmt: skip
    with progress:
        for batch in strategy.experimental_distribute_dataset(dataset, options):
            outputs = eval_step.run(batch._replace(**dict.fromkeys(_ON_HOST)))
            for local_batch, (detections, losses) in zip(
                _local_results(strategy, batch), _local_results(strategy, outputs), strict=True
            ):
                for image in real_images(local_batch, detections, losses):
                    yield image
                    progress.update()


def _local_results(strategy: tf.distribute.Strategy, structure: Any) -> list[Any]:
    """A structure of per-replica values -> one structure a replica."""
    leaves = [
        None if leaf is None else strategy.experimental_local_results(leaf) for leaf in tf.nest.flatten(structure)
    ]
    num_replicas = max(len(leaf) for leaf in leaves if leaf is not None)
    return [
        tf.nest.pack_sequence_as(structure, [None if leaf is None else leaf[replica] for leaf in leaves])
        for replica in range(num_replicas)
    ]
