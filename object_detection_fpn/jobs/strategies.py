"""How the work is spread: one device, many GPUs, many workers, a TPU; tf.distribute has the strategies."""

from __future__ import annotations

import json
import os
import sys

import tensorflow as tf
from official.common import distribute_utils

from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.training import workers


def make_strategy(
    *,
    use_tpu: bool = False,
    tpu_name: str | None = None,
    num_workers: int = 1,
    worker_timeout: float = 600.0,
) -> tf.distribute.Strategy:
    """Chooses how the work is spread: TPU, several workers, several GPUs, or one device.

    Args:
        use_tpu: train on the TPU `tpu_name`.
        tpu_name: name or gRPC address of a Cloud TPU; None or "" for the TPU of this machine.
        num_workers: above 1, one of the workers that the environment variable TF_CONFIG describes.
        worker_timeout: seconds to wait for the others of them.

    Raises:
        ValueError: if both a TPU and several workers are asked for, the TPU is not there, or TF_CONFIG is missing, no such
            description, of another number of workers, or of an address at which this worker cannot listen.
        WorkersMissingError: if a worker does not come.
    """
    if use_tpu and num_workers > 1:
        raise ValueError(
            f"--use_tpu and --num_workers = {num_workers} exclude each other: a TPU brings its own workers."
        )
    if use_tpu:
        try:
            return distribute_utils.get_distribution_strategy("tpu", tpu_address=tpu_name or "local")
        except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            place = f"--tpu_name = {tpu_name} names no TPU that answers" if tpu_name else "this machine has no TPU"
            raise ValueError(f"--use_tpu: {place} ({reason})") from error
    if num_workers > 1:
        if not os.environ.get("TF_CONFIG"):
            raise ValueError(
                f"--num_workers = {num_workers} needs the environment variable TF_CONFIG, which lists the workers and says "
                "which of them this process is."
            )
        addresses, own = _list_workers(os.environ["TF_CONFIG"], num_workers)
        workers.wait_for_workers(addresses, own, timeout=worker_timeout, say=_say)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            raise workers.WorkersMissingError(
                f"The workers of TF_CONFIG cannot be joined ({error.message.strip().splitlines()[0]}). Start all of them "
                "again once those of an earlier run have ended."
            ) from error
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if num_gpus > 1:
        return distribute_utils.get_distribution_strategy("mirrored", num_gpus=num_gpus)
    return tf.distribute.get_strategy()


def _list_workers(tf_config: str, num_workers: int) -> tuple[list[str], int]:
    """The addresses of all workers, the chief's first, and which of them is this process."""
    example = '{"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", "index": 0}}'
    try:
        described = json.loads(tf_config)
        cluster = {kind: [str(address) for address in addresses] for kind, addresses in described["cluster"].items()}
        kind, index = described["task"]["type"], int(described["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG = {tf_config} does not describe the workers. Allowed: {example}.") from error
    chiefs = cluster.get("chief", [])
    addresses = chiefs + cluster.get("worker", [])
    if len(addresses) != num_workers:
        raise ValueError(f"--num_workers = {num_workers}, but TF_CONFIG lists {len(addresses)} workers: {tf_config}.")
    if kind not in ("chief", "worker"):
        raise ValueError(f'TF_CONFIG says that this process is a "{kind}". Allowed: chief, worker. It is {tf_config}.')
    of_kind = len(cluster.get(kind, []))
    if not 0 <= index < of_kind:
        raise ValueError(
            f'TF_CONFIG says that this process is number {index} of "{kind}", of which it lists {of_kind} '
            f"(counted from 0): {tf_config}."
        )
    return addresses, index + (len(chiefs) if kind == "worker" else 0)


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)


def check_strategy(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    strategy: tf.distribute.Strategy,
    *,
    use: str,
    jit_compile: bool = False,
) -> None:
    """Raises `ConfigError` if the config does not suit a strategy; `use` is "train", "eval" or "export"."""
    config_lib.check_strategy(
        config,
        "pipeline config",
        use=use,
        num_replicas=strategy.num_replicas_in_sync,
        is_tpu=is_tpu(strategy),
        has_workers=isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy),
        jit_compile=jit_compile,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
