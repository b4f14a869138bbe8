"""What surrounds every command: the process is prepared before TensorFlow is imported, and failures become exit statuses.

A mistake of the user ends a command with one line that says what it is, and exit status 2; what went wrong later, with 1;
a worker that is missing, with 75; a signal, after training has saved its state, with 128 + its number.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

from absl import logging

from object_detection_fpn.tools.command import UsageError, say

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
    # Imported here: each needs TensorFlow, which takes seconds that `odfpn --help` need not take.
    import tensorflow as tf

    from object_detection_fpn.config.pipeline import ConfigError
    from object_detection_fpn.data import decoder
    from object_detection_fpn.training.checkpoints import CheckpointError
    from object_detection_fpn.training.loop import TrainingError, TrainingStopped

    try:
        return action() or 0
    except (UsageError, ConfigError, CheckpointError, FileNotFoundError) as error:
        say(f"error: {error}")
        return 2
    except (TrainingError, TimeoutError) as error:
        say(f"error: {error}")
        return getattr(error, "exit_code", 1)
    except tf.errors.InvalidArgumentError as error:
        # Of a record; anything else is a fault of this package and keeps its traceback.
        message = decoder.refusal_words(error)
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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.api_core")
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    logging.set_stderrthreshold(logging.WARNING)


def _keep_compiled(folder: str) -> None:
    """TensorFlow reads its flags once, when it first compiles: they have to be there before it is."""
    place = folder if "://" in folder else os.path.abspath(folder)
    flag = f"--tf_xla_persistent_cache_directory={place}"
    os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {flag}".strip()
