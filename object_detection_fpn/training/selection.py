"""Which variables of a model are trained."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tf_keras

from object_detection_fpn.training.errors import SettingsError
from object_detection_fpn.training.stored import some
from object_detection_fpn.training.weights import variables_by_path

_LOGGER = logging.getLogger(__name__)


def select_variables(
    model: tf_keras.layers.Layer, *, update: Sequence[str] = (), freeze: Sequence[str] = ()
) -> list[tf.Variable]:
    """The trainable variables of a model that training is to change.

    Args:
        model: the model, built.
        update: regular expressions; if any of them matches, only variables that match one of them are trained.
        freeze: regular expressions; variables that match one of them are not trained, whatever `update` says.
            Both are searched for in a variable's path in checkpoints (`backbone/conv1/kernel`) and in its Keras name. One
            that matches nothing has no effect, and a warning says so: configs of the Object Detection API, which ignores
            both fields, carry patterns for other names.

    Returns:
        The variables in the model's order.

    Raises:
        SettingsError: if an expression is none, or nothing remains to be trained.
    """
    paths = {id(variable): path for path, variable in variables_by_path(model).items()}
    variables = list(model.trainable_variables)
    names = {id(variable): (paths[id(variable)], variable.name) for variable in variables}
    updated = _find("update_trainable_variables", update, names)
    frozen = _find("freeze_variables", freeze, names)
    if update and not updated:
        _LOGGER.warning("train_config.update_trainable_variables matches nothing: all variables count as listed.")
    selected = [
        variable for variable in variables if (not updated or id(variable) in updated) and id(variable) not in frozen
    ]
    if not selected:
        whose = f"{len(variables)} trainable variables"
        if updated:
            whose = f"{len(updated)} variables that update_trainable_variables = {list(update)} selects"
        raise SettingsError(
            f"No variable remains to be trained: train_config.freeze_variables = {list(freeze)} freezes all {whose}."
        )
    return selected


def _find(field: str, patterns: Sequence[str], names: Mapping[int, tuple[str, str]]) -> set[int]:
    """The variables of which a name matches a pattern; warns of patterns that match none."""
    found: set[int] = set()
    for pattern in patterns:
        try:
            matches = {key for key, of_variable in names.items() if any(re.search(pattern, n) for n in of_variable)}
        except re.error as error:
            raise SettingsError(f'train_config.{field}: "{pattern}" is no regular expression ({error}).') from error
        if not matches:
            # One of each part of the model, since all the first ones belong to the backbone.
            examples = {path.split("/")[0]: path for path, _ in reversed(list(names.values()))}
            _LOGGER.warning(
                'train_config.%s: "%s" matches none of the %d trainable variables and has no effect. There are, among others: '
                "%s.", field, pattern, len(names), some(sorted(examples.values())),
            )  # fmt: skip
        found |= matches
    return found
