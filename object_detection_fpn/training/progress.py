"""What the user sees of a training run while it runs, and how the user stops it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

import tqdm

_SHOWN_STEPS = (1, 2, 5, 10)  # of a run: whether it learns, and how fast, is known early or not at all
_SECONDS_BETWEEN_LINES = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Progress:
    """A progress bar on a terminal, otherwise (in a log file) a line now and then; from the first step on.

    Args:
        num_steps: step at which the run ends.
        output: where to write; None = standard error, so that standard output keeps to results.
        is_shown: False on the workers that are not the chief.
    """

    def __init__(self, num_steps: int, *, output: TextIO | None = None, is_shown: bool = True):
        self._num_steps = num_steps
        self._first_step = 0
        self._output = output or sys.stderr
        self._is_shown = is_shown
        self._bar: tqdm.tqdm | None = None
        self._is_terminal = self._output.isatty()
        self._line_time = 0.0
        self._compile_start = 0.0

    def say(self, line: str, *, on_every_worker: bool = False) -> None:
        """Writes a line of its own, above the bar if there is one; on the chief alone unless all have to say it."""
        if self._is_shown or on_every_worker:
            tqdm.tqdm.write(line, file=self._output)
            self._output.flush()

    def begin(self, first_step: int) -> None:
        """Says that the train step is being compiled, which takes the time before the first step.

        Args:
            first_step: steps that were done before this run.
        """
        self._first_step = first_step
        self._compile_start = time.perf_counter()
        self.say("Compiling the train step ...")

    def compiled(self) -> None:
        """Says how long that took."""
        self.say(f"The first step is done, {time.perf_counter() - self._compile_start:.1f} s after compiling began.")

    def show(self, *, step: int, loss: float, learning_rate: float, seconds_per_step: float | None) -> None:
        """Shows the state of the run, on a terminal every time, in a log at the first steps, then every half minute.

        Args:
            step: steps done in all.
            loss: total loss, mean of the steps since the last call.
            learning_rate: of the last step.
            seconds_per_step: of the latest steps; None = not known yet.
        """
        if not self._is_shown:
            return
        speed = left = ""
        if seconds_per_step:
            speed = f"{1 / seconds_per_step:.3g} steps/s"
            left = f"{duration((self._num_steps - step) * seconds_per_step)} left"
        if self._is_terminal:
            if self._bar is None:
                self._bar = tqdm.tqdm(
                    total=self._num_steps,
                    initial=self._first_step,
                    file=self._output,
                    dynamic_ncols=True,
                    mininterval=0.0,  # called a few times a second at most
                    bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}  {desc}",
                )
            shown = [f"loss {loss:.4g}", f"rate {learning_rate:.3g}", speed, left]
            self._bar.desc = "  ".join(filter(None, shown))
            self._bar.update(step - self._bar.n)
            return
        now = time.perf_counter()
        is_early = step - self._first_step in _SHOWN_STEPS
        if is_early or step == self._num_steps or now - self._line_time >= _SECONDS_BETWEEN_LINES:
            self._line_time = now
            shown = [
                f"step {step}/{self._num_steps}",
                f"loss {loss:.4g}",
                f"learning rate {learning_rate:.3g}",
                speed,
                left,
            ]
            self.say("  ".join(filter(None, shown)))

    def close(self) -> None:
        """Leaves the bar as it stands and the cursor below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Interrupted(KeyboardInterrupt):
    """A request to stop, within `StopRequest.run_until_stop`."""


class StopRequest:
    """Turns the first Ctrl-C (SIGINT) or SIGTERM within a `with` block into a request, and the second into an end at once.

    Python runs a signal handler only between two of its own instructions, and the main thread may be inside TensorFlow
    for minutes. So a thread of its own is woken by the signal, to answer the user and to end the process.

    Outside the main thread, where Python allows no handlers, it does nothing. A signal that was ignored stays ignored.
    """

    def __init__(self, progress: Progress):
        self._progress = progress
        self._handlers: dict[int, Any] = {}
        self.signum: int | None = None
        """The signal that asked the run to stop; None = go on."""
        self._watcher: threading.Thread | None = None
        self._interrupts = self._was_interrupted = False

    def run_until_stop(self, action: Callable[[], None]) -> bool:
        """Runs an action that a request to stop ends at once, because its result may be lost, unlike training steps.

        Returns:
            Whether it came to its end. False also if the request came before, and nothing was run.
        """
        if self.signum is not None:
            return False
        self._interrupts = True
        try:
            action()
        except _Interrupted:
            return False
        finally:
            self._interrupts = False
        return True

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for signum in _SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._handlers[signum] = signal.signal(signum, self._note)
        self._watcher = threading.Thread(target=self._watch, name="stop-request", daemon=True)
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is None:
            return
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        self._writer.close()  # ends the watcher
        self._watcher.join()
        self._reader.close()
        self._watcher = None

    def _note(self, signum: int, frame: Any) -> None:
        self.signum = self.signum or signum
        if self._interrupts:
            self._was_interrupted = True
            raise _Interrupted  # in the main thread, in whatever Python code it is

    def _watch(self) -> None:
        is_first = True
        while signums := self._reader.recv(1):
            if signums[0] not in self._handlers:
                continue  # a signal that someone else handles
            if not is_first:
                os._exit(128 + signums[0])
            is_first = False
            self.signum = self.signum or signums[0]
            if self._was_interrupted:
                continue  # the main thread was quicker: it has stopped, and says where
            line = "Stopping after the current steps; once more to stop at once, without a checkpoint."
            if self._interrupts:
                line = "Stopping; the checkpoint is saved."
            self._progress.say(line, on_every_worker=True)


def duration(seconds: float) -> str:
    """A time in at most two units: `45 s`, `3 min 20 s`, `7 h 05 min`, `2 d 03 h`."""
    total = round(seconds)
    for large, unit, small, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= large:
            return f"{total // large} {unit} {total % large // small:02d} {small_unit}"
    return f"{total} s"
