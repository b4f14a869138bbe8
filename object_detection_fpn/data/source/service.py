"""tf.data service: the pipeline runs in worker processes, on this machine or on others, and hands over finished batches.

A dispatcher knows the workers and hands out streams; every worker goes through all records of its streams, in an order and
with augmentations that are the stream's own. So any number of workers serves any number of files, a worker may come or go,
and none sees what another one sees.
"""

from __future__ import annotations

import concurrent.futures
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

_service = tf.data.experimental.service
_SECONDS_BETWEEN_TRIES = 0.5
_DISPATCHER_TIMEOUT_MS = 60_000  # how long a worker whose dispatcher has gone tries to reach it again
_MOST_STREAMS = 2**62
_NEW_STREAM_SEED = 1  # any but 0, see `in_streams`
_without_autograph = tf.autograph.experimental.do_not_convert  # see `reader.without_autograph`


class DataService(NamedTuple):
    """Where a pipeline is to run."""

    address: str
    """HOST:PORT of the dispatcher."""
    job_name: str
    """Pipelines of one name share the batches of one job, each of which goes to one of them."""
    patience: float = 60.0
    """Seconds to wait for a batch before looking whether the service is still there."""


def in_streams(make_stream: Callable[[tf.Tensor], tf.data.Dataset], *, num_streams: int = 0) -> tf.data.Dataset:
    """One stream after the other; once `distribute` shares them out, each is made by one worker.

    Args:
        make_stream: from the number of a stream, scalar int64, to the data set that it is. Called in graph mode.
        num_streams: how many there are, 0 for no end.
    """

    @_without_autograph
    def make(number: tf.Tensor) -> tf.data.Dataset:
        # Of this function's graph alone: beside the global seed 0, tf.data cannot take a tensor as its seed.
        tf.random.set_seed(_NEW_STREAM_SEED)
        return make_stream(number)

    return tf.data.Dataset.range(num_streams or _MOST_STREAMS).flat_map(make)


def distribute(dataset: tf.data.Dataset, service: DataService) -> tf.data.Dataset:
    """The elements of `dataset`, made by the service's workers, who share out the elements of its source.

    Nothing in the data set may be a Python function.
    """
    # Dynamic sharding hands every element of the source, a stream's number, to one worker only.
    return dataset.apply(
        _service.distribute(
            processing_mode=_service.ShardingPolicy.DYNAMIC,
            service=f"grpc://{service.address}",
            job_name=service.job_name,
        )
    )


def watch(batches: tf.data.Dataset, service: DataService) -> tf.data.Dataset:
    """The same batches, and an error once the service has gone, where TensorFlow would wait without end or a word.

    A service that answers but gives nothing is worth a warning only: its workers may be slow, or about to be started.

    Args:
        batches: what `distribute` gives.
        service: where they come from.

    Returns:
        A data set that raises tf.errors.InvalidArgumentError, for `failures.error_message`, when no batch has come for as long
        as the service's patience and no dispatcher answers.
    """
    watcher = _Watcher(service)

    def call(function: Callable[[], Any]) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(function, [], tf.bool), [])

    @_without_autograph
    def ask(_):
        return call(watcher.asked)

    @_without_autograph
    def hand_over(_, batch):
        call(watcher.answered)
        return batch

    @_without_autograph
    def end(_):
        return call(watcher.ended)

    @_without_autograph
    def look(_):
        message = watcher.alarm.dequeue()
        is_end = tf.strings.length(message) == 0
        tf.raw_ops.Assert(condition=is_end, data=[message])
        return is_end

    def no_batches(flags: tf.data.Dataset) -> tf.data.Dataset:
        """Of the type of `batches`; empty."""
        blank = _without_autograph(lambda flag: tf.nest.map_structure(lambda s: _blank(s, flag), batches.element_spec))
        return flags.filter(_without_autograph(lambda _: False)).map(blank)

    numbers = tf.data.Dataset.range(_MOST_STREAMS)
    answers = tf.data.Dataset.zip((numbers.map(ask), batches)).map(hand_over)
    answers = answers.concatenate(no_batches(numbers.take(1).map(end)))
    alarm = no_batches(numbers.take(1).map(look))
    both = tf.data.Dataset.from_tensors(answers).concatenate(tf.data.Dataset.from_tensors(alarm))
    return both.interleave(
        _without_autograph(lambda each: each), cycle_length=2, num_parallel_calls=2, deterministic=False
    )


