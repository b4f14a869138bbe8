"""Text format: what its errors say, and every kind of override."""

from __future__ import annotations

import pytest

from object_detection_fpn.config.text import ConfigError, apply_override, format_message, parse_text, read_text
from object_detection_fpn.protos import pipeline_pb2

SOURCE = "my.config"


def parsed(text: str = "") -> pipeline_pb2.TrainEvalPipelineConfig:
    return parse_text(text, pipeline_pb2.TrainEvalPipelineConfig, SOURCE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model {\n  faster_rcnn {\n    num_clases: 3\n  }\n}",
            r'my.config:3: FasterRcnn has no field "num_clases" \(nearest: "num_classes"\). Allowed: number_of_stages, ',
        ),
        ("modell {}", r'my.config:1: TrainEvalPipelineConfig has no field "modell" \(nearest: "model"\)'),
        ("model { xyzzy {} }", 'DetectionModel has no field "xyzzy". Allowed: faster_rcnn, ssd.'),
        (
            "model { center_net {} }",
            r'my.config:1: "center_net" of DetectionModel is not supported: CenterNet is not here. Detectors here: faster_',
        ),
        (
            "model { faster_rcnn { second_stage_box_predictor { rfcn_box_predictor {} } } }",
            "write mask_rcnn_box_predictor instead",
        ),
        (
            "train_config { fine_tune_checkpoint_version: V3 }",
            "my.config:1: CheckpointVersion has no value V3. Allowed: UNKNOWN, V1, V2.",
        ),
        (
            "model { faster_rcnn { feature_extractor { conv_hyperparams {\nactivation: RELU6 } } } }",
            r'my.config:2: Activation has no value RELU6 \(nearest: "RELU_6"\). Allowed: NONE, RELU, RELU_6, SWISH.',
        ),
        ("train_config {\n batch_size: many }", "my.config:2: Couldn't parse integer: many."),
        (
            "train_config { batch_size: 1\n batch_size: 2 }",
            'my.config:2: .* should not have multiple "batch_size" fields',
        ),
        ("train_config { fine_tune_checkpoint: dir }", "my.config:1: Expected string but found: 'dir'"),
        ("model { faster_rcnn {", 'my.config:1: Expected "}".'),
        ("model {\n ': 'x'\n}", r"my.config:2: Expected identifier or number, got ': '\.$"),
        (
            "model { faster_rcnn { image_resizer { fixed_shape_resizer {} identity_resizer {} } } }",
            'Field "identity_resizer" is specified along with field "fixed_shape_resizer"',
        ),
    ],
)
def test_text_is_refused(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parsed(text)
    assert caught.value.source == SOURCE
    assert caught.value.line


def test_byte_order_mark_is_read_over(tmp_path):
    (tmp_path / "my.config").write_bytes(b"\xef\xbb\xbfmodel {}")
    assert read_text(str(tmp_path / "my.config")) == "model {}"


@pytest.mark.parametrize("name", ["absent.config", "absent/my.config"])
def test_missing_file_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=rf"{name}: there is no such file\.$"):
        read_text(str(tmp_path / name))


def test_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a folder, not a file"):
        read_text(str(tmp_path))


RATIOS = "model.faster_rcnn.first_stage_anchor_generator.multiscale_anchor_generator.aspect_ratios"


