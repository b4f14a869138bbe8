"""Refuses a config that does not suit the devices it is to be trained or evaluated on: a rule each, as in `config.checks`."""

from __future__ import annotations

from collections.abc import Iterator

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.problems import Problem, walk
from object_detection_fpn.protos import pipeline_pb2, train_pb2


def find_problems(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    *,
    use: str,
    num_replicas: int,
    is_tpu: bool,
    has_workers: bool = False,
    jit_compile: bool = False,
) -> Iterator[Problem]:
    """All that keeps a config from being used on the devices of a strategy.

    Args:
        config: a checked config.
        use: "train", "eval" or "export".
        num_replicas: of the strategy.
        is_tpu: whether these are TPU cores.
        has_workers: whether the replicas are those of several processes (MultiWorkerMirroredStrategy).
        jit_compile: whether XLA is to compile the train step or the exported model.
    """
    if is_tpu:
        yield from _sizes_are_fixed(config, use, "on a TPU all have one")
    elif jit_compile and use == "export":
        yield from _sizes_are_fixed(config, use, "XLA would compile an exported model for each")
    if use != "train":
        return
    settings = config.train_config
    yield from _batch_is_divisible(settings, num_replicas)
    if is_tpu and settings.precision == train_pb2.FLOAT16:
        yield Problem("train_config.precision", "is not computed by a TPU", "BFLOAT16, FLOAT32", "FLOAT16")
    if has_workers and config.train_input_reader.num_epochs:
        # TensorFlow asks all workers before every batch whether they have one, which it cannot do with fields of None.
        problem = "ends the data of one worker before those of another"
        yield Problem("train_input_reader.num_epochs", problem, "0", str(config.train_input_reader.num_epochs))
    if num_replicas > 1 and not is_tpu and (jit_compile or settings.accumulate_gradients > 1):
        yield from _no_synchronized_norm(config, "--jit_compile" if jit_compile else "accumulate_gradients above 1")


def _sizes_are_fixed(config: pipeline_pb2.TrainEvalPipelineConfig, use: str, reason: str) -> Iterator[Problem]:
    problem = f"leaves images of different sizes; {reason}"
    kind, resizer = model_config.chosen_resizer(config.model)
    place = model_config.field_path(config.model, f"image_resizer.{kind}")
    if kind == "keep_aspect_ratio_resizer":
        if not resizer.pad_to_max_dimension:
            yield Problem(f"{place}.pad_to_max_dimension", problem, "true", "false")
    elif kind != "fixed_shape_resizer":
        allowed = "keep_aspect_ratio_resizer { pad_to_max_dimension: true ... } or fixed_shape_resizer { ... } instead"
        yield Problem(place, problem, allowed)
    if use == "eval" and config.eval_config.force_no_resize:
        yield Problem("eval_config.force_no_resize", problem, "false", "true")
    if use == "train" and not config.train_input_reader.drop_remainder:
        rest = "may leave a last batch of another size; on a TPU all have one"
        yield Problem("train_input_reader.drop_remainder", rest, "true", "false")


def _batch_is_divisible(settings: train_pb2.TrainConfig, num_replicas: int) -> Iterator[Problem]:
    num_parts = settings.accumulate_gradients
    unit = num_replicas * num_parts
    if settings.batch_size % unit:
        problem = f"cannot be divided evenly among {num_replicas} replicas"
        if num_parts > 1:
            problem += f", each of which computes accumulate_gradients = {num_parts} parts"
        yield Problem("train_config.batch_size", problem, f"multiples of {unit}", str(settings.batch_size))


def _no_synchronized_norm(config: pipeline_pb2.TrainEvalPipelineConfig, option: str) -> Iterator[Problem]:
    # tf.distribute.MirroredStrategy cannot leave a compiled function or a loop to talk to other replicas.
    for path, message in walk(config):
        if message.DESCRIPTOR.name == "Hyperparams" and message.HasField("sync_batch_norm"):
            yield Problem(f"{path}.sync_batch_norm", f"does not work on several GPUs with {option}", "batch_norm")
