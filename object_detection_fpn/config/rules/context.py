"""Refuses what Context R-CNN does not have, and names fields of context that have no effect, or one that is seldom wanted."""

from __future__ import annotations

from collections.abc import Iterator

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.problems import Problem, Rule, single
from object_detection_fpn.protos import faster_rcnn_pb2, pipeline_pb2

_OUTPUTS = ("output_final_box_features", "output_final_box_rpn_features")


def _attention_is_one_layer_of_one_head(message: faster_rcnn_pb2.Context, path: str) -> Iterator[Problem]:
    if not message.use_long_term_attention:
        problem = "leaves nothing to look at: attention among the regions of an image is not supported"
        yield single(message, path, "use_long_term_attention", problem, "true")
    for name in ("num_attention_heads", "num_attention_layers"):
        if getattr(message, name) != 1:
            yield single(message, path, name, "is not supported", "1")


def _detector_has_two_stages(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    if not message.HasField("context_config"):
        return
    if message.number_of_stages != 2:
        yield single(message, path, "number_of_stages", "does not go with context_config", "2")
    for name in _OUTPUTS:
        if getattr(message, name):
            yield single(message, path, name, "does not go with context_config", "false")


def ineffective(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """Fields of context that have no effect, and the finest level for all regions, which is rarely meant."""
    context, place = model_config.context(config.model), model_config.field_path(config.model, "context_config")
    if context is None:
        readers = {f"eval_input_reader[{row}]": reader for row, reader in enumerate(config.eval_input_reader)}
        for path, reader in {"train_input_reader": config.train_input_reader, **readers}.items():
            if reader.load_context_features:
                reason = "has no effect: the model looks at single images, without context_config"
                yield single(reader, path, "load_context_features", reason)
        return
    if context.attention_position == faster_rcnn_pb2.ATTENTION_DEFAULT:
        problem = "leaves the context without any influence: POST_BOX_CLASSIFIER or POST_RPN is where it has one"
        yield single(context, place, "attention_position", problem)
    extractor = model_config.feature_extractor(config.model)
    if model_config.is_single_level(extractor):
        if context.pool_by_level:
            yield single(context, place, "pool_by_level", f'has no effect: type = "{extractor.type}" has one level')
    elif not context.pool_by_level:
        problem = (
            "pools all regions, large ones too, from the finest level of the pyramid, as the Object Detection API does "
            "(pool_by_level: true pools each from the level of its size)"
        )
        yield single(context, place, "pool_by_level", problem)


RULES: dict[str, tuple[Rule, ...]] = {
    "FasterRcnn": (_detector_has_two_stages,),
    "Context": (_attention_is_one_layer_of_one_head,),
}
