"""The commands of `odfpn`, and what the Object Detection API's scripts share.

A mistake of the user ends a command with one line that says what it is, and exit status 2; what went wrong later, with 1;
a worker that is missing, with 75; a signal, after training has saved its state, with 128 + its number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from object_detection_fpn.serving.input_types import INPUT_TYPES

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2

_DEMO_RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"
_DEMO_IMAGE_SIZE = 160  # that of the recipe: nothing is lost in resizing
_DEMO_NUM_DRAWN = 6
_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports


class UsageError(ValueError):
    """What the command line asks for cannot be done."""


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    """A ValueError inside is about what the command line says."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `odfpn` command and returns its exit status."""
    arguments = _make_parser().parse_args(argv)
    return guarded(lambda: arguments.command(arguments), xla_cache_dir=getattr(arguments, "xla_cache_dir", None))


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
    from object_detection_fpn.data import failures
    from object_detection_fpn.training.checkpoints import CheckpointError
    from object_detection_fpn.training.loop import TrainingError, TrainingStopped

    try:
        return action() or 0
    except (UsageError, ConfigError, CheckpointError, failures.DataError, FileNotFoundError) as error:
        _say(f"error: {error}")
        return 2
    except (TrainingError, TimeoutError) as error:
        _say(f"error: {error}")
        return getattr(error, "exit_code", 1)
    except tf.errors.InvalidArgumentError as error:
        message = failures.error_message(error)
        if message is None:  # not of the user's data: a fault of this package, which keeps its traceback
            raise
        _say(f"error: {message}")
        return 1
    except TrainingStopped as stopped:  # the loop has said where it stopped
        return stopped.exit_code
    except KeyboardInterrupt:
        _say("Interrupted.")
        return _INTERRUPTED


# The Object Detection API's scripts -----------------------------------------------------------------------------------


def run_model_main(flags: Any) -> int:
    """What `model_main_tf2.py` does with its flags."""

    def act() -> None:
        from object_detection_fpn.jobs import strategies
        from object_detection_fpn.jobs import train as run

        is_evaluation = bool(flags.checkpoint_dir)
        if flags.train_and_eval and flags.num_workers > 1:
            raise UsageError(
                "--train_and_eval works on one worker. Evaluate in a process of its own: --checkpoint_dir."
            )
        uses = ["eval"] if is_evaluation and not flags.eval_on_train_data else ["train"]
        if flags.train_and_eval:
            uses.append("eval")
        overrides = list(flags.config_override)
        if flags.num_train_steps is not None:
            overrides.append(f"train_config.num_steps={flags.num_train_steps}")
        if is_evaluation and flags.num_workers > 1:
            raise UsageError("Evaluation works on one worker, on all its devices: leave out --num_workers.")
        config = _load_config(flags.pipeline_config_path, overrides, require_data=uses)
        with _usage():
            strategy = strategies.make_strategy(
                use_tpu=flags.use_tpu,
                tpu_name=flags.tpu_name,
                num_workers=flags.num_workers,
                worker_timeout=flags.worker_timeout,
            )
        if is_evaluation:
            run.evaluate_continuously(
                config,
                checkpoint_dir=flags.checkpoint_dir,
                output_dir=flags.model_dir,
                strategy=strategy,
                timeout=flags.eval_timeout,
                sample_1_of_n_eval_examples=flags.sample_1_of_n_eval_examples,
                eval_on_train_data=flags.eval_on_train_data,
                sample_1_of_n_eval_on_train_examples=flags.sample_1_of_n_eval_on_train_examples,
            )
        else:
            run.train(
                config,
                model_dir=flags.model_dir,
                strategy=strategy,
                checkpoint_every_n=flags.checkpoint_every_n,
                record_summaries=flags.record_summaries,
                jit_compile=flags.jit_compile,
                seed=flags.seed,
                evaluate_checkpoints=flags.train_and_eval,
                sample_1_of_n_eval_examples=flags.sample_1_of_n_eval_examples,
                data_service_address=_service_address(flags.data_service_address),
            )

    return guarded(act, xla_cache_dir=flags.xla_cache_dir)


