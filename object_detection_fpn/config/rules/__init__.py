"""Combinations of fields that cannot work, a file per part of the config.

A rule takes a message and its path, and yields what is wrong with it. To refuse one more combination, add a function to the
`RULES` of its part, under the message that holds all its fields.
"""

from __future__ import annotations

from object_detection_fpn.config.problems import Rule
from object_detection_fpn.config.rules import (
    augmentations,
    context,
    data,
    evaluation,
    feature_extractor,
    masks,
    model,
    resizers,
    retinanet,
    rpn,
    single_level,
    training,
)

_PARTS = (
    model,
    feature_extractor,
    single_level,
    rpn,
    masks,
    retinanet,
    context,
    resizers,
    training,
    augmentations,
    data,
    evaluation,
)


def rules_of(message_name: str) -> tuple[Rule, ...]:
    """The rules for a message, of all parts."""
    return tuple(rule for part in _PARTS for rule in part.RULES.get(message_name, ()))
