"""The config language is that of the Object Detection API: names, numbers, types, labels, defaults; none missing."""

from __future__ import annotations

import json
import re

import pytest
from google.protobuf.descriptor import FieldDescriptor

from object_detection_fpn.config import bounds, tables
from object_detection_fpn.config.text import is_repeated
from object_detection_fpn.protos import pipeline_pb2, string_int_label_map_pb2

LEFT_OUT_MESSAGES = {
    # other detectors
    *("CenterNet", "ExperimentalModel"),
    *("WeightedL2LocalizationLoss", "WeightedIOULocalizationLoss", "RandomExampleSampler"),
    *("BootstrappedSigmoidClassificationLoss", "PenaltyReducedLogisticFocalLoss", "WeightedDiceClassificationLoss"),
    *("ConvolutionalBoxPredictor", "ConvolutionalBoxPredictor.BoxEncodingsClipRange", "RfcnBoxPredictor"),
    "BidirectionalFeaturePyramidNetworks",
    # other anchors, matchers and box coders
    *("SsdAnchorGenerator", "FlexibleGridAnchorGenerator", "AnchorGrid"),
    *("BipartiteMatcher", "TargetAssigner", "NegSqDistSimilarity", "IoaSimilarity", "ThresholdedIouSimilarity"),
    *("KeypointBoxCoder", "MeanStddevBoxCoder", "SquareBoxCoder"),
    # keypoints and other readers
    *("ParameterizedMetric", "CocoKeypointMetrics", "CocoKeypointMetrics.KeypointLabelToSigmasEntry", "KeypointEdge"),
    "ExternalInputReader",
}
LEFT_OUT_ENUMS: set[str] = set()
OWN_MESSAGES = {
    *(
        "CocoInputReader",
        "CompleteIouLocalizationLoss",
        "DistanceIouLocalizationLoss",
        "PixelNormalization",
        "RegionProposalNetwork",
        "ResNet",
    ),
    *("MaskTargets", "MaskTransfer", "RoiAlign", "RoiPooling"),
}
FIRST_OWN_NUMBER = 500  # fields of this package alone take numbers from here up
PREFIX = "object_detection_fpn.protos."
TYPES = {
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
}


def all_messages() -> dict:
    """Every message this package has, by the name it has in its file."""
    found = {}

    def visit(descriptor):
        name = descriptor.full_name.removeprefix(PREFIX)
        if name not in found:
            found[name] = descriptor
            for child in (*descriptor.nested_types, *(f.message_type for f in descriptor.fields if f.message_type)):
                visit(child)

    visit(pipeline_pb2.TrainEvalPipelineConfig.DESCRIPTOR)
    visit(string_int_label_map_pb2.StringIntLabelMap.DESCRIPTOR)
    return found


MESSAGES = all_messages()


@pytest.fixture(scope="module")
def odapi(golden_dir) -> dict:
    return json.loads((golden_dir / "odapi_protos.json").read_text())


def described(field) -> list:
    """A field as the golden file writes it: number, type, label, explicit default, oneof, perhaps "deprecated"."""
    kind = field.message_type or field.enum_type
    default = field.default_value if field.has_default_value else None
    if field.enum_type and default is not None:
        default = field.enum_type.values_by_number[default].name
    return [
        field.number,
        kind.full_name.removeprefix(PREFIX) if kind else TYPES[field.type],
        "repeated" if is_repeated(field) else "optional",
        default,
        field.containing_oneof.name if field.containing_oneof else None,
        *(["deprecated"] if field.GetOptions().deprecated else []),
    ]


def parsed(row: list) -> list:
    """A row of the golden file with its default as a value instead of a text."""
    number, kind, label, default, *rest = row
    if default is not None and kind in ("int32", "uint32"):
        default = int(default)
    elif default is not None and kind == "float":
        default = pytest.approx(float(default), rel=1e-6)  # descriptors of float fields hold float32
    elif default is not None and kind == "bool":
        default = default == "true"
    return [number, kind, label, default, *rest]


def test_every_message_is_kept_or_left_out_on_purpose(odapi):
    assert set(odapi["messages"]) - set(MESSAGES) == LEFT_OUT_MESSAGES - {"CenterNet"}
    assert set(MESSAGES) - set(odapi["messages"]) == OWN_MESSAGES


