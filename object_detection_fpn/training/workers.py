"""What several workers need beside their strategy: waiting for all, stopping at one step, and an error that names a lost one.

A worker is a process that the environment variable TF_CONFIG lists. The first of them, the chief, writes checkpoints and
summaries.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from object_detection_fpn.training.errors import TrainingError

MISSING_WORKER = 75  # EX_TEMPFAIL of sysexits.h: the same command may do later
TIME_OVER = -1
"""A reason to stop, beside the signals: the time budget of a worker is used up."""
_REASONS = (signal.SIGINT, signal.SIGTERM, TIME_OVER)
_SECONDS_BETWEEN_TRIES = 0.5
_SECONDS_OF_A_TRY = 2.0  # an address that swallows packets answers nothing at all
_SECONDS_IN_SILENCE = 5.0
_TASK = re.compile(r"/job:(\w+)/replica:\d+/task:(\d+)")
_LOSSES = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class WorkersMissingError(TimeoutError):
    """Some workers did not start. The message has their addresses."""

    exit_code = MISSING_WORKER


class WorkerLostError(TrainingError):
    """A worker ended or cannot be reached. The message says which one, and what is left on disk."""

    exit_code = MISSING_WORKER


def wait_for_workers(
    addresses: Sequence[str], own: int, *, timeout: float, say: Callable[[str], None] = lambda line: None
) -> None:
    """Returns as soon as all workers have started, for which `MultiWorkerMirroredStrategy` would wait silently.

    Every worker listens at its own address until it has reached all others, then leaves the address to the server of its
    strategy, which can be reached there too. So they may start in any order, and one that has gone on can still be reached.

    Args:
        addresses: "HOST:PORT" of all workers.
        own: which of them is this one.
        timeout: seconds.
        say: takes a line if it takes long.

    Raises:
        ValueError: if an address is none, or something else listens at this worker's port.
        WorkersMissingError: if a worker does not come.
    """
    places = [_split(address) for address in addresses]
    start = time.monotonic()
    is_silent = True
    missing = {i: "" for i in range(len(places)) if i != own}
    with _listen(places[own][1], addresses[own]), concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        while True:
            reasons = pool.map(lambda i: _reach(places[i]), missing)
            missing = {i: why for i, why in zip(missing, reasons, strict=True) if why}
            if not missing:
                return
            waited = time.monotonic() - start
            if waited > timeout:
                listing = ", ".join(f"{addresses[i]} ({why})" for i, why in missing.items())
                raise WorkersMissingError(
                    f"{len(missing)} of the {len(places)} workers of TF_CONFIG did not come within {timeout:g} s: {listing}. "
                    "Start them, or mend their addresses, then start this one again (--worker_timeout waits longer)."
                )
            if is_silent and waited > _SECONDS_IN_SILENCE:
                is_silent = False
                say(f"Waiting up to {timeout:g} s for workers at {', '.join(addresses[i] for i in missing)} ...")
            time.sleep(min(_SECONDS_BETWEEN_TRIES, max(timeout - waited, 0.05)))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f'TF_CONFIG lists the address "{address}". Allowed: HOST:PORT.')
    return host.strip("[]"), int(port)


def _listen(port: int, address: str) -> socket.socket:
    # At every name of this machine, like TensorFlow's server: TF_CONFIG may list one that only the others know.
    is_dual = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6 if is_dual else socket.AF_INET, dualstack_ipv6=is_dual
        )
    except OSError as error:
        raise ValueError(
            f"TF_CONFIG says that this process listens at {address}, but it cannot ({os.strerror(error.errno or 0)}). Does an "
            "earlier run still use the port?"
        ) from error


def _reach(place: tuple[str, int]) -> str:
    """Why a worker cannot be reached; "" if it can."""
    try:
        socket.create_connection(place, timeout=_SECONDS_OF_A_TRY).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


class Agreement:
    """Makes all workers decide alike, by tensors that `tf.distribute` averages; one worker alone exchanges nothing.

    Not `tf.distribute.experimental.PreemptionCheckpointHandler`: that one saves a whole call later, looks for a server of
    Google's at every start, works once a process, and not at all on Google's machines without GPUs.

    Args:
        strategy: of the run. All its workers have to ask the same things in the same order.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._is_alone = not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

        @tf.function(autograph=False)
        def mean(values: tf.Tensor) -> tf.Tensor:
            of_replicas = strategy.run(tf.identity, args=(values,))
            return strategy.reduce(tf.distribute.ReduceOp.MEAN, of_replicas, axis=None)

        self._mean = mean

    def on_stop(self, reason: int | None) -> int | None:
        """The reason of any of the workers to stop, the number of a signal or `TIME_OVER`; None = go on."""
        if self._is_alone:
            return reason
        shares = self._mean(tf.constant([float(reason == known) for known in _REASONS])).numpy()
        return next((int(known) for known, share in zip(_REASONS, shares, strict=True) if share > 0), None)

    def on_value(self, value: float | None) -> float | None:
        """The mean of what the workers have; None if one has none."""
        if self._is_alone:
            return value
        mean = float(self._mean(tf.constant([float("nan") if value is None else value])).numpy()[0])
        return None if math.isnan(mean) else mean

    def wait(self) -> None:
        """Returns when all workers have called it, so that none ends while another needs it."""
        if not self._is_alone:
            self.on_stop(None)


@contextlib.contextmanager
def naming_lost_workers(strategy: tf.distribute.Strategy, what_is_left: Callable[[], str]) -> Iterator[None]:
    """Turns TensorFlow's errors about a worker that has gone into one line.

    Args:
        strategy: the errors of other strategies pass.
        what_is_left: the end of the line.

    Raises:
        WorkerLostError: instead of these errors.
    """
    try:
        yield
    except _LOSSES as error:
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise
        who = "another worker"
        if found := _TASK.search(error.message):
            kind, index = found[1], int(found[2])
            who = f"{kind} {index} ({strategy.cluster_resolver.cluster_spec().task_address(kind, index)})"
        raise WorkerLostError(
            f"Lost {who}: it has ended or cannot be reached. {what_is_left()} Start all workers again to go on from there."
        ) from error