@pytest.mark.parametrize(
    ("before", "overrides", "after"),
    [
        ("", ["train_config.batch_size=8"], "train_config { batch_size: 8 }"),
        ("train_config { batch_size: 8 }", ["train_config.batch_size = 4"], "train_config { batch_size: 4 }"),
        ("", ["train_config.gradient_clipping_by_norm=1e1"], "train_config { gradient_clipping_by_norm: 10 }"),
        ("", ["train_config.use_bfloat16=true"], "train_config { use_bfloat16: true }"),
        ("", ["train_config.use_bfloat16=False"], "train_config { use_bfloat16: false }"),
        ("", ["train_config.fine_tune_checkpoint_version=V2"], "train_config { fine_tune_checkpoint_version: V2 }"),
        (
            "",
            ["train_config.fine_tune_checkpoint=gs://b/ckpt-0"],
            'train_config { fine_tune_checkpoint: "gs://b/ckpt-0" }',
        ),
        ("", ["train_config.fine_tune_checkpoint='a b'"], 'train_config { fine_tune_checkpoint: "a b" }'),
        ("", ['train_config.fine_tune_checkpoint="a=b"'], 'train_config { fine_tune_checkpoint: "a=b" }'),
        ("", ["train_config.fine_tune_checkpoint="], 'train_config { fine_tune_checkpoint: "" }'),
        ("", [r"train_config.fine_tune_checkpoint=C:\a\"b"], r'train_config { fine_tune_checkpoint: "C:\\a\\\"b" }'),
        ("", ["train_config.freeze_variables.0=[ab]"], 'train_config { freeze_variables: "[ab]" }'),
        ("train_config { freeze_variables: 'a' }", ["train_config.freeze_variables=[ ]"], "train_config {}"),
        ("", ["eval_input_reader.0.label_map_path=a"], 'eval_input_reader { label_map_path: "a" }'),
        (
            'eval_input_reader { name: "x" }',
            ["eval_input_reader[0].label_map_path=a", "eval_input_reader[1].name=y"],
            'eval_input_reader { name: "x" label_map_path: "a" } eval_input_reader { name: "y" }',
        ),
        (
            "",
            ["train_input_reader.tf_record_input_reader.input_path=a-*"],
            'train_input_reader { tf_record_input_reader { input_path: "a-*" } }',
        ),
        (
            'train_input_reader { tf_record_input_reader { input_path: "x" } }',
            ["train_input_reader.tf_record_input_reader.input_path=[a, b-?]"],
            'train_input_reader { tf_record_input_reader { input_path: ["a", "b-?"] } }',
        ),
        (
            'train_input_reader { tf_record_input_reader { input_path: "x" } }',
            ["train_input_reader.tf_record_input_reader.input_path+=['a,b', \"c\"]"],
            'train_input_reader { tf_record_input_reader { input_path: ["x", "a,b", "c"] } }',
        ),
        (
            "",
            [f"{RATIOS}=[1, 2]", f"{RATIOS}+=0.5", f"{RATIOS}.1=3", f"{RATIOS}[3]=4"],
            "model { faster_rcnn { first_stage_anchor_generator { multiscale_anchor_generator { "
            "aspect_ratios: [1, 3, 0.5, 4] } } } }",
        ),
        (
            "model { faster_rcnn { image_resizer { identity_resizer {} } } }",
            ["model.faster_rcnn.image_resizer=fixed_shape_resizer { height: 64 }"],
            "model { faster_rcnn { image_resizer { fixed_shape_resizer { height: 64 } } } }",
        ),
        (
            "model { faster_rcnn { image_resizer { identity_resizer {} } } }",
            ["model.faster_rcnn.image_resizer.fixed_shape_resizer.height=64"],
            "model { faster_rcnn { image_resizer { fixed_shape_resizer { height: 64 } } } }",
        ),
        (
            "train_config { data_augmentation_options { random_horizontal_flip {} } }",
            ["train_config.data_augmentation_options+={ random_rotation90 {} }"],
            "train_config { data_augmentation_options { random_horizontal_flip {} } "
            "data_augmentation_options { random_rotation90 {} } }",
        ),
        (
            "train_config { data_augmentation_options { random_horizontal_flip {} } }",
            ["train_config.data_augmentation_options[0]=random_rotation90 {}"],
            "train_config { data_augmentation_options { random_rotation90 {} } }",
        ),
        (
            "train_config { batch_size: 1 data_augmentation_options { random_horizontal_flip {} } }",
            ["train_config.data_augmentation_options=[]"],
            "train_config { batch_size: 1 }",
        ),
        (
            "train_config { batch_size: 8 num_steps: 3 }",
            [" train_config { batch_size: 4 } eval_config: { batch_size: 2 }"],
            "train_config { batch_size: 4 num_steps: 3 } eval_config { batch_size: 2 }",
        ),
        (
            'eval_config { super_categories { key: "a" value: "b" } }',
            ['eval_config.super_categories+={ key: "c" value: "d,e" }'],
            'eval_config { super_categories { key: "a" value: "b" } super_categories { key: "c" value: "d,e" } }',
        ),
    ],
)
def test_override_changes_the_field(before, overrides, after):
    config = parsed(before)
    for override in overrides:
        apply_override(config, override)
    assert config == parsed(after)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_config.batch_size", "is not of the form path=value, such as train_config.batch_size=8"),
        ("=3", "is not of the form path=value"),
        (
            "train_config.batchsize=3",
            r'override train_config.batchsize=3: TrainConfig has no field "batchsize" \(nearest: "batch_size"\)',
        ),
        ("train_config { batchsize: 3 }", r'TrainConfig has no field "batchsize" \(nearest: "batch_size"\)'),
        ("model.center_net.num_classes=3", '"center_net" of DetectionModel is not supported'),
        ("train_config.batch_size=-1", "does not fit batch_size: .* Allowed: a whole number, 0 or more."),
        (
            "train_config.batch_size=1.5",
            "does not fit batch_size: Couldn't parse integer: 1.5. Allowed: a whole number",
        ),
        ("train_config.use_bfloat16=maybe", "does not fit use_bfloat16: .* Allowed: true or false."),
        ("train_config.gradient_clipping_by_norm=big", "Allowed: a number."),
        (
            "train_config.fine_tune_checkpoint_version=V3",
            "CheckpointVersion has no value V3. Allowed: UNKNOWN, V1, V2.",
        ),
        ("train_config.optimizer=adam", "does not fit optimizer"),
        ("train_config.optimizer={ sgd {} }", 'Optimizer has no field "sgd"'),
        ("train_config.batch_size.x=1", '"batch_size" is a single value and has no field "x"'),
        ("train_config.batch_size.0=1", '"batch_size" is a single value and has no field "0"'),
        ("train_config.batch_size+=1", "appends to batch_size, which is not repeated: write = instead"),
        ("eval_input_reader.name=x", r"eval_input_reader is repeated: name the row, eval_input_reader.0.name"),
        ("eval_input_reader.1.name=x", r"eval_input_reader has 0 rows. Allowed: 0 to 0"),
        ("train_config.freeze_variables.3=x", "freeze_variables has 0 rows"),
        (
            "train_config.freeze_variables.0+=x",
            r"appends to one row: write freeze_variables\+=... to append to all rows",
        ),
        (f"{RATIOS}.0=[1, 2]", "aspect_ratios takes one value here, not a list"),
        (f"{RATIOS}=", "does not fit aspect_ratios"),
        (
            "eval_config.super_categories.person=a",
            r"super_categories is a map: write super_categories\+={key: ... value: ",
        ),
    ],
)
def test_override_is_refused(override, message):
    config = parsed()
    with pytest.raises(ConfigError, match=message) as caught:
        apply_override(config, override)
    assert caught.value.source == f"override {override}"


