"""Workers find each other before they start, and a missing one is named."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import tensorflow as tf

from object_detection_fpn.training import workers


@pytest.fixture
def addresses(free_addresses):
    return free_addresses(3)


def test_workers_find_each_other_whoever_comes_first(addresses):
    done = []

    def come(own: int) -> None:
        time.sleep(0.2 * own)
        workers.wait_for_workers(addresses, own, timeout=60.0)
        done.append(own)
        # What the strategy does: a server at the same address.
        host, port = addresses[own].split(":")
        with socket.create_server((host, int(port))):
            everyone.wait(60.0)

    everyone = threading.Barrier(4)
    threads = [threading.Thread(target=come, args=(own,), daemon=True) for own in range(3)]
    for thread in threads:
        thread.start()
    everyone.wait(60.0)
    assert sorted(done) == [0, 1, 2]


def test_missing_workers_are_named_with_their_addresses(addresses):
    lines = []
    with (
        socket.create_server(("localhost", int(addresses[1].split(":")[1]))),
        pytest.raises(workers.WorkersMissingError) as caught,
    ):
        workers.wait_for_workers(addresses, 0, timeout=0.3, say=lines.append)
    message = str(caught.value)
    assert message.startswith(f"1 of the 3 workers of TF_CONFIG did not come within 0.3 s: {addresses[2]} (")
    assert addresses[1] not in message and "\n" not in message
    assert caught.value.exit_code == 75
    assert lines == []


def test_a_long_wait_is_announced(addresses, monkeypatch):
    monkeypatch.setattr(workers, "_SECONDS_IN_SILENCE", 0.1)
    monkeypatch.setattr(workers, "_SECONDS_BETWEEN_TRIES", 0.05)
    lines = []
    with pytest.raises(workers.WorkersMissingError):
        workers.wait_for_workers(addresses, 0, timeout=0.3, say=lines.append)
    assert lines == [f"Waiting up to 0.3 s for workers at {addresses[1]}, {addresses[2]} ..."]


def test_a_port_in_use_is_refused(addresses):
    with (
        socket.create_server(("", int(addresses[0].split(":")[1]))),
        pytest.raises(ValueError, match=f"listens at {addresses[0]}, but it cannot .*in use.* earlier run"),
    ):
        workers.wait_for_workers(addresses, 0, timeout=1.0)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":123", "localhost:0", "localhost:70000"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match=f'TF_CONFIG lists the address "{address}". Allowed: HOST:PORT.'):
        workers.wait_for_workers(["localhost:1", address], 0, timeout=0.1)


def test_a_run_alone_agrees_with_itself(two_cpus):
    for strategy in (tf.distribute.get_strategy(), two_cpus):
        agreement = workers.Agreement(strategy)
        assert agreement.on_stop(None) is None
        assert agreement.on_stop(15) == 15
        assert agreement.on_value(None) is None
        assert agreement.on_value(0.5) == 0.5


def test_errors_of_other_strategies_keep_their_names(two_cpus):
    error = tf.errors.UnavailableError(None, None, "the disk has gone")
    with pytest.raises(tf.errors.UnavailableError), workers.naming_lost_workers(two_cpus, lambda: ""):
        raise error
