"""What is refused of input readers because fields clash with each other or with the rest."""

from __future__ import annotations

import pytest

MODEL = "model.faster_rcnn"
HEAD = f"{MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
BOTH = ("train_input_reader.load_instance_masks=true", "eval_input_reader[0].load_instance_masks=true")


@pytest.mark.parametrize("place", ["train_input_reader", "eval_input_reader[0]"])
def test_a_model_with_masks_needs_those_of_the_records(config, change, refusals, place):
    change(config, f"{MODEL}.number_of_stages=3", *(each for each in BOTH if place not in each))
    assert [line for line in refusals(config) if "load_instance_masks" in line] == [
        f"my.config: {place}.load_instance_masks = false leaves out the masks that the model is to learn, or is measured by: "
        f"{MODEL}.number_of_stages = 3. Allowed: true, or {MODEL}.number_of_stages: 2."
    ]
    change(config, *BOTH)
    assert not any("load_instance_masks" in line for line in refusals(config))


def test_a_config_without_readers_needs_no_masks(config, change, refusals):
    change(
        config,
        f"{MODEL}.number_of_stages=3",
        "-train_config",
        "-train_input_reader",
        "-eval_config",
        "-eval_input_reader",
    )
    assert not any("load_instance_masks" in line for line in refusals(config))


TRANSFER = f"{HEAD}.mask_transfer={{ classes_with_masks: 1 }}"


@pytest.mark.parametrize(
    "step, changes, expected",
    [
        (
            "autoaugment_image {}",
            [],
            '.policy_name = "v0" moves the content of boxes without the masks of their objects. Allowed: v2, v3, test.',
        ),
        ('autoaugment_image { policy_name: "v1" }', [], '.policy_name = "v1" moves the content of boxes without'),
        ('autoaugment_image { policy_name: "v3" }', [], None),
        (
            "remap_labels { original_labels: [1, 2] new_label: 1 }",
            [TRANSFER],
            ".new_label = 1 is one of classes_with_masks, original_labels = 2 is not. Allowed: a class beside "
            "classes_with_masks.",
        ),
        ("remap_labels { original_labels: [1, 2] new_label: 2 }", [TRANSFER], None),
        ("remap_labels { original_labels: [1, 2] new_label: 1 }", [], None),
    ],
)
def test_masks_follow_augmentations_or_these_are_refused(config, change, refusals, step, changes, expected):
    change(config, f"train_config.data_augmentation_options=[{{ {step} }}]")
    place = f"my.config: train_config.data_augmentation_options[0].{step.split()[0]}"
    if expected:
        assert not any(line.startswith(place) for line in refusals(config))  # without masks
    change(config, f"{MODEL}.number_of_stages=3", *BOTH, *changes)
    found = [line.removeprefix(place) for line in refusals(config) if line.startswith(place)]
    assert (found == []) if expected is None else any(line.startswith(expected) for line in found), found
