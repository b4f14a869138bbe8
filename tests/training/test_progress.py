"""What the user sees, and how a second Ctrl-C is answered."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import textwrap

import pytest

from object_detection_fpn.training import progress as progress_lib


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(progress, step, **values):
    progress.show(step=step, **{"loss": 1.23456, "learning_rate": 0.01, "seconds_per_step": 2.0, **values})


def test_terminal_shows_a_bar_that_goes_on_from_the_first_step():
    output = Terminal()
    progress = progress_lib.Progress(100, output=output)
    progress.begin(40)
    show(progress, 41, seconds_per_step=None)
    assert "41% |" in output.getvalue()
    assert "41/100  loss 1.235  rate 0.01" in output.getvalue()
    for step in (42, 43, 60):
        show(progress, step)
    progress.say("A line.")
    progress.close()
    assert "60/100  loss 1.235  rate 0.01  0.5 steps/s  1 min 20 s left" in output.getvalue()
    assert "A line.\n" in output.getvalue()


def test_log_shows_a_line_every_half_minute(monkeypatch):
    output = io.StringIO()
    progress = progress_lib.Progress(100, output=output)
    progress.begin(0)
    now = 0.0
    monkeypatch.setattr(progress_lib.time, "perf_counter", lambda: now)
    for step in range(1, 101):
        show(progress, step)
        now += 5.0
    steps = [int(line.split("/")[0].removeprefix("step ")) for line in output.getvalue().splitlines()[1:]]
    assert steps == [1, 2, 5, 10, *range(16, 100, 6), 100]


def test_workers_that_are_not_the_chief_are_silent_but_for_what_all_have_to_say():
    output = Terminal()
    progress = progress_lib.Progress(100, output=output, is_shown=False)
    progress.begin(0)
    show(progress, 1)
    progress.say("A line.")
    progress.close()
    assert output.getvalue() == ""
    progress.say("Of all.", on_every_worker=True)
    assert output.getvalue() == "Of all.\n"


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7 * 3600 + 299, "7 h 04 min"),
        (183600, "2 d 03 h"),
    ],
)
def test_durations_are_told_in_two_units(seconds, words):
    assert progress_lib.duration(seconds) == words


def test_ignored_signals_stay_ignored():
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(signum, signal.SIG_IGN) for signum in signals]
    try:
        with progress_lib.StopRequest(progress_lib.Progress(1, output=io.StringIO())) as stop:
            for signum in signals:
                signal.raise_signal(signum)
        assert stop.signum is None
        assert [signal.getsignal(signum) for signum in signals] == [signal.SIG_IGN] * 2
        assert signal.set_wakeup_fd(-1) == -1, "the block left its wakeup descriptor behind"
    finally:
        for signum, handler in zip(signals, before, strict=True):
            signal.signal(signum, handler)


def test_signals_of_others_stop_nothing():
    caught = []
    before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    try:
        with progress_lib.StopRequest(progress_lib.Progress(1, output=io.StringIO())) as stop:
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
        assert stop.signum is None
        assert caught == [1, 1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_second_signal_ends_the_process_at_once():
    program = textwrap.dedent(
        """
        import ctypes, os, signal, sys, threading, time
        from object_detection_fpn.training.progress import Progress, StopRequest

        def kill_twice():
            for _ in range(2):
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGINT)

        with StopRequest(Progress(10, output=sys.stdout)):
            threading.Thread(target=kill_twice).start()
            # Holds the main thread outside Python, as TensorFlow does.
            end = time.time() + 60
            while time.time() < end:
                ctypes.CDLL(None).sleep(60)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 130, done.stderr
    assert "Stopping after the current steps" in done.stdout