def test_format_is_read_back_unchanged(golden_dir):
    config = parsed((golden_dir / "odapi_pipeline.config").read_text())
    assert parsed(format_message(config)) == config
    assert "stddev: 0.03\n" in format_message(config)


def test_error_says_all_it_knows():
    error = ConfigError("a.config", "is wrong", field="x.y", value="3", allowed="1, 2")
    assert str(error) == "a.config: x.y = 3 is wrong. Allowed: 1, 2."
    assert (error.source, error.line, error.field, error.value, error.allowed) == ("a.config", None, "x.y", "3", "1, 2")
    other = ConfigError("a.config", "is no text", line=4)
    assert (
        str(ConfigError.joined([error, other])) == "a.config: x.y = 3 is wrong. Allowed: 1, 2.\na.config:4: is no text."
    )


@pytest.mark.parametrize(
    "content, message",
    [
        (b"model \xe9", r"my.config:1: is not UTF-8: save it as UTF-8\."),
        (b"model {\n}\n # \xfc", r"my.config:3: is not UTF-8"),
        ("model {}".encode("utf-16"), r"my.config: is text in UTF-16. Save it as UTF-8\."),
        (b"model\0", r"my.config: is a binary file, not text\."),
        (b"\x89PNG\r\n\0", r"my.config: is a binary file, not text\."),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, message):
    path = tmp_path / "my.config"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_text(str(path))


@pytest.mark.parametrize(
    "path, message",
    [
        ("", r'"": is no path of a file'),
        ("http://host/my.config", "http://host/my.config: is an http:// address, from which nothing is downloaded"),
        (
            "hdfs://host/my.config",
            "hdfs://host/my.config: is on hdfs://, a file system that TensorFlow does not have here",
        ),
    ],
)
def test_a_path_that_no_file_has_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        read_text(path)


@pytest.mark.parametrize(
    "path, forward",
    [
        (r"C:\data\x.record", "C:/data/x.record"),
        (r"C:\new\train", "C:/new/train"),
        (r"d:\\data\new", "d:/data/new"),
        (r"C:\Users\me", "C:/Users/me"),
        ("C:\\data\\", "C:/data/"),
    ],
)
def test_windows_paths_whose_backslashes_would_be_escapes_are_refused(path, forward):
    text = f'train_config {{}}\ntrain_input_reader {{ label_map_path: "{path}" }}'
    doubled = forward.replace("/", "\\\\")
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert str(caught.value) == (
        f'{SOURCE}:2: has the path "{path}", whose backslashes begin escapes in text format. Allowed: "{forward}" or '
        f'"{doubled}".'
    )
    with pytest.raises(ConfigError, match="whose backslashes begin escapes"):
        apply_override(parsed(), f'train_input_reader.label_map_path="{path}"')
    config = parsed()
    apply_override(config, f"train_input_reader.label_map_path={path}")  # without quotes: taken as it is
    assert config.train_input_reader.label_map_path == path


@pytest.mark.parametrize("text", ['# "C:\\new"', 'label_map_path: "C:\\\\new"', 'label_map_path: "C:/new" # C:\\new'])
def test_other_windows_paths_are_read(text):
    parsed(f"train_input_reader {{\n{text}\n}}")
