"""Runs a model over an evaluation set: metrics and losses to the screen, to TensorBoard and to `metrics.jsonl`.

The model is a detector (`preprocess`, `predict`, `loss`, `postprocess`), the
dataset one of `records.Batch`. `evaluate_continuously` does it again for every checkpoint that a training job writes.
"""

from __future__ import annotations

import json
import math
import os
import re
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
from object_detection_fpn.drawing.boxes import Boxes
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth, Metric
from object_detection_fpn.evaluation.pictures import Pictures
from object_detection_fpn.modeling.detector import Detector

_OF_CLASS = re.compile(r"(\w+_PerformanceByCategory/[^/]+/)(.+)")  # the name of a class's metric
_SECONDS_BETWEEN_LINES = 30.0  # of progress, where the output is a file and not a terminal

EvalStep = Callable[[records.Batch], tuple[records.Detections, dict[str, tf.Tensor]]]
"""Takes a batch of each replica; gives its detections, and each image's losses [B]."""


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
            if add_regularization_loss:
                losses[records.REGULARIZATION_LOSS] = tf.fill(
                    tf.shape(batch.groundtruth.num_boxes), model.regularization_loss()
                )
            losses[records.TOTAL_LOSS] = tf.add_n(list(losses.values()))
        # The optional fields are the large ones, and no metric reads them.
        large = ("class_scores", "roi_indices", "raw_boxes", "raw_class_scores", "box_features", "roi_features")
        return detections._replace(**dict.fromkeys(large)), losses

    # The model decides nothing by Python's `if` on a tensor, and without autograph it is traced several times as fast.
    @tf.function(autograph=False, reduce_retracing=True)
    def step(batch: records.Batch) -> tuple[records.Detections, dict[str, tf.Tensor]]:
        return strategy.run(replica_step, args=(batch,))

    return step


