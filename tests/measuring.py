"""What is left out of the measurement of coverage, under which Python takes half as long again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """`with unmeasured():` runs what is covered elsewhere."""
    measure = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(measure)


with unmeasured():  # by whoever imports this before TensorFlow
    import tensorflow as tf  # noqa: F401
    import tf_keras  # noqa: F401
