"""The side inputs that the Object Detection API's exporter describes by flags, checked against the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from object_detection_fpn.tools.command import UsageError

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2

_NAMES = ("context_features", "valid_context_size")
_TYPES = (("float", "float32"), ("int", "int32"))  # of each, as the API calls it and as TensorFlow does
_ANY = ("-1", "None")


def check_side_inputs(flags: Any, config: pipeline_pb2.TrainEvalPipelineConfig) -> None:
    """Makes sure that --use_side_inputs and what belongs to it describe what the exported model takes.

    A model that looks at context takes its side inputs without the flags too, for any number of images and of rows.

    Args:
        flags: of `exporter_main_v2.py`.
        config: of the model.

    Raises:
        UsageError: if the model takes no side inputs, or others.
    """
    from object_detection_fpn.config import model as model_config

    if not flags.use_side_inputs:
        return
    context = model_config.context(config.model)
    if context is None:
        field = model_config.field_path(config.model, "context_config")
        raise UsageError(f"--use_side_inputs: the model takes none, {field} is not set. Allowed: to leave it out.")
    if flags.input_type == "tf_example":
        raise UsageError(
            "--use_side_inputs: tf_example has the context in its records, image/context_features. Allowed: to leave it out, "
            "or another --input_type."
        )
    names = _split(flags.side_input_names, ",")
    _check("side_input_names", flags.side_input_names, names in ([], [*_NAMES]), ",".join(_NAMES))
    types = _split(flags.side_input_types, ",")
    are_known = len(types) == len(_TYPES) and all(given in of_one for given, of_one in zip(types, _TYPES, strict=True))
    _check("side_input_types", flags.side_input_types, not types or are_known, "float,int")
    shapes = [_split(shape, ",") for shape in _split(flags.side_input_shapes, "/")]
    rows, length = context.max_num_context_features, context.context_feature_length
    allowed = f"B,M,{length}/B with any B and M, -1 for those that vary, such as 1,{rows},{length}/1"
    fits = [len(shape) for shape in shapes] == [3, 1] and all(map(_is_size, (*shapes[0], *shapes[1])))
    fits = fits and shapes[0][2] == str(length) and _are_equal(shapes[0][0], shapes[1][0])
    _check("side_input_shapes", flags.side_input_shapes, not shapes or fits, allowed)


def _split(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator)] if text else []


def _is_size(text: str) -> bool:
    return text in _ANY or (text.isdigit() and int(text) > 0)


def _are_equal(a: str, b: str) -> bool:
    return a == b or a in _ANY or b in _ANY


def _check(flag: str, value: str, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise UsageError(f"--{flag} = {value} is not what the model takes. Allowed: {allowed}.")
