"""What training leaves behind when it is killed, stopped, or its disk is full; a table, then JSON.

    python benchmarks/faults.py [--kills 20] [--seed 0] [--only kills interrupt evaluation disk]

Each training is `odfpn train` in a process of its own, on drawn images of 64 pixels. It is killed (SIGKILL) while it starts,
between two steps, and while it writes a checkpoint, which its folder `ckpt-N_temp` shows; the same command then starts it
again. The full disk is a tmpfs where this user may mount one, else a limit on the size of files. The exit status is 1 if
anything is lost or left. `make faults` runs it; the seed decides the moments, as far as the machine keeps to its speed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"
INTERVAL = 10  # steps between checkpoints
TIMEOUT = 600.0  # seconds that a process may take to come to what is waited for
_ANCHORS = "model.faster_rcnn.first_stage_anchor_generator.multiscale_anchor_generator"
_RESIZER = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"
_MOMENTUM = "momentum_optimizer { learning_rate { constant_learning_rate { learning_rate: 0.001 } } }"
OVERRIDES = (
    f"{_RESIZER}.min_dimension=64",
    f"{_RESIZER}.max_dimension=64",
    "model.faster_rcnn.feature_extractor.fpn.max_level=5",
    "model.faster_rcnn.feature_extractor.fpn.additional_layer_depth=8",
    f"{_ANCHORS}.max_level=5",
    f"{_ANCHORS}.scales_per_octave=1",
    "model.faster_rcnn.first_stage_max_proposals=20",
    "model.faster_rcnn.second_stage_batch_size=16",
    f"train_config.optimizer={{ {_MOMENTUM} use_moving_average: false }}",
    "train_config.batch_size=2",
    "eval_config.batch_size=2",
    "eval_config.num_visualizations=0",
)
PHASES = ("start", "steps", "saving", "saving", "steps")
"""When the kills come, in turn: most of those aimed at `saving` fall into the writing of a checkpoint or what follows it."""
_PART_OF_SAVE = re.compile(r"ckpt-\d+_temp|checkpoint\.tmp.*|.*\.tempstate.*|.*\.(unfinished|new)")


class Process:
    """A command of `odfpn` with its standard error in a file."""

    def __init__(self, words: list[str], log: Path, prepare: Callable[[], None] | None = None):
        def begin() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and pass that on
            if prepare is not None:
                prepare()

        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "object_detection_fpn.cli", *words],
                stdout=subprocess.DEVNULL,
                stderr=file,
                preexec_fn=begin,
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, is_there: Callable[[], object], *, every: float = 0.02) -> bool:
        """Waits until something is there; False if the process ended before."""
        end = time.monotonic() + TIMEOUT
        while not is_there():
            if self.process.poll() is not None:
                return bool(is_there())
            if time.monotonic() > end:
                self.kill()
                raise SystemExit(f"Nothing happened in {TIMEOUT:g} s; standard error was:\n{self.text}")
            time.sleep(every)
        return True

    def finish(self) -> int:
        return self.process.wait(TIMEOUT)

    def kill(self, signum: int = signal.SIGKILL) -> int:
        self.process.send_signal(signum)
        return self.finish()


class Place:
    """The data of all runs and the commands on one `model_dir`."""

    def __init__(self, folder: Path, data: Any, model_dir: Path):
        self.folder, self.model_dir = folder, model_dir
        readers = {"train_input_reader": data.train_records, "eval_input_reader.0": data.eval_records}
        overrides = list(OVERRIDES)
        for reader, records in readers.items():
            overrides.append(f'{reader}.label_map_path="{data.label_map_path}"')
            overrides.append(f'{reader}.tf_record_input_reader.input_path=["{records}"]')
        self._config = ["--config", RECIPE, *(word for o in overrides for word in ("--config_override", o))]

    def train(self, num_steps: int, prepare: Callable[[], None] | None = None) -> Process:
        words = ["--model_dir", str(self.model_dir), "--num_steps", str(num_steps)]
        words += ["--checkpoint_every_n", str(INTERVAL)]
        return Process(["train", *self._config, *words], self.folder / "train.log", prepare)

    def evaluate(self, num_steps: int) -> Process:
        words = ["--checkpoint", str(self.model_dir), "--wait", "--eval_timeout", "120"]
        words += ["--config_override", f"train_config.num_steps={num_steps}"]
        return Process(["eval", *self._config, *words], self.folder / "eval.log")

    def left_behind(self) -> list[str]:
        """Names in `model_dir` that only a save that was cut off leaves."""
        names = {path.name for path in self.model_dir.iterdir()} if self.model_dir.exists() else set()
        halves = {n for n in names if (m := re.fullmatch(r"(.*)\.data-.*", n)) and f"{m[1]}.index" not in names}
        return sorted(halves | {name for name in names if _PART_OF_SAVE.fullmatch(name)})

    def is_saving(self) -> bool:
        return any(self.model_dir.glob("ckpt-*_temp"))

    def checkpoints(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("ckpt-")) for path in self.model_dir.glob("ckpt-*.index"))

    def unreadable(self) -> list[str]:
        """Checkpoints of which not every tensor can be read, or whose step is not that of their name."""
        import tensorflow as tf

        found = []
        for step in self.checkpoints():
            path = str(self.model_dir / f"ckpt-{step}")
            try:
                reader = tf.train.load_checkpoint(path)
                stored = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
                if int(stored["step/.ATTRIBUTES/VARIABLE_VALUE"]) != step:
                    found.append(path)
            except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
                found.append(path)
        return found


def saved_steps(text: str) -> list[int]:
    return [int(step) for step in re.findall(r"Saved \S*ckpt-(\d+)\.", text)]


def resumed_step(text: str) -> int | None:
    found = re.search(r"Resuming from \S+ at step (\d+)", text)
    return int(found[1]) if found else None


def errors_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def kill_once(place: Place, phase: str, rng: random.Random, begin: Callable[[], None]) -> tuple[str, bool]:
    """Starts a training, kills it, and returns what it said and whether a checkpoint was being written."""
    run = place.train(10**6)
    if phase == "start":
        # Importing, building and restoring take some seconds, and the time differs from machine to machine.
        deadline = time.monotonic() + rng.uniform(1.0, 10.0)
        run.wait_for(lambda: time.monotonic() > deadline)
    else:
        run.wait_for(lambda: "The first step is done" in run.text)
        begin()
        if phase == "steps":
            time.sleep(rng.uniform(0.0, 3.0))
        else:
            run.wait_for(lambda: not place.is_saving(), every=0.001)
            run.wait_for(place.is_saving, every=0.001)
            time.sleep(rng.choice((0.0, rng.uniform(0.0, 0.1), rng.uniform(0.0, 0.6))))
    was_saving = place.is_saving()
    if run.kill() != -signal.SIGKILL:
        raise SystemExit(f"The training ended by itself; standard error was:\n{run.text}")
    return run.text, was_saving


def try_kills(place: Place, num_kills: int, seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    newest = 0  # the newest checkpoint that any run said it has saved
    left_after_start: list[str] = []
    lost: list[str] = []

    def check_start() -> None:
        left_after_start.extend(place.left_behind())

    for number in range(num_kills):
        phase = PHASES[number % len(PHASES)] if number else "steps"
        text, was_saving = kill_once(place, phase, rng, check_start)
        step = resumed_step(text)
        if step is not None and step < newest:
            lost.append(f"kill {number}: resumed at {step}, {newest} had been saved")
        if "The first step is done" in text and step is None and newest:
            lost.append(f"kill {number}: started anew, {newest} had been saved")
        newest = max([newest, *saved_steps(text)])
        rows.append(
            {
                "phase": phase,
                "in_a_save": was_saving,
                "resumed_at": step,
                "saved": saved_steps(text)[-1:],
                "left_by_kill": place.left_behind(),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    end = (newest // INTERVAL + 3) * INTERVAL
    run = place.train(end)
    status = run.finish()
    step = resumed_step(run.text)
    if step is None or step < newest:
        lost.append(f"at the end: resumed at {step}, {newest} had been saved")
    losses = re.findall(r"loss (\S+)", run.text)
    return {
        "kills": Counter(row["phase"] for row in rows),
        "kills_in_a_save": sum(row["in_a_save"] for row in rows),
        "kills_that_left_parts": sum(bool(row["left_by_kill"]) for row in rows),
        "lost": lost,
        "left_after_start": sorted(set(left_after_start)),
        "left_at_the_end": place.left_behind(),
        "status": status,
        "last_step": place.checkpoints()[-1:] == [end],
        "finite_losses": bool(losses) and all(re.fullmatch(r"[\d.e+-]+", loss) for loss in losses),
        "checkpoints": place.checkpoints(),
        "unreadable": place.unreadable(),
        "rows": rows,
    }


def kills_are_well(result: dict[str, Any]) -> bool:
    faults = ("lost", "left_after_start", "left_at_the_end", "status", "unreadable")
    return not any(result[name] for name in faults) and result["last_step"] and result["finite_losses"]


def try_interrupt(place: Place) -> dict[str, Any]:
    """Ctrl-C between two checkpoints: the state is saved, and the same command goes on from exactly there."""
    first = place.checkpoints()[-1] if place.checkpoints() else 0
    end = (first // INTERVAL + 6) * INTERVAL
    run = place.train(end)
    run.wait_for(lambda: saved_steps(run.text))
    status = run.kill(signal.SIGINT)
    stopped = re.search(r"Stopped at step (\d+)", run.text)
    again = place.train(end)
    final = again.finish()
    return {
        "status": status,
        "stopped_at": int(stopped[1]) if stopped else None,
        "resumed_at": resumed_step(again.text),
        "final_status": final,
        "last_step": place.checkpoints()[-1:] == [end],
        "left": place.left_behind(),
    }


def interrupt_is_well(result: dict[str, Any]) -> bool:
    is_exact = result["stopped_at"] is not None and result["stopped_at"] == result["resumed_at"]
    return is_exact and (result["status"], result["final_status"]) == (130, 0) and not result["left"]


def try_evaluation(place: Place) -> dict[str, Any]:
    """`odfpn eval --wait` beside a training is killed while it evaluates, and started again."""
    first = place.checkpoints()[-1] if place.checkpoints() else 0
    end = (first // INTERVAL + 30) * INTERVAL  # so that training lasts longer than the evaluation takes to start
    metrics = place.model_dir / "eval" / "held_out" / "metrics.jsonl"
    training = place.train(end)
    training.wait_for(lambda: saved_steps(training.text))
    killed = place.evaluate(end)
    killed.wait_for(metrics.exists)
    killed.kill()
    before = len(metrics.read_text().splitlines())
    again = place.evaluate(end)
    train_status, status = training.finish(), again.finish()
    steps, broken = [], 0
    for line in metrics.read_text().splitlines():
        try:
            steps.append(json.loads(line)["step"])
        except ValueError:
            broken += 1
    return {
        "train_status": train_status,
        "eval_status": status,
        "lines_before_the_kill": before,
        "steps": steps,
        "broken_lines": broken,
        "last_step": end,
    }


def evaluation_is_well(result: dict[str, Any]) -> bool:
    is_over = result["train_status"] == result["eval_status"] == result["broken_lines"] == 0
    return is_over and result["steps"][-1:] == [result["last_step"]]


def try_disk(place: Place, checkpoint_bytes: int) -> dict[str, Any]:
    """The disk has room for two checkpoints and a half, later for all; without a tmpfs, files are limited in size."""
    place.model_dir.mkdir()
    size = int(2.5 * checkpoint_bytes)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place.model_dir)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    end, prepare = 4 * INTERVAL, None
    try:
        if not is_mounted:
            place.train(2 * INTERVAL).finish()
            limit = checkpoint_bytes // 2

            def prepare() -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        full = place.train(end, prepare)
        status, text = full.finish(), full.text
        intact, unreadable = place.checkpoints(), place.unreadable()
        left = place.left_behind()
        if is_mounted:
            subprocess.run(["mount", "-o", "remount,size=4g", str(place.model_dir)], check=True)
        again = place.train(end)
        final_status = again.finish()
        return {
            "means": "tmpfs" if is_mounted else "RLIMIT_FSIZE",
            "status": status,
            "error": [line for line in text.splitlines() if line.startswith("error: ")],
            "has_traceback": "Traceback" in text,
            "last_lines": errors_of(text)[-3:],
            "intact": intact,
            "unreadable": unreadable,
            "left_when_full": left,
            "resumed_at": resumed_step(again.text),
            "final_status": final_status,
            "checkpoints": place.checkpoints(),
            "unreadable_at_the_end": place.unreadable(),
            "left_at_the_end": place.left_behind(),
        }
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(place.model_dir)], check=True)


def disk_is_well(result: dict[str, Any]) -> bool:
    faults = (
        "has_traceback",
        "unreadable",
        "left_when_full",
        "final_status",
        "unreadable_at_the_end",
        "left_at_the_end",
    )
    is_one_line = len(result["error"]) == 1
    is_resumed = result["intact"][-1:] == [result["resumed_at"]] and result["checkpoints"][-1:] == [4 * INTERVAL]
    return not any(result[name] for name in faults) and is_one_line and is_resumed and result["status"] == 1


def summary(name: str, result: dict[str, Any]) -> str:
    if name == "kills":
        phases = ", ".join(f"{number} in phase {phase}" for phase, number in result["kills"].items())
        return (
            f"{len(result['rows'])} kills ({phases}); {result['kills_in_a_save']} while a checkpoint was written, "
            f"{result['kills_that_left_parts']} left parts of one; restarts that lost more than {INTERVAL} steps: "
            f"{len(result['lost'])}; parts there after a restart: {len(result['left_after_start'])}; at the end "
            f"{len(result['checkpoints'])} checkpoints, unreadable: {len(result['unreadable'])}"
        )
    if name == "interrupt":
        return (
            f"exit status {result['status']}, stopped at step {result['stopped_at']}, the same command went on at step "
            f"{result['resumed_at']}; parts left: {len(result['left'])}"
        )
    if name == "evaluation":
        return (
            f"{result['lines_before_the_kill']} evaluations before the kill, {len(result['steps'])} at the end, the last of "
            f"the last step; broken lines of metrics.jsonl: {result['broken_lines']}; exit status of training "
            f"{result['train_status']}"
        )
    return (
        f"{result['means']}: exit status {result['status']}, lines that begin with error: {len(result['error'])}; checkpoints "
        f"{result['intact']} intact, unreadable: {len(result['unreadable'])}; parts left: {len(result['left_when_full'])}; "
        f"with room, the same command went on at step {result['resumed_at']} to {result['checkpoints'][-1:]}"
    )


def table(results: dict[str, dict[str, Any]]) -> str:
    rows = ["| fault | what happened | as it should be | seconds |", "|---|---|---|---|"]
    for name, result in results.items():
        rows.append(f"| {name} | {summary(name, result)} | {'yes' if result['well'] else 'NO'} | {result['seconds']} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    names = ("kills", "interrupt", "evaluation", "disk")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    from object_detection_fpn.tools import shapes

    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="odfpn-faults-") as name:
        folder = Path(name)
        data = shapes.write_dataset(str(folder / "data"), num_train=8, num_eval=2, image_size=64, show_progress=False)
        place = Place(folder, data, folder / "model")
        tries = {
            "kills": lambda: try_kills(place, arguments.kills, arguments.seed),
            "interrupt": lambda: try_interrupt(place),
            "evaluation": lambda: try_evaluation(place),
        }
        checks = (kills_are_well, interrupt_is_well, evaluation_is_well)
        for (name, act), check in zip(tries.items(), checks, strict=True):
            if name in arguments.only:
                start = time.monotonic()
                results[name] = act()
                results[name] |= {"well": check(results[name]), "seconds": round(time.monotonic() - start)}
        if "disk" in arguments.only:
            if not place.checkpoints():
                place.train(INTERVAL).finish()
            step = place.checkpoints()[-1]
            num_bytes = sum(path.stat().st_size for path in place.model_dir.glob(f"ckpt-{step}.*"))
            start = time.monotonic()
            result = try_disk(Place(folder, data, folder / "full"), num_bytes)
            results["disk"] = result | {"well": disk_is_well(result), "seconds": round(time.monotonic() - start)}
    print(table(results))
    print(json.dumps(results))
    return 0 if all(result["well"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
