"""What surrounds every command: the process is prepared before TensorFlow is imported, and failures become exit statuses.

A mistake of the user ends a command with one line that says what it is, and exit status 2; what went wrong later, with 1;
a worker that is missing, with 75; a signal, after training has saved its state, with 128 + its number.
"""

from __future__ import annotations

import glob
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable

from absl import logging

from object_detection_fpn.tools.command import UsageError, say

_LOG_LEVEL = "2"  # of TensorFlow, unless the user set another: errors
# What TensorFlow prints as an error on every machine without a GPU, when it first looks for one.
_NO_GPU = re.compile(
    rb"failed call to cuInit|Could not find cuda drivers|CUDA_ERROR_NO_DEVICE|retrieving CUDA diagnostic"
)
_GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd")  # NVIDIA's, that of Windows' subsystem for Linux, AMD's
_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports


def guarded(action: Callable[[], int | None], *, xla_cache_dir: str | None = None) -> int:
    """Runs an action; its failures that a user can mend become one line on standard error and an exit status.

    Args:
        action: what to do, and the exit status (None = 0).
        xla_cache_dir: folder in which XLA keeps what it compiles, for the next process; None = nothing is kept.
    """
    _prepare_process()
    if xla_cache_dir:
        _keep_compiled(xla_cache_dir)
    if os.environ["TF_CPP_MIN_LOG_LEVEL"] == _LOG_LEVEL:
        _list_devices()
    # Imported here: each needs TensorFlow, which takes seconds that `odfpn --help` need not take.
    import tensorflow as tf

    from object_detection_fpn.config import paths
    from object_detection_fpn.config.pipeline import ConfigError
    from object_detection_fpn.data import failures
    from object_detection_fpn.evaluation.metric import EvaluationError
    from object_detection_fpn.training.errors import TrainingError
    from object_detection_fpn.training.loop import TrainingStopped
    from object_detection_fpn.training.stored import CheckpointError

    try:
        return action() or 0
    except (UsageError, ConfigError, CheckpointError, EvaluationError, failures.DataError, FileNotFoundError) as error:
        say(f"error: {error}")
        return 2
    except (TrainingError, TimeoutError) as error:
        say(f"error: {error}")
        return getattr(error, "exit_code", 1)
    except (tf.errors.OpError, OSError) as error:
        # Of a record or a file; anything else is a fault of this package and keeps its traceback.
        message = failures.error_message(error) if isinstance(error, tf.errors.InvalidArgumentError) else None
        if message is None and (reason := paths.explain(error)):
            message = f"{paths.name_file(error)} {reason}."
        if message is None:
            raise
        say(f"error: {message}")
        return 1
    except TrainingStopped as stopped:  # the loop has said where it stopped
        return stopped.exit_code
    except KeyboardInterrupt:
        say("Interrupted.")
        return _INTERRUPTED


def _prepare_process() -> None:
    """What has to be set before TensorFlow is imported.

    Start-up lines of libraries that say nothing of the user's work are quieted; errors still come through. `tf.keras`, which
    nothing here uses, is to be tf_keras: TensorFlow would load Keras 3 and what it imports, 1.5 seconds and 90 MB.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _LOG_LEVEL)
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.api_core")
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    logging.set_stderrthreshold(logging.WARNING)


def _list_devices() -> None:
    """Has TensorFlow look for GPUs for the first time; the line that it prints where there is none is left out.

    On a machine that has one, and for any other line, nothing is left out.
    """
    import tensorflow as tf

    if any(glob.glob(pattern) for pattern in _GPU_FILES) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        return
    sys.stderr.flush()
    try:
        shown = os.dup(2)
    except OSError:  # standard error is closed: nothing is printed anyway
        return
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        try:
            tf.config.list_physical_devices()
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            printed.seek(0)
            for line in printed:
                if not _NO_GPU.search(line):
                    os.write(2, line)


def _keep_compiled(folder: str) -> None:
    """TensorFlow reads its flags once, when it first compiles: it must be set before that."""
    place = folder if "://" in folder else os.path.abspath(folder)
    flag = f"--tf_xla_persistent_cache_directory={place}"
    os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {flag}".strip()