def run_exporter_main(flags: Any) -> int:
    """What `exporter_main_v2.py` does with its flags."""

    def act() -> None:
        from object_detection_fpn.jobs import train as run

        config = _load_config(flags.pipeline_config_path, flags.config_override)
        path = run.export(
            config,
            checkpoint=flags.trained_checkpoint_dir,
            output_dir=flags.output_directory,
            input_type=flags.input_type,
            jit_compile=flags.jit,
        )
        _say(f"Exported to {path}.")

    return guarded(act)


# odfpn ----------------------------------------------------------------------------------------------------------------


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="odfpn", description="Faster R-CNN with feature pyramid networks: train, evaluate, export, predict."
    )
    commands = parser.add_subparsers(metavar="command", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    def add_config(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--config", required=True, help="pipeline config, or the name of a recipe")
        sub.add_argument(
            "--config_override", action="append", default=[], metavar="KEY.PATH=VALUE", help="may be repeated"
        )

    def add_xla_cache(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--xla_cache_dir", metavar="DIR", help="keep what XLA compiles here, to start sooner next time"
        )

    def add_tpu(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--use_tpu", action="store_true", help="work on a TPU")
        sub.add_argument("--tpu_name", help="name or address of the Cloud TPU; the TPU of this machine by default")

    train = add("train", _train, "Train a detector, going on where the newest checkpoint left off.")
    add_config(train)
    train.add_argument("--model_dir", required=True, help="folder for checkpoints and summaries")
    train.add_argument("--num_steps", type=int, help="overrides train_config.num_steps")
    train.add_argument("--checkpoint_every_n", type=int, default=1000, help="steps between checkpoints")
    train.add_argument("--train_and_eval", action="store_true", help="evaluate every checkpoint, keep the best")
    train.add_argument("--jit_compile", action="store_true", help="compile with XLA on CPU and GPU too")
    add_xla_cache(train)
    train.add_argument("--seed", type=int, default=0, help="of everything random")
    train.add_argument(
        "--data_service_address",
        metavar="HOST:PORT",
        help="dispatcher of `odfpn data-service` that prepares the batches",
    )
    add_tpu(train)
    train.add_argument("--num_workers", type=int, default=1, help="above 1: one of the workers that TF_CONFIG lists")
    train.add_argument("--worker_timeout", type=float, default=600, help="seconds to wait for the other workers")

    evaluate = add("eval", _evaluate, "Evaluate a checkpoint, or with --wait every one that appears.")
    add_config(evaluate)
    evaluate.add_argument("--checkpoint", required=True, help="checkpoint, or the folder whose newest is meant")
    evaluate.add_argument("--output_dir", help="folder for results; the checkpoint's by default")
    evaluate.add_argument("--wait", action="store_true", help="evaluate every checkpoint that appears in the folder")
    evaluate.add_argument("--eval_timeout", type=int, default=3600, help="seconds to wait for the next checkpoint")
    evaluate.add_argument("--sample_1_of_n", type=int, help="evaluate every n-th example")
    evaluate.add_argument("--eval_on_train_data", action="store_true")
    add_tpu(evaluate)
    add_xla_cache(evaluate)

    export = add("export", _export, "Write a checkpoint as a SavedModel.")
    add_config(export)
    export.add_argument("--checkpoint", required=True, help="checkpoint, or the folder whose newest is meant")
    export.add_argument("--output_dir", required=True)
    export.add_argument("--input_type", default="image_tensor", choices=INPUT_TYPES, help="image_tensor by default")
    export.add_argument("--jit", action="store_true", help="let XLA compile the model where it is served")
    export.add_argument(
        "--device", choices=("cpu", "gpu"), help="what the model is to be fast on: by default what is here"
    )

    predict = add("predict", _predict, "Detect objects in images; writes JSON and drawings.")
    predict.add_argument("images", nargs="+", help="image files, folders or globs")
    predict.add_argument("--saved_model", help="an exported model")
    predict.add_argument("--label_map", help="label map with the names to show, for --saved_model")
    predict.add_argument("--config", help="pipeline config, for --checkpoint")
    predict.add_argument("--config_override", action="append", default=[], metavar="KEY.PATH=VALUE")
    predict.add_argument("--checkpoint", help="checkpoint or folder, instead of --saved_model")
    predict.add_argument("--output_dir", required=True)
    predict.add_argument("--min_score", type=float, default=0.5)

    convert = add("convert", _convert, "Convert COCO JSON and images to TFRecords and a label map.")
    convert.add_argument("--annotations", required=True, help="COCO JSON file")
    convert.add_argument("--image_dir", required=True)
    convert.add_argument("--output", required=True, help="records are written to OUTPUT-00000-of-0000N.tfrecord")
    convert.add_argument(
        "--label_map", help="file to write the label map to; label_map.pbtxt beside the records by default"
    )
    convert.add_argument("--num_shards", type=int, default=1)
    convert.add_argument(
        "--renumber_classes",
        action="store_true",
        help="number the classes 1, 2, ... in the order of their category ids, which may then start at 0 or be text",
    )
    convert.add_argument(
        "--exif_boxes",
        choices=("stored", "upright"),
        help="which pixels the boxes are of, for photographs whose EXIF orientation does not show in width and height",
    )
    convert.add_argument(
        "--allow_no_boxes",
        action="store_true",
        help="convert images without any object, which show none of the classes",
    )

    service = add("data-service", _data_service, "Serve as a part of the data service that prepares training batches.")
    service.add_argument("part", choices=("dispatcher", "worker"), help="one dispatcher, any number of workers")
    service.add_argument("--port", type=int, help="to listen at; a worker takes any free one by default")
    service.add_argument("--dispatcher", metavar="HOST:PORT", help="of a worker")
    service.add_argument("--host", help="name under which trainers reach the machine of a worker; its own by default")

    plan = add("plan", _plan, "Tell what training and inference need and take on a TPU, without one.")
    plan.epilog = (
        "Both are compiled for it by the TPU's own compiler (pip install 'object_detection_fpn[plan]'). The exit status is "
        "0 if they fit into its memory, 1 if not."
    )
    add_config(plan)
    plan.add_argument(
        "--tpu",
        required=True,
        metavar="KIND-SIZE",
        help="kind v2, v3, v4, v5e, v5p or v6e, and size: a number of cores (v2, v3, v4, v5p: two make a chip) or chips "
        "(v5e, v6e). v3-8 has 4 chips with 8 cores, v5e-8 has 8 chips",
    )
    plan.add_argument("--batch_size", type=int, help="overrides train_config.batch_size: images of all replicas")
    plan.add_argument("--step", choices=("train", "inference"), help="plan this one only")
    plan.add_argument("--fast", action="store_true", help="memory only: compiling takes a third of the time")
    plan.add_argument(
        "--largest_batch",
        action="store_true",
        help="make sure of the largest batch that fits: up to 5 more compilations",
    )
    plan.add_argument("--plan_python", metavar="PYTHON", help="interpreter of an environment that has jax[tpu]")
    plan.add_argument("--json", action="store_true", help="print JSON")

    demo = add("demo", _demo, "Draw data, train a small detector on it, evaluate, export and use it.")
    demo.add_argument("--output_dir", default="demo_output")
    demo.add_argument("--num_steps", type=int, help="overrides the recipe's")
    return parser


def _train(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.jobs import strategies
    from object_detection_fpn.jobs import train as run

    if arguments.train_and_eval and arguments.num_workers > 1:
        raise UsageError("--train_and_eval works on one worker. Evaluate in a process of its own: odfpn eval --wait.")
    overrides = list(arguments.config_override)
    if arguments.num_steps is not None:
        overrides.append(f"train_config.num_steps={arguments.num_steps}")
    uses = ["train", "eval"] if arguments.train_and_eval else ["train"]
    config = _load_config(arguments.config, overrides, require_data=uses)
    with _usage():
        strategy = strategies.make_strategy(
            use_tpu=arguments.use_tpu,
            tpu_name=arguments.tpu_name,
            num_workers=arguments.num_workers,
            worker_timeout=arguments.worker_timeout,
        )
    run.train(
        config,
        model_dir=arguments.model_dir,
        strategy=strategy,
        checkpoint_every_n=arguments.checkpoint_every_n,
        jit_compile=arguments.jit_compile,
        seed=arguments.seed,
        evaluate_checkpoints=arguments.train_and_eval,
        data_service_address=_service_address(arguments.data_service_address),
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    import tensorflow as tf

    from object_detection_fpn.jobs import strategies
    from object_detection_fpn.jobs import train as run

    use = "train" if arguments.eval_on_train_data else "eval"
    config = _load_config(arguments.config, arguments.config_override, require_data=[use])
    is_folder = tf.io.gfile.isdir(arguments.checkpoint)
    output_dir = arguments.output_dir or (arguments.checkpoint if is_folder else os.path.dirname(arguments.checkpoint))
    with _usage():
        strategy = strategies.make_strategy(use_tpu=arguments.use_tpu, tpu_name=arguments.tpu_name)
    common = {
        "output_dir": output_dir,
        "strategy": strategy,
        "sample_1_of_n_eval_examples": arguments.sample_1_of_n,
        "eval_on_train_data": arguments.eval_on_train_data,
    }
    if arguments.wait:
        run.evaluate_continuously(config, checkpoint_dir=arguments.checkpoint, timeout=arguments.eval_timeout, **common)
    else:
        run.evaluate(config, checkpoint=arguments.checkpoint, **common)


def _export(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.jobs import train as run

    config = _load_config(arguments.config, arguments.config_override)
    path = run.export(
        config,
        checkpoint=arguments.checkpoint,
        output_dir=arguments.output_dir,
        input_type=arguments.input_type,
        jit_compile=arguments.jit,
        device=arguments.device,
    )
    _say(f"Exported to {path}.")


def _predict(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.config import label_map
    from object_detection_fpn.jobs import predict
    from object_detection_fpn.jobs import train as run

    if bool(arguments.saved_model) == bool(arguments.checkpoint):
        raise UsageError("Give either --saved_model, or --checkpoint with --config.")
    images = predict.find_images(arguments.images)
    with _usage():
        predict.make_output_dir(arguments.output_dir)
    if arguments.saved_model:
        categories = label_map.load_label_map(arguments.label_map).categories if arguments.label_map else ()
        with _usage():
            predictor = predict.Predictor.from_saved_model(arguments.saved_model, categories=categories)
    else:
        if not arguments.config:
            raise UsageError("--checkpoint needs --config, the pipeline config it was trained with.")
        predictor = run.make_predictor(
            _load_config(arguments.config, arguments.config_override), checkpoint=arguments.checkpoint
        )
    report = predict.predict_files(predictor, images, output_dir=arguments.output_dir, min_score=arguments.min_score)
    _say(f"{report.num_detections} detections in {report.num_images} images, written to {report.json_path}.")
    return report.exit_code


def _convert(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.data.source.coco import CocoError
    from object_detection_fpn.tools.convert import coco

    label_map_path = arguments.label_map or os.path.join(os.path.dirname(arguments.output), "label_map.pbtxt")
    try:
        conversion = coco.coco_to_tfrecords(
            arguments.annotations,
            arguments.image_dir,
            arguments.output,
            label_map_path=label_map_path,
            num_shards=arguments.num_shards,
            renumber_classes=arguments.renumber_classes,
            exif_boxes=arguments.exif_boxes,
            allow_no_boxes=arguments.allow_no_boxes,
        )
    except CocoError as error:
        raise UsageError(str(error)) from error
    _say(conversion.summary())


def _data_service(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.data.source import service

    try:
        if arguments.part == "dispatcher":
            if arguments.port is None or arguments.dispatcher or arguments.host:
                raise UsageError("A dispatcher takes --port, and nothing else.")
            return service.run_dispatcher(port=arguments.port, say=_say)
        if not arguments.dispatcher:
            raise UsageError("A worker needs --dispatcher HOST:PORT.")
        _service_address(arguments.dispatcher)
        return service.run_worker(
            dispatcher=arguments.dispatcher, port=arguments.port or 0, host=arguments.host, say=_say
        )
    except TimeoutError:  # an OSError too
        raise
    except OSError as error:
        raise UsageError(str(error)) from error


def _plan(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.tools.planning import plan, report, tpu

    with _usage():
        target = tpu.parse_slice(arguments.tpu)
    overrides = list(arguments.config_override)
    if arguments.batch_size is not None:
        overrides.append(f"train_config.batch_size={arguments.batch_size}")
    config = _load_config(arguments.config, overrides)
    try:
        planned = plan.make_plan(
            config,
            target,
            source=arguments.config,
            steps=(arguments.step,) if arguments.step else ("train", "inference"),
            is_fast=arguments.fast,
            find_largest_batch=arguments.largest_batch,
            python=arguments.plan_python,
            say=_say,
        )
    except plan.PlanError as error:
        raise UsageError(str(error)) from error
    print(json.dumps(planned.as_dict(), indent=2) if arguments.json else report.format_plan(planned))
    return 0 if planned.fits else 1


def _demo(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.config import pipeline as config_lib
    from object_detection_fpn.config import recipes
    from object_detection_fpn.jobs import train as run
    from object_detection_fpn.tools import shapes

    output_dir = Path(arguments.output_dir)
    model_dir, export_dir = output_dir / "model", output_dir / "exported"
    _say(f"Drawing circles, squares and triangles into {output_dir / 'data'} ...")
    data = shapes.write_dataset(str(output_dir / "data"), image_size=_DEMO_IMAGE_SIZE)
    overrides = [
        f'train_input_reader.label_map_path="{data.label_map_path}"',
        f'train_input_reader.tf_record_input_reader.input_path=["{data.train_records}"]',
        f'eval_input_reader.0.label_map_path="{data.label_map_path}"',
        f'eval_input_reader.0.tf_record_input_reader.input_path=["{data.eval_records}"]',
    ]
    if arguments.num_steps is not None:
        overrides.append(f"train_config.num_steps={arguments.num_steps}")
    config = config_lib.load_config(recipes.recipe_path(_DEMO_RECIPE), overrides, require_data=["train", "eval"])

    start = time.monotonic()
    run.train(config, model_dir=str(model_dir))
    metrics = run.evaluate(config, checkpoint=str(model_dir), output_dir=str(model_dir))
    minutes = (time.monotonic() - start) / 60
    run.export(config, checkpoint=str(model_dir), output_dir=str(export_dir))

    # A process of its own, as a server would be: nothing of this one helps it.
    images = sorted(Path(data.eval_images).iterdir())[:_DEMO_NUM_DRAWN]
    status = subprocess.run(
        [sys.executable, "-m", "object_detection_fpn.cli.main", "predict", *map(str, images)]
        + ["--saved_model", str(export_dir), "--label_map", data.label_map_path]
        + ["--output_dir", str(output_dir / "predictions")],
        check=False,
    ).returncode
    _say(
        f"AP50 {metrics['DetectionBoxes_Precision/mAP@.50IOU']:.3f} on held-out images; training and evaluation took "
        f"{minutes:.1f} minutes.\nDrawn detections: {output_dir / 'predictions'}; SavedModel: {export_dir}; TensorBoard: "
        f"tensorboard --logdir {model_dir}"
    )
    return status


def _service_address(text: str | None) -> str | None:
    from object_detection_fpn.data.source import service

    if text:
        with _usage():
            service.split_address(text)
    return text


def _load_config(
    path: str, overrides: Sequence[str], *, require_data: Sequence[str] = ()
) -> pipeline_pb2.TrainEvalPipelineConfig:
    """Reads a config; a name without folder and ending means one of the package's recipes."""
    from object_detection_fpn.config import pipeline as config_lib
    from object_detection_fpn.config import recipes

    if not path.endswith(".config") and path in recipes.recipes():
        path = recipes.recipe_path(path)
    return config_lib.load_config(path, overrides, require_data=require_data)


def _prepare_process() -> None:
    """What has to be said before TensorFlow is imported.

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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