def evaluate(
    *,
    model: Detector,
    dataset: tf.data.Dataset,
    metrics: Sequence[Metric],
    step: int,
    strategy: tf.distribute.Strategy | None = None,
    eval_step: EvalStep | None = None,
    categories: Sequence[Mapping[str, Any]] = (),
    output_dir: str | None = None,
    num_visualizations: int = 10,
    min_score_threshold: float = 0.5,
    max_num_boxes_to_visualize: int = 20,
    skip_labels: bool = False,
    skip_scores: bool = False,
    groundtruth_color: str | None = None,
    ignore_groundtruth: bool = False,
    export_dir: str | None = None,
    export_with_groundtruth: bool = False,
    export_with_source_id: bool = False,
    compute_losses: bool = True,
    add_regularization_loss: bool = True,
    num_images: int | None = None,
    console: rich.console.Console | None = None,
) -> dict[str, float]:
    """Evaluates a model on a dataset once.

    Args:
        model: see `make_eval_step`.
        dataset: of `records.Batch`, finite; batches of the global size, the last filled up with images marked by
            `is_padding`, which count nowhere.
        metrics: fresh ones, each sees every image once.
        step: the training step that the model's weights are of.
        strategy: the one the model was built under; None = the current one. One worker, any number of replicas.
        eval_step: what `make_eval_step` gave for this model and strategy, to trace it once only. `compute_losses` and
            `add_regularization_loss` are then those it was made with.
        categories: `{"id": 1-based, "name": ...}`, the names shown in pictures.
        output_dir: where TensorBoard's events and `metrics.jsonl` (one JSON object an evaluation, appended) go; None = nowhere.
        num_visualizations: how many images to show, the first ones of the dataset: detections left, groundtruth right.
        min_score_threshold: detections below it are not drawn (they all count in the metrics).
        max_num_boxes_to_visualize: most detections drawn on an image.
        skip_labels: draw no class names.
        skip_scores: draw no scores.
        groundtruth_color: HTML name of the colour of all groundtruth boxes; None = each class's own.
        ignore_groundtruth: only draw detections; `metrics` see nothing.
        export_dir: folder for the drawings as PNG files, see `pictures.Pictures`; None = none.
        export_with_groundtruth: draw groundtruth beneath the detections in these files.
        export_with_source_id: name these files by the images' source ids too.
        compute_losses: whether the losses on the evaluation set are computed.
        add_regularization_loss: whether it is reported and counts in `Loss/total_loss`.
        num_images: how many images the dataset has, where known, for the progress bar.
        console: where the table goes; None = standard output.

    Returns:
        Every metric's results, and the losses averaged over the images (`Loss/...`, `Loss/total_loss`).

    Raises:
        ValueError: if the dataset is infinite or gives no image, if two metrics give the same name, or if the strategy
            spans several workers.
    """
    strategy = strategy or tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Evaluation runs on one worker, but the strategy is MultiWorkerMirroredStrategy. Use another one."
        )
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The evaluation dataset repeats for ever. Evaluation wants one that ends, read once.")
    eval_step = eval_step or make_eval_step(
        model=model, strategy=strategy, compute_losses=compute_losses, add_regularization_loss=add_regularization_loss
    )
    names = {int(category["id"]) - 1: str(category["name"]) for category in categories}
    pictures = Pictures(
        num_images=num_visualizations if output_dir is not None or export_dir is not None else 0,
        names=names,
        min_score=min_score_threshold,
        max_num_boxes=max_num_boxes_to_visualize,
        show_labels=not skip_labels,
        show_scores=not skip_scores,
        groundtruth_color=groundtruth_color,
        ignore_groundtruth=ignore_groundtruth,
        export_dir=export_dir,
        export_with_groundtruth=export_with_groundtruth,
        export_with_source_id=export_with_source_id,
    )
    metrics = () if ignore_groundtruth else metrics
    loss_sums: dict[str, float] = {}
    num_evaluated = 0
    started = time.monotonic()
    for image in _run(eval_step, dataset, strategy, num_images=num_images, description=f"evaluating step {step}"):
        num_evaluated += 1
        groundtruth, detections = image.in_original_pixels()
        for metric in metrics:
            metric.update(groundtruth, detections)
        for name, value in image.losses.items():
            loss_sums[name] = loss_sums.get(name, 0.0) + value
        if pictures.wants_more:
            pictures.add(
                image.pixels(),
                detections=Boxes(image.detections.boxes, image.detections.classes, scores=image.detections.scores),
                groundtruth=Boxes(
                    image.groundtruth_normalized(), image.groundtruth.classes, is_crowd=image.groundtruth.is_crowd
                ),
                source_id=image.source_id,
            )
    if not num_evaluated:
        raise ValueError(f"The evaluation at step {step} saw no image. Does its input hold any records?")
    results: dict[str, float] = {}
    for metric in metrics:
        of_metric = metric.result()
        repeated = sorted(results.keys() & of_metric.keys())
        if repeated:
            raise ValueError(f"Two metrics give the same name {repeated[0]!r}. Ask for each set of metrics once.")
        results.update(of_metric)
    results.update({name: total / num_evaluated for name, total in loss_sums.items()})
    seconds = time.monotonic() - started
    _print_results(
        results, f"step {step}: {num_evaluated} images in {seconds:.1f} s", console or rich.console.Console()
    )
    if output_dir is not None:
        _write_results(output_dir, results, pictures.sheets, step=step, num_images=num_evaluated)
    return results


