"""Which marks the metrics of Open Images use."""

from __future__ import annotations

import pytest

from object_detection_fpn.evaluation.open_images import OpenImagesBoxMetrics, OpenImagesChallengeBoxMetrics

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
A, GROUP, IN_GROUP, ELSEWHERE = [0, 0, 10, 10], [100, 100, 200, 200], [120, 120, 130, 130], [300, 300, 310, 310]
V2, CHALLENGE = "OpenImagesV2_Precision/mAP@0.5IOU", "OpenImagesDetectionChallenge_Precision/mAP@0.5IOU"


def measure(metric, *images):
    for image in images:
        metric.update(*image)
    return metric.result()


@pytest.mark.parametrize(
    "make_metric, prefix",
    [(OpenImagesBoxMetrics, "OpenImagesV2"), (OpenImagesChallengeBoxMetrics, "OpenImagesDetectionChallenge")],
)
def test_names_are_those_of_the_object_detection_api(make_image, make_metric, prefix):
    assert list(measure(make_metric(CATEGORIES), make_image([A], [A]))) == [
        f"{prefix}_Precision/mAP@0.5IOU",
        f"{prefix}_PerformanceByCategory/AP@0.5IOU/cat",
        f"{prefix}_PerformanceByCategory/AP@0.5IOU/dog",
    ]


# Detections in descending order of score -> V2, challenge; one object and one group are there.
@pytest.mark.parametrize(
    "boxes, of_v2, of_challenge",
    [
        ([A, IN_GROUP], 1, 1),
        ([A], 1, 0.5),  # to miss the group costs nothing in V2, one object of two in the challenge
        ([IN_GROUP, A, IN_GROUP], 1, 1),
        ([IN_GROUP], 0, 0.5),
        ([ELSEWHERE, IN_GROUP, A], 0.5, 2 / 3),
        ([], 0, 0),
    ],
)
def test_groups_are_ignored_in_v2_and_found_once_in_the_challenge(make_image, boxes, of_v2, of_challenge):
    image = make_image([A, GROUP], boxes, group_of=[False, True])
    assert measure(OpenImagesBoxMetrics(CATEGORIES), image)[V2] == pytest.approx(of_v2)
    assert measure(OpenImagesChallengeBoxMetrics(CATEGORIES), image)[CHALLENGE] == pytest.approx(of_challenge)


def test_difficult_boxes_are_boxes_like_others(make_image):
    image = make_image([A], [], difficult=[True])
    assert measure(OpenImagesBoxMetrics(CATEGORIES), image)[V2] == 0


def test_only_the_challenge_leaves_out_classes_that_nobody_verified(make_image):
    images = [
        make_image([A], [A], scores=[0.5], labeled=[False, True]),  # its box verifies the cat
        make_image([], [A], scores=[0.9], labeled=[False, True]),  # a cat where nobody looked for one
    ]
    assert measure(OpenImagesBoxMetrics(CATEGORIES), *images)[V2] == pytest.approx(0.5)
    assert measure(OpenImagesChallengeBoxMetrics(CATEGORIES), *images)[CHALLENGE] == 1
    verified = [images[0], make_image([], [A], scores=[0.9], labeled=[True, False])]
    assert measure(OpenImagesChallengeBoxMetrics(CATEGORIES), *verified)[CHALLENGE] == pytest.approx(0.5)


@pytest.mark.parametrize("make_metric, main", [(OpenImagesBoxMetrics, V2), (OpenImagesChallengeBoxMetrics, CHALLENGE)])
def test_crowds_are_boxes_like_others(make_image, make_metric, main):
    image = make_image([A, GROUP], [A], crowd=[False, True])
    assert measure(make_metric(CATEGORIES), image)[main] == pytest.approx(0.5)


def test_groups_alone_are_nothing_to_find_in_v2_and_one_object_each_in_the_challenge(make_image):
    image = make_image([GROUP], [IN_GROUP], group_of=[True])
    assert measure(OpenImagesBoxMetrics(CATEGORIES), image)[V2] == pytest.approx(float("nan"), nan_ok=True)
    assert measure(OpenImagesChallengeBoxMetrics(CATEGORIES), image)[CHALLENGE] == 1
