"""Which variables of a model are trained."""

from __future__ import annotations

import re
from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from object_detection_fpn.training.weights import variables_by_path


def select_variables(
    model: tf_keras.layers.Layer, *, update: Sequence[str] = (), freeze: Sequence[str] = ()
) -> list[tf.Variable]:
    """The trainable variables of a model that training is to change.

    Args:
        model: the model, built.
        update: regular expressions; if any are given, only variables that match one of them are trained.
        freeze: regular expressions; variables that match one of them are not trained, whatever `update` says.
            Both are searched for in a variable's path in checkpoints (`backbone/conv1/kernel`) and in its Keras name.

    Returns:
        The variables in the model's order.

    Raises:
        ValueError: if an expression matches no trainable variable, or nothing remains to be trained.
    """
    paths = {id(variable): path for path, variable in variables_by_path(model).items()}
    variables = list(model.trainable_variables)

    def matches(pattern: str) -> set[int]:
        found = {
            id(variable)
            for variable in variables
            if re.search(pattern, paths[id(variable)]) or re.search(pattern, variable.name)
        }
        if not found:
            raise ValueError(
                f'"{pattern}" matches none of the {len(variables)} trainable variables, '
                f"such as {', '.join(paths[id(variable)] for variable in variables[:3])}."
            )
        return found

    updated = set().union(*map(matches, update)) if update else {id(variable) for variable in variables}
    frozen = set().union(*map(matches, freeze))
    selected = [variable for variable in variables if id(variable) in updated - frozen]
    if not selected:
        raise ValueError(f"No variable remains to be trained with update = {list(update)}, freeze = {list(freeze)}.")
    return selected