def evaluate_continuously(
    *,
    checkpoint_dir: str,
    evaluate_fn: Callable[[str, int], dict[str, float]],
    timeout: float = 3600.0,
    final_step: int | None = None,
    min_interval_seconds: float = 0.0,
    console: rich.console.Console | None = None,
) -> dict[int, dict[str, float]]:
    """Evaluates every checkpoint that appears in a folder, the newest first to be seen, until training is over.

    Checkpoints that appear while one is evaluated are passed over but for the newest. One that its training job deletes
    before it could be read is passed over too, and said so. Whatever else goes wrong in `evaluate_fn` is raised.

    Args:
        checkpoint_dir: where a training job writes `ckpt-N`; need not exist yet.
        evaluate_fn: (checkpoint path, its step) -> metrics.
        timeout: seconds to wait for the next checkpoint before training counts as over.
        final_step: the step at which training ends; evaluating it ends the wait. None = only the timeout does.
        min_interval_seconds: least time between two evaluations.
        console: where it says that it waits; None = standard output.

    Returns:
        Step -> the metrics of its checkpoint.

    Raises:
        TimeoutError: if no checkpoint could be evaluated at all.
    """
    console = console or rich.console.Console()
    results: dict[int, dict[str, float]] = {}

    def say_waiting() -> None:
        console.print(f"Waiting up to {timeout:g} s for a new checkpoint in {checkpoint_dir} ...", markup=False)

    say_waiting()
    paths = tf.train.checkpoints_iterator(checkpoint_dir, min_interval_secs=min_interval_seconds, timeout=timeout)
    for path in paths:
        try:
            step = checkpoint_step(path)
            results[step] = evaluate_fn(path, step)
        except (tf.errors.NotFoundError, tf.errors.DataLossError):
            if tf.io.gfile.exists(path + ".index"):
                raise
            console.print(f"{path} was deleted before it could be evaluated; going on with the next one.", markup=False)
        else:
            if final_step is not None and step >= final_step:
                return results
        say_waiting()
    if not results:
        raise TimeoutError(f"No checkpoint to evaluate appeared in {checkpoint_dir} within {timeout:g} s.")
    console.print(f"No new checkpoint in {checkpoint_dir} within {timeout:g} s: evaluation ends.", markup=False)
    return results


def checkpoint_step(path: str) -> int:
    """The training step stored in a checkpoint (its number N counts saves, not steps); 0 for an exported one without.

    Raises:
        tf.errors.NotFoundError: if there is no such checkpoint.
    """
    reader = tf.train.load_checkpoint(path)
    key = "step/.ATTRIBUTES/VARIABLE_VALUE"
    return int(reader.get_tensor(key)) if reader.has_tensor(key) else 0


class _Image(NamedTuple):
    """One real image of a batch, everything as NumPy, padding rows cut off."""

    source_id: str
    image: tf.Tensor
    """[H, W, channels] float32; fetched only where it is drawn."""
    true_shape: np.ndarray
    original_shape: np.ndarray
    groundtruth: records.Groundtruth
    labeled_classes: np.ndarray | None
    detections: records.Detections
    losses: dict[str, float]

    def pixels(self) -> np.ndarray:
        """The resized image without its padding."""
        height, width = self.true_shape[:2]
        return self.image[:height, :width].numpy()

    def groundtruth_normalized(self) -> np.ndarray:
        """Groundtruth boxes [G, 4], normalized to the resized image without its padding, like the detections'."""
        return self.groundtruth.boxes / np.tile(self.true_shape[:2], 2).astype(np.float64)

    def in_original_pixels(self) -> tuple[ImageGroundtruth, ImageDetections]:
        """What the metrics are fed."""
        size = np.tile(self.original_shape, 2).astype(np.float64)
        groundtruth = ImageGroundtruth(
            source_id=self.source_id,
            boxes=self.groundtruth_normalized() * size,
            classes=self.groundtruth.classes,
            is_crowd=self.groundtruth.is_crowd,
            areas=self.groundtruth.areas,
            is_difficult=self.groundtruth.is_difficult,
            is_group_of=self.groundtruth.is_group_of,
            labeled_classes=self.labeled_classes,
        )
        return groundtruth, ImageDetections(
            boxes=self.detections.boxes * size, scores=self.detections.scores, classes=self.detections.classes
        )


def _run(
    eval_step: EvalStep,
    dataset: tf.data.Dataset,
    strategy: tf.distribute.Strategy,
    *,
    num_images: int | None,
    description: str,
) -> Iterator[_Image]:
    """Runs the step over the dataset and takes the batches apart into their real images, in order."""
    # Batches stay on the host until the step takes them: their strings and original shapes never enter an accelerator.
    options = tf.distribute.InputOptions(experimental_fetch_to_device=False)
    is_terminal = sys.stderr.isatty()
    progress = tqdm.tqdm(
        total=num_images, desc=description, unit="image", mininterval=0.5 if is_terminal else _SECONDS_BETWEEN_LINES,
        dynamic_ncols=is_terminal,
    )  # fmt: skip
    with progress:
        for batch in strategy.experimental_distribute_dataset(dataset, options):
            outputs = eval_step(batch._replace(source_id=None, is_padding=None, labeled_classes=None))
            for local_batch, (detections, losses) in zip(
                _local_results(strategy, batch), _local_results(strategy, outputs), strict=True
            ):
                for image in _real_images(local_batch, detections, losses):
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