@pytest.mark.parametrize("name", [name for name in MESSAGES if name not in OWN_MESSAGES])
def test_fields_are_those_of_the_object_detection_api(odapi, name):
    expected = {field: parsed(row) for field, row in odapi["messages"][name].items() if row[1] not in LEFT_OUT_MESSAGES}
    ours = {f.name: described(f) for f in MESSAGES[name].fields if f.number < FIRST_OWN_NUMBER}
    assert ours == expected


def test_fields_of_left_out_messages_are_refused_with_words(odapi):
    left_out = {
        f"{message}.{field}"
        for message in MESSAGES
        if message not in OWN_MESSAGES
        for field, row in odapi["messages"][message].items()
        if row[1] in LEFT_OUT_MESSAGES
    }
    assert set(tables.LEFT_OUT) == left_out


def test_enums_are_those_of_the_object_detection_api(odapi):
    enums = {}
    for descriptor in (MESSAGES[name] for name in MESSAGES if name not in OWN_MESSAGES):
        of_the_api = (field for field in descriptor.fields if field.number < FIRST_OWN_NUMBER)
        for enum in (field.enum_type for field in of_the_api if field.enum_type):
            enums[enum.full_name.removeprefix(PREFIX)] = {value.name: value.number for value in enum.values}
    assert enums == {name: values for name, values in odapi["enums"].items() if name not in LEFT_OUT_ENUMS}


def test_pipeline_config_has_room_for_extensions():
    assert MESSAGES["TrainEvalPipelineConfig"].extension_ranges == [(1000, 536870912)]


def comments(root_dir) -> dict[str, str]:
    """Comment of each field, from the .proto files: "Message.field" -> one line."""
    found = {}
    for file in (root_dir / "protos").glob("*.proto"):
        stack, comment = [], []
        for line in map(str.strip, file.read_text().splitlines()):
            if line.startswith("//"):
                comment.append(line.removeprefix("//").strip())
                continue
            if match := re.match(r"(message|enum|oneof) (\w+) \{", line):
                if not line.endswith("}"):
                    stack.append((match[1], match[2]))
            elif line == "}":
                stack.pop()
            elif (match := re.match(r"(?:[\w<>., ]+ )?(\w+) = \d+( \[.*\])?;", line)) and stack[-1][0] != "enum":
                message = next(name for kind, name in reversed(stack) if kind == "message")
                found[f"{message}.{match[1]}"] = " ".join(comment)
            comment = []
    return found


def test_every_field_has_a_comment(root_dir):
    found = comments(root_dir)
    fields = {f"{d.name}.{f.name}" for d in MESSAGES.values() if not d.GetOptions().map_entry for f in d.fields}
    assert set(found) == fields
    assert [field for field, comment in found.items() if not comment.endswith(".")] == []


def test_comments_say_no_effect_exactly_where_fields_have_none(root_dir):
    said = {f: c for f, c in comments(root_dir).items() if c.startswith("No effect") and not f.startswith("GraphRew")}
    assert said == {field: f"No effect: {reason}." for field, reason in tables.NO_EFFECT.items()}


def test_comments_say_refused_where_values_are(root_dir):
    said = {field for field, comment in comments(root_dir).items() if comment.startswith("Refused")}
    assert said <= set(tables.REFUSED)


def test_comments_say_what_is_not_supported_yet(root_dir):
    said = {field for field, comment in comments(root_dir).items() if comment.endswith("Not supported yet.")}
    assert said == {field for field, reason in tables.REFUSED.items() if reason == "is not supported yet"}


def test_tables_name_fields_that_exist():
    fields = {f"{d.name}.{f.name}" for d in MESSAGES.values() for f in d.fields}
    fields |= {f"*.{field.split('.')[1]}" for field in fields}
    for table in (bounds.BOUNDS, tables.REFUSED, tables.NO_EFFECT):
        assert set(table) <= fields
    for message, names in tables.REQUIRED.items():
        assert set(names) <= {*MESSAGES[message].fields_by_name, *MESSAGES[message].oneofs_by_name}