def _blank(spec: Any, flag: tf.Tensor) -> tf.Tensor | None:
    """A tensor of this type; `flag` only keeps TensorFlow from knowing its shape better than the type says."""
    if not isinstance(spec, tf.TensorSpec):
        return None  # a field that is not loaded
    shape = tf.constant([size or 1 for size in spec.shape], tf.int32)
    return tf.ensure_shape(tf.zeros(tf.where(flag, shape, shape + 1), spec.dtype), spec.shape)


class _Watcher:
    """Knows whether a batch is awaited, and for how long; tf.data calls it at each batch, a thread of its own looks on.

    That thread is one of Python alone. If tf.data called functions that wait, the process could not end while one does.
    """

    def __init__(self, service: DataService) -> None:
        self.alarm = tf.queue.FIFOQueue(1, [tf.string], shapes=[()])
        """Gets what is to end the run, or, once the batches have ended, an empty string."""
        self._service = service
        self._awaited_since: float | None = None
        self._next_look = service.patience
        self._thread: threading.Thread | None = None

    def asked(self) -> np.bool_:
        self._awaited_since, self._next_look = time.monotonic(), self._service.patience
        if self._thread is None:
            self._thread = threading.Thread(target=_look_on, args=[weakref.ref(self)], daemon=True)
            self._thread.start()
        return np.True_

    def answered(self) -> np.bool_:
        self._awaited_since = None
        return np.True_

    def ended(self) -> np.bool_:
        self._awaited_since = None
        self.alarm.enqueue("")
        return np.True_

    def look(self) -> str | None:
        """What is to end the run, if anything is."""
        since = self._awaited_since
        waited = 0.0 if since is None else time.monotonic() - since
        if waited < self._next_look:
            return None
        address = self._service.address
        try:
            wait_for_dispatcher(address, timeout=self._service.patience)
        except TimeoutError as error:
            if self._awaited_since != since:
                return None  # a batch has come meanwhile: the workers do without their dispatcher
            return f"The data service at {address} has gone: no batch for {waited:.0f} s. {error}"
        logging.warning("No batch from the data service at %s for %.0f s. Are its workers up?", address, waited)
        self._next_look = 2 * waited
        return None


def _look_on(reference: weakref.ref[_Watcher]) -> None:
    """Looks from time to time, as long as the data set is there."""
    while (watcher := reference()) is not None:
        message = watcher.look()
        if message is not None:
            watcher.alarm.enqueue(message)
            return
        del watcher
        time.sleep(_SECONDS_BETWEEN_TRIES)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT".

    Raises:
        ValueError: if it is something else.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f'address "{address}" of a data service is not understood. Allowed: HOST:PORT.')
    return host.strip("[]"), int(port)


def wait_for_dispatcher(address: str, *, timeout: float = 10.0) -> None:
    """Returns as soon as something answers at an address; TensorFlow itself would try without end or a word.

    Args:
        address: HOST:PORT.
        timeout: seconds.

    Raises:
        TimeoutError: if nothing does.
        ValueError: if the address is none.
    """
    place = split_address(address)
    end = time.monotonic() + timeout
    while True:
        left = end - time.monotonic()
        try:
            socket.create_connection(place, timeout=max(left, _SECONDS_BETWEEN_TRIES)).close()
            return
        except OSError as error:
            if left <= 0:
                raise TimeoutError(
                    f"No data service answers at {address} within {timeout:g} s ({error}). Start it with `odfpn "
                    f"data-service dispatcher --port {place[1]}` on {place[0]}."
                ) from error
        time.sleep(_SECONDS_BETWEEN_TRIES)


