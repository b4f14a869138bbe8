"""Refuses combinations of fields of backbone and pyramid that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.problems import Problem, Rule, join, single
from object_detection_fpn.protos import backbone_pb2, fpn_pb2, pipeline_pb2

_SMALL = tuple(
    f"{kind}_keras".format(depth)
    for depth in (18, 34)
    for kind in ("faster_rcnn_resnet{}", "faster_rcnn_resnet{}_fpn", "ssd_resnet{}_v1_fpn")
)


def _small_resnets_have_one_form(message: model_config.FeatureExtractor, path: str) -> Iterator[Problem]:
    if message.type not in _SMALL:
        return
    resnet, place = message.resnet, join(path, "resnet")
    if resnet.symmetric_padding:
        yield single(resnet, place, "symmetric_padding", f'is not supported by type = "{message.type}"', "false")
    if resnet.HasField("stride_in_3x3") and not resnet.stride_in_3x3:
        problem = f'does not fit type = "{message.type}", which has no other convolutions'
        yield single(resnet, place, "stride_in_3x3", problem, "true, or to leave it out")


def _backbone_has_batch_norm(message: model_config.FeatureExtractor, path: str) -> Iterator[Problem]:
    kind = message.conv_hyperparams.WhichOneof("normalizer_oneof")
    if not message.override_base_feature_extractor_hyperparams or kind in ("batch_norm", "sync_batch_norm"):
        return
    if model_config.is_single_level(message) and not message.HasField("conv_hyperparams"):
        return  # whose backbone has batch normalization
    resnet, place = message.resnet, join(path, "resnet")
    problem = "does not fit conv_hyperparams, which build the backbone without batch normalization"
    if resnet.batch_norm != backbone_pb2.ResNet.AS_CONFIGURED:
        yield single(resnet, place, "batch_norm", problem, "AS_CONFIGURED")
    if resnet.HasField("batch_norm_epsilon"):
        yield single(resnet, place, "batch_norm_epsilon", problem, "to leave it out")


def _coarse_levels_are_of_the_paper(message: fpn_pb2.FeaturePyramidNetworks, path: str) -> Iterator[Problem]:
    if message.HasField("coarse_levels") and message.style != fpn_pb2.FeaturePyramidNetworks.PAPER:
        problem = "needs style = PAPER: the Object Detection API has convolutions of its own"
        yield single(message, path, "coarse_levels", problem, "to leave it out")


def _pixels_have_all_channels(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    if not config.HasField("model") or not model_config.image_resizer(config.model).WhichOneof("image_resizer_oneof"):
        return  # said elsewhere
    pixels = model_config.feature_extractor(config.model).pixel_normalization
    place = model_config.field_path(config.model, "feature_extractor.pixel_normalization")
    channels = model_config.num_image_channels(config.model, config.train_input_reader)
    for name in ("mean", "stddev"):
        num_values = len(getattr(pixels, name))
        if num_values not in (0, channels):
            yield Problem(join(place, name), f"has {num_values} values", f"{channels}, one a channel, or none")
    if pixels.channel_order == backbone_pb2.PixelNormalization.BGR and channels != 3:
        yield single(pixels, place, "channel_order", f"does not fit images of {channels} channels", "RGB")


RULES: dict[str, tuple[Rule, ...]] = {
    "TrainEvalPipelineConfig": (_pixels_have_all_channels,),
    "FasterRcnnFeatureExtractor": (_small_resnets_have_one_form, _backbone_has_batch_norm),
    "SsdFeatureExtractor": (_small_resnets_have_one_form, _backbone_has_batch_norm),
    "FeaturePyramidNetworks": (_coarse_levels_are_of_the_paper,),
}
