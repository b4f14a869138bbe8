"""What the scripts here share: commands that print JSON, run in turn with a peer's, and medians of what they say."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that `compare` reads."""
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer_command", help="a command that prints a JSON line with the same keys")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)  # the process that is measured


def compare(arguments: argparse.Namespace, keys: Sequence[str], more: Sequence[str] = ()) -> dict[str, object]:
    """Runs this script anew, with `--once` and `more`, and the peer's command in turn: medians and ratios, own by peer.

    "{...}" in the peer's command is replaced by the argument of that name.
    """
    peer_command = None
    if arguments.peer_command:
        peer_command = [part.format(**vars(arguments)) for part in shlex.split(arguments.peer_command)]
    own: list[dict[str, float]] = []
    peer: list[dict[str, float]] = []
    for _ in range(arguments.runs):
        own.append(run([sys.executable, *sys.argv, "--once", *more]))
        if peer_command:
            peer.append(run(peer_command))
    result: dict[str, object] = {"own": medians(own, keys), "own_runs": own}
    if peer:
        shared = [key for key in keys if all(key in values for values in peer)]
        result |= {"peer": medians(peer, shared), "peer_runs": peer}
        result["ratio"] = {key: round(medians(own, keys)[key] / medians(peer, shared)[key], 3) for key in shared}
    return result


def run(command: Sequence[str]) -> dict[str, float]:
    """Runs a command and reads the first JSON object it prints."""
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    line = next((line for line in output.splitlines() if line.startswith("{")), None)
    if line is None:
        raise SystemExit(f"{shlex.join(command)} printed no JSON object.")
    return json.loads(line)


def medians(runs: Sequence[dict[str, float]], keys: Sequence[str]) -> dict[str, float]:
    """The median of each key."""
    return {key: statistics.median(values[key] for values in runs) for key in keys}
