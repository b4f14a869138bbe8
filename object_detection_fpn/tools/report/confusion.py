"""The confusion matrix of a detector, with background as one more class.

Shape letters: D detections and G groundtruth of one image, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from object_detection_fpn.tools.report.matching import AT_50, THRESHOLDS, ImageMatches

_IOU = float(THRESHOLDS[AT_50])


def confusion_matrix(images: Iterable[ImageMatches], thresholds: np.ndarray) -> np.ndarray:
    """Counts which class is taken for which.

    Of each image, detections from the threshold of their class on count, best first. Each takes the object that it overlaps
    most, at IoU 0.5 or more: first objects of its own class are given away, then what is left of others. A detection without
    an object is background taken for its class, unless it lies in a crowd; an object without a detection is taken for
    background.

    Args:
        images: of a data set.
        thresholds: [C] float, the least score of each class.

    Returns:
        [C + 1, C + 1] int: rows are groundtruth, columns detections, the last of each is background.
    """
    background = len(thresholds)
    matrix = np.zeros((background + 1, background + 1), int)
    for image in images:
        rows = np.flatnonzero(image.scores >= thresholds[image.classes])
        taken = np.full(len(image.gt_classes), -1)  # the detection that has the object
        has_object = np.zeros(len(image.scores), bool)
        for is_own_class in (True, False):
            for row in rows[~has_object[rows]]:
                is_of_class = image.gt_classes == image.classes[row]
                is_open = ~image.is_crowd & (taken < 0) & (is_of_class == is_own_class)
                iou = np.where(is_open, image.overlaps[row], 0.0)
                if len(iou) and iou.max() >= _IOU:
                    taken[np.argmax(iou)] = row
                    has_object[row] = True
        is_counted = ~image.is_crowd
        detected = np.append(image.classes, background)[taken]  # -1 is the last
        np.add.at(matrix, (image.gt_classes[is_counted], detected[is_counted]), 1)
        is_in_crowd = ((image.overlaps >= _IOU) & image.is_crowd).any(axis=1)
        alone = rows[~has_object[rows] & ~is_in_crowd[rows]]
        np.add.at(matrix, (background, image.classes[alone]), 1)
    return matrix