def wait_for_service(address: str, *, timeout: float = 10.0, worker_timeout: float = 60.0) -> None:
    """Returns as soon as a service has a dispatcher and a worker.

    Args:
        address: HOST:PORT of the dispatcher.
        timeout: seconds to wait for the dispatcher.
        worker_timeout: seconds to wait for the first worker after that.

    Raises:
        TimeoutError: if one of them does not answer.
        ValueError: if the address is none.
    """
    wait_for_dispatcher(address, timeout=timeout)
    probe = tf.data.Dataset.range(1).apply(_service.distribute(_service.ShardingPolicy.OFF, f"grpc://{address}"))
    answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def ask() -> None:
        try:
            answer.set_result(next(iter(probe)))
        except Exception as error:  # handed to the thread that waits
            answer.set_exception(error)

    # A daemon, since what waits for a worker cannot be stopped.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer.result(worker_timeout)
    except concurrent.futures.TimeoutError as error:
        raise TimeoutError(
            f"The data service at {address} has no worker that gave anything within {worker_timeout:g} s. Start some with "
            f"`odfpn data-service worker --dispatcher {address}`."
        ) from error
    except tf.errors.OpError as error:
        raise TimeoutError(f"What answers at {address} is no data service: {error.message}") from error


def run_dispatcher(*, port: int, say: Callable[[str], None] = logging.info) -> int:
    """Serves as a dispatcher until SIGINT or SIGTERM.

    Args:
        port: to listen at; 0 for any.
        say: takes a line with the address once it serves.

    Returns:
        128 + the number of the signal.

    Raises:
        OSError: if it cannot serve at the port.
    """

    def start() -> Any:
        server = _service.DispatchServer(_service.DispatcherConfig(port=port))
        address = server.target.split("://")[1]
        say(f"Data service dispatcher at port {split_address(address)[1]}.")
        return server

    return _serve(start, f"a dispatcher at port {port}")


def run_worker(
    *, dispatcher: str, port: int = 0, host: str | None = None, say: Callable[[str], None] = logging.info
) -> int:
    """Serves as a worker until SIGINT or SIGTERM.

    Args:
        dispatcher: HOST:PORT of the dispatcher.
        port: to listen at; 0 for any.
        host: name under which trainers reach this machine; None for "localhost" where the dispatcher is there too, else
            for what the machine calls itself.
        say: takes a line once it serves.

    Returns:
        128 + the number of the signal.

    Raises:
        TimeoutError: if the dispatcher does not answer.
        OSError: if it cannot serve at the port.
        ValueError: if the dispatcher's address is none.
    """
    wait_for_dispatcher(dispatcher)
    if host is None:
        is_local = split_address(dispatcher)[0] in ("localhost", "127.0.0.1", "::1")
        host = "localhost" if is_local else socket.getfqdn()

    def start() -> Any:
        server = _service.WorkerServer(
            _service.WorkerConfig(
                dispatcher_address=dispatcher,
                worker_address=f"{host}:%port%",
                data_transfer_address=f"{host}:%dts_port%",
                port=port,
                dispatcher_timeout_ms=_DISPATCHER_TIMEOUT_MS,
            )
        )
        say(f"Data service worker of {dispatcher}.")
        return server

    return _serve(start, f"a worker of {dispatcher} at port {port}")


def _serve(start: Callable[[], Any], what: str) -> int:
    """Starts a server and waits for a signal; `join()` of the server would let none through to Python."""
    came: list[int] = []

    def stop(signum: int, _: Any) -> None:
        came.append(signum)

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        server = start()
        # Looked for again and again: Python does not see a signal that comes just before it begins to wait for a lock.
        while not came:
            time.sleep(_SECONDS_BETWEEN_TRIES)
        del server  # which stops it
    except tf.errors.OpError as error:
        raise OSError(f"Cannot serve as {what}: {error.message}") from error
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return 128 + came[0]
