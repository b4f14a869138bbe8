# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From images to detections
#
# A detector is trained on drawn shapes, evaluated, exported and used. This is what `odfpn demo` does, in Python, and cut down
# to about a minute on two CPU cores. After so few steps the detector still errs; `odfpn demo` trains three times as long, on
# more and smaller shapes.

# %%
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from IPython.display import display
from PIL import Image

from object_detection_fpn import evaluate, export, load_config, train
from object_detection_fpn.config.recipes import recipe_path
from object_detection_fpn.drawing.boxes import Boxes, draw_boxes
from object_detection_fpn.drawing.sheets import side_by_side
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.tools import shapes

tf.get_logger().setLevel("ERROR")
OUTPUT = Path("demo_notebook")
SIDE = 128  # pixels of an image
STEPS = 350  # of training

# %% [markdown]
# ## Data
#
# Circles, squares and triangles as TFRecords, and beside them the same as COCO JSON with JPEG files. They are larger, and the
# images smaller, than those of `odfpn demo`: easier to learn.

# %%
data = shapes.write_dataset(
    str(OUTPUT / "data"),
    num_train=240,
    num_eval=32,
    image_size=SIDE,
    scenes=shapes.Scenes(max_objects=4, min_side=28),
    show_progress=False,
)
names = dict(enumerate(shapes.CLASS_NAMES))  # class ids count from 1 in files, from 0 here


def groundtruth_of(annotations: str) -> dict[str, Boxes]:
    """File name of an image -> its boxes, as shares of its size."""
    content = json.loads(Path(annotations).read_text())
    found = {}
    for image in content["images"]:
        objects = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        x, y, width, height = np.reshape([each["bbox"] for each in objects], [-1, 4]).T
        size = np.array([image["height"], image["width"]] * 2)
        found[image["file_name"]] = Boxes(
            boxes_normalized=np.stack([y, x, y + height, x + width], axis=-1) / size,
            classes=np.array([each["category_id"] - 1 for each in objects], int),
        )
    return found


def in_a_row(pictures: list[np.ndarray]) -> Image.Image:
    """Images beside each other."""
    height = max(len(picture) for picture in pictures)
    padded = [
        np.pad(picture, [[0, height - len(picture)], [0, 8], [0, 0]], constant_values=255) for picture in pictures
    ]
    return Image.fromarray(np.concatenate(padded, axis=1))


def read(path: Path) -> np.ndarray:
    """An image, three times as large."""
    image = Image.open(path)
    return np.asarray(image.resize((3 * image.width, 3 * image.height)))


marked = groundtruth_of(data.train_annotations)
paths = sorted(Path(data.train_images).iterdir())[:3]
display(in_a_row([draw_boxes(read(path), marked[path.name], names=names) for path in paths]))

# %% [markdown]
# ## Config
#
# A recipe of the package, with the paths of the data, the size of its images and fewer steps. Any field can be changed this
# way.

# %%
resizer = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"
learning_rate = "train_config.optimizer.adam_optimizer.learning_rate.cosine_decay_learning_rate"
config = load_config(
    recipe_path("faster_rcnn_resnet18_fpn_recipe_shapes_160x160"),
    [
        f'train_input_reader.label_map_path="{data.label_map_path}"',
        f'train_input_reader.tf_record_input_reader.input_path=["{data.train_records}"]',
        f'eval_input_reader.0.label_map_path="{data.label_map_path}"',
        f'eval_input_reader.0.tf_record_input_reader.input_path=["{data.eval_records}"]',
        f"{resizer}.min_dimension={SIDE}",
        f"{resizer}.max_dimension={SIDE}",
        f"train_config.num_steps={STEPS}",
        f"{learning_rate}.total_steps={STEPS}",
        f"{learning_rate}.learning_rate_base=0.0015",
        "eval_config.num_visualizations=0",
    ],
    require_data=["train", "eval"],
)
print(config.train_config)

# %% [markdown]
# ## Training
#
# From random weights. The same call goes on from the newest checkpoint where a run was stopped.

# %%
_ = train(config, model_dir=str(OUTPUT / "model"))

# %% [markdown]
# ## Evaluation
#
# COCO's metrics on images that the detector has not seen.

# %%
metrics = evaluate(config, checkpoint=str(OUTPUT / "model"), output_dir=str(OUTPUT / "model"))
for name in ("mAP", "mAP@.50IOU", "mAP@.75IOU"):
    print(f"{name:12} {metrics[f'DetectionBoxes_Precision/{name}']:.3f}")

# %% [markdown]
# ## Export and detections
#
# The SavedModel needs TensorFlow alone. Detections stand on the left, what was drawn on the right.

# %%
_ = export(config, checkpoint=str(OUTPUT / "model"), output_dir=str(OUTPUT / "exported"))
predictor = Predictor.from_saved_model(str(OUTPUT / "exported"))
marked = groundtruth_of(data.eval_annotations)
for path in sorted(Path(data.eval_images).iterdir())[:3]:
    image = np.asarray(Image.open(path))
    found = predictor.predict(image)
    detections = Boxes(found.boxes_normalized, found.class_ids - 1, found.scores)
    picture = side_by_side(image, detections=detections, groundtruth=marked[path.name], names=names, min_score=0.5)
    display(Image.fromarray(picture))
