"""Names for the parts of a step that are no Keras layers, so that what the compiler says of operations can be told by part.

A program carries with every operation the name scopes it was traced in. Layers and most pure functions of `ops` have theirs;
the losses and `targets.encode` get theirs here, and only while a step is traced to be planned.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from object_detection_fpn.modeling import targets
from object_detection_fpn.ops import losses

# The first four are scopes that functions of `ops` open themselves.
CROP, SUPPRESSION, MATCHING, SAMPLING, LOSSES = "crop_and_resize", "suppression", "matching", "sampling", "losses"

_PARTS: tuple[tuple[Any, str, str], ...] = (
    (targets, "encode", MATCHING),
    (losses.RpnLoss, "__call__", LOSSES),
    (losses.BoxLoss, "__call__", LOSSES),
)


@contextlib.contextmanager
def named_parts() -> Iterator[None]:
    """What is traced inside has the names above in the scopes of its operations."""
    with contextlib.ExitStack() as stack:
        for place, name, scope in _PARTS:
            function = getattr(place, name)
            stack.callback(setattr, place, name, function)
            setattr(place, name, _in_scope(function, scope))
        yield


def _in_scope(function: Callable[..., Any], scope: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def scoped(*args: Any, **keywords: Any) -> Any:
        with tf.name_scope(scope):
            return function(*args, **keywords)

    return scoped
