"""LVIS metrics of masks under the Object Detection API's names, computed by hotcoco.

Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (2019), section 3: annotators look in each image
for some classes only. A class counts in the images that show it and in those in which it was looked for and not found; where
not all of its objects are marked, what is detected beside them is ignored. Numbers are COCO's averages, of 300 detections an
image, over all classes and over those that are rare, common and frequent in training.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from object_detection_fpn.evaluation.coco import log_oddities
from object_detection_fpn.evaluation.coco_format import in_order, mask_annotations, with_regions
from object_detection_fpn.evaluation.metric import (
    EvaluationError,
    ImageDetections,
    ImageGroundtruth,
    check_categories,
    clean_image,
)

_PREFIX = "DetectionMasks_"


class LvisMaskMetrics:
    """The thirteen numbers of LVIS, of masks.

    An image's `labeled_classes` are those that were looked for; where they are unknown, that is all of them. An object without
    a mask is a region in which detections are ignored. Images of one source id count apart, as in `coco.CocoMaskMetrics`.
    """

    needs_masks = True
    main_result = _PREFIX + "AP"

    def __init__(self, categories: Sequence[Mapping[str, Any]]):
        """Args:
            categories: one mapping a class with `id` (1-based), `name` and, for `APr`, `APc` and `APf`, `frequency`: "r", "c"
                or "f".

        Raises:
            ValueError: if there is no category, or two share an id or a name, or an id is below 1.
            EvaluationError: if hotcoco is not installed.
        """
        self._library = _load_hotcoco()
        names = check_categories(categories)
        frequencies = {int(category["id"]): category.get("frequency") for category in categories}
        self._categories = [
            {"id": class_id, "name": name} | ({"frequency": frequency} if (frequency := frequencies[class_id]) else {})
            for class_id, name in names.items()
        ]
        self._ids = frozenset(names)
        self._groundtruth: list[ImageGroundtruth] = []
        self._detections: list[ImageDetections] = []
        self._num_not_finite = 0

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image; see `coco.CocoBoxMetrics.update`."""
        groundtruth, detections, num_not_finite = clean_image(groundtruth, detections, self._ids)
        self._num_not_finite += num_not_finite
        self._groundtruth.append(with_regions(groundtruth, detections))
        self._detections.append(detections)

    def result(self) -> dict[str, float]:
        """The metrics over all images so far; -1 where there is no groundtruth to measure.

        Returns:
            `DetectionMasks_AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `APr`, `APc`, `APf`, `AR@300`, `ARs@300`, `ARm@300`,
            `ARl@300`, each with that beginning.

        Raises:
            ValueError: if there was no image.
        """
        if not self._groundtruth:
            raise ValueError(
                "There is no LVIS metric of no images: the evaluation saw none. Does its input hold any records?"
            )
        log_oddities(self._groundtruth, self._num_not_finite)
        images, groundtruth, detections = [], [], []
        for image_id, (truth, found) in enumerate(in_order(self._groundtruth, self._detections), start=1):
            images.append(self._image(image_id, truth))
            of_truth, of_found = mask_annotations(image_id, truth, found)
            groundtruth += of_truth
            detections += of_found
        coco = [self._index(images, annotations) for annotations in (groundtruth, detections)]
        evaluator = self._library.COCOeval(*coco, "segm", lvis_style=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its numbers
            evaluator.run()
        results = evaluator.get_results()
        return {_PREFIX + key: float(results[key]) for key in evaluator.metric_keys()}

    def _image(self, image_id: int, groundtruth: ImageGroundtruth) -> dict[str, Any]:
        height, width = groundtruth.image_size or (0, 0)
        looked_for = self._ids if groundtruth.labeled_classes is None else _ids_of(groundtruth.labeled_classes)
        present = set((groundtruth.classes + 1).tolist())
        partly = set() if groundtruth.not_exhaustive_classes is None else _ids_of(groundtruth.not_exhaustive_classes)
        return {
            "id": image_id,
            "height": height,
            "width": width,
            "neg_category_ids": sorted((looked_for & self._ids) - present),
            "not_exhaustive_category_ids": sorted(partly & self._ids),
        }

    def _index(self, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Any:
        numbered = [{"id": i, **annotation} for i, annotation in enumerate(annotations, start=1)]
        return self._library.COCO({"images": images, "categories": self._categories, "annotations": numbered})


def _ids_of(is_class: np.ndarray) -> set[int]:
    """[C] bool -> 1-based ids."""
    return set((np.flatnonzero(is_class) + 1).tolist())


def _load_hotcoco() -> Any:
    try:
        import hotcoco
    except ImportError as error:
        raise EvaluationError(
            "lvis_mask_metrics are computed by hotcoco, which is not installed. Install it with: "
            "pip install 'object_detection_fpn[lvis]'"
        ) from error
    return hotcoco