def _real_images(
    batch: records.Batch, detections: records.Detections, losses: dict[str, tf.Tensor]
) -> Iterator[_Image]:
    images = batch.inputs.images
    batch = batch._replace(inputs=batch.inputs._replace(images=None))
    batch, detections, losses = tf.nest.map_structure(_numpy, (batch, detections, losses))
    for i in range(len(batch.original_shapes)):
        if batch.is_padding is not None and batch.is_padding[i]:
            continue
        source_id = "" if batch.source_id is None else batch.source_id[i].decode("utf-8", errors="replace")
        num_detections = int(detections.num_detections[i])
        groundtruth = batch.groundtruth._replace(class_scores=None)
        yield _Image(
            source_id=source_id,
            image=images[i],
            true_shape=batch.inputs.true_shapes[i],
            original_shape=batch.original_shapes[i],
            groundtruth=_rows(groundtruth, i, int(groundtruth.num_boxes[i])),
            labeled_classes=None if batch.labeled_classes is None else batch.labeled_classes[i],
            detections=_rows(detections, i, num_detections),
            losses={name: float(value[i]) for name, value in losses.items()},
        )


def _rows(record: Any, image: int, num_rows: int) -> Any:
    """The real rows of one image; its count (the field of one axis) becomes a scalar."""
    return type(record)(
        *(None if field is None else field[image] if field.ndim == 1 else field[image, :num_rows] for field in record)
    )


def _numpy(value: tf.Tensor | None) -> np.ndarray | None:
    return None if value is None else value.numpy()


def _print_results(results: Mapping[str, float], title: str, console: rich.console.Console) -> None:
    """One table of metrics and losses, and for each metric one of the classes' AP, lowest last."""
    per_class: dict[str, dict[str, float]] = {}
    others: dict[str, float] = {}
    for name, value in results.items():
        if of_class := _OF_CLASS.fullmatch(name):
            per_class.setdefault(of_class[1], {})[of_class[2]] = value
        else:
            others[name] = value
    console.print(_table(f"Evaluation of {title}", ("metric", "value"), others))
    for prefix, of_classes in per_class.items():
        best_first = dict(sorted(of_classes.items(), key=lambda item: -np.nan_to_num(item[1], nan=-1.0)))
        of_which = prefix.partition("_")[0] if len(per_class) > 1 else "AP"
        console.print(_table("AP of each class", ("class", of_which), best_first))


def _table(title: str, columns: tuple[str, str], rows: Mapping[str, float]) -> rich.table.Table:
    table = rich.table.Table(title=rich.text.Text(title), title_justify="left")
    table.add_column(columns[0], overflow="fold")
    table.add_column(columns[1], justify="right")
    for name, value in rows.items():
        # -1 is COCO's word for "no groundtruth to measure it on", NaN that of the others, but a loss may diverge.
        is_undefined = value == -1 or (math.isnan(value) and not name.startswith("Loss/"))
        shown = "no groundtruth" if is_undefined else f"{value:.4f}"
        table.add_row(rich.text.Text(name), shown)
    return table


def _write_results(
    output_dir: str, results: Mapping[str, float], pictures: Sequence[np.ndarray], *, step: int, num_images: int
) -> None:
    tf.io.gfile.makedirs(output_dir)
    writer = tf.summary.create_file_writer(output_dir)
    with writer.as_default(step=step):
        for name, value in results.items():
            tf.summary.scalar(name, value)
        for i, picture in enumerate(pictures):
            tf.summary.image(f"eval_side_by_side_{i}_0", picture[np.newaxis])  # the Object Detection API's tag
    writer.close()
    line: dict[str, float | None] = {"step": step, "num_images": num_images}
    # JSON has no NaN: a diverged loss is null.
    line.update((name, value if math.isfinite(value) else None) for name, value in results.items())
    with tf.io.gfile.GFile(os.path.join(output_dir, "metrics.jsonl"), "a") as file:
        file.write(json.dumps(line) + "\n")
