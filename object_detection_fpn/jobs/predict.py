"""Images in, detections out: a JSON file, and the images with what was found drawn on them.

The detector is a SavedModel that this package or the Object Detection API exported, or a model with its weights. An image
that cannot be read is named with the reason, counted, and passed over.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm
from PIL import Image, UnidentifiedImageError

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.data.resize import Resizer
from object_detection_fpn.drawing import boxes as visualize
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs.evaluate import list_categories, load_label_map
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.serving.saved_model import make_serving_function

_LOGGER = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""What is looked for in folders. A file that is named itself may end in anything."""

_PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> mode
_PARSERS = frozenset(
    {"ParseExample", "ParseExampleV2", "ParseSingleExample"}
)  # ops of a graph that takes tf.train.Examples


class ImagePrediction(NamedTuple):
    """What a detector says of one image, best first."""

    boxes_normalized: np.ndarray
    """[N, 4] float32 (ymin, xmin, ymax, xmax), normalized to the image."""
    scores: np.ndarray
    """[N] float32."""
    class_ids: np.ndarray
    """[N] int, 1-based, the ids of the label map."""


class PredictionReport(NamedTuple):
    """What became of a list of images."""

    json_path: str
    """The file that holds all detections."""
    num_images: int
    """Images that a prediction was made for."""
    num_detections: int
    """Detections above the score threshold."""
    failures: dict[str, str]
    """Path -> reason, for every image that could not be read."""

    @property
    def exit_code(self) -> int:
        """What a command should end with: 0, or 1 if an image could not be read."""
        return 1 if self.failures else 0


class UnreadableImageError(ValueError):
    """A file that holds no image, or a broken one; says why."""


class Predictor:
    """Detects objects in images, one image at a time, each of any size.

    Boxes and drawings follow the pixels as they are stored: like the input pipeline of training, it does not turn images
    by their EXIF orientation.
    """

    def __init__(
        self,
        serve: Callable[[np.ndarray], Mapping[str, tf.Tensor]],
        *,
        categories: Sequence[Mapping[str, Any]] = (),
        num_channels: int = 3,
    ):
        """Args:
            serve: one image [1, h, w, num_channels] uint8 -> the outputs of `saved_model.make_serving_function`.
            categories: `{"id": 1-based, "name": ...}`; a class without a name is shown by its id.
            num_channels: how images are decoded: 1, 3 or 4.

        Raises:
            ValueError: if `num_channels` is none of these.
        """
        if num_channels not in _PILLOW_MODES:
            raise ValueError(
                f"The model takes images of {num_channels} channels, which no image file has. Allowed: 1, 3, 4."
            )
        self._serve = serve
        self._names = {int(category["id"]): str(category["name"]) for category in categories}
        self._categories = [{"id": class_id, "name": name} for class_id, name in sorted(self._names.items())]
        self._num_channels = num_channels

    @classmethod
    def from_saved_model(cls, path: str, *, categories: Sequence[Mapping[str, Any]] = ()) -> Predictor:
        """Loads a SavedModel of any of the four input types.

        Args:
            path: the folder of the SavedModel, or the export's folder around it.
            categories: as in the constructor; a SavedModel carries no names.

        Raises:
            FileNotFoundError: if there is no SavedModel.
            ValueError: if it is no detector exported by this package or the Object Detection API.
        """
        folder = _find_saved_model(path)
        loaded = tf.saved_model.load(folder)
        signature = loaded.signatures.get("serving_default")
        inputs = signature.structured_input_signature[1] if signature is not None else {}
        outputs = signature.structured_outputs if signature is not None else {}
        needed = {"detection_boxes", "detection_scores", "detection_classes", "num_detections"}
        if set(inputs) != {"input_tensor"} or not needed <= set(outputs):
            raise ValueError(
                f"{folder} is no exported detector: its signature serving_default takes {sorted(inputs)} and gives "
                f"{sorted(outputs)}. Wanted: input_tensor, and at least {sorted(needed)}."
            )
        spec = inputs["input_tensor"]
        num_channels = 3 if spec.dtype == tf.string else spec.shape[-1]

        def serve(image: np.ndarray) -> Mapping[str, tf.Tensor]:
            # `loaded` is named here to keep its variables alive as long as the function.
            return loaded.signatures["serving_default"](input_tensor=_as_input(image, spec, takes_examples))

        takes_examples = spec.dtype == tf.string and _parses_examples(signature)
        return cls(serve, categories=categories, num_channels=num_channels)

    @classmethod
    def from_model(
        cls,
        *,
        model: Any,
        resizer: Resizer,
        checkpoint_path: str | None = None,
        use_averages: bool = False,
        categories: Sequence[Mapping[str, Any]] = (),
        num_channels: int = 3,
    ) -> Predictor:
        """Takes a model as it is, or gives it the weights of a checkpoint first.

        Args:
            model: has `preprocess`, `predict` and `postprocess`.
            resizer: what the model's images went through in training.
            checkpoint_path: `model_dir/ckpt-7`, or a folder for its newest; None leaves the weights alone.
            use_averages: whether to take the moving averages of the weights.
            categories: as in the constructor.
            num_channels: of the images that go into the resizer.

        Raises:
            CheckpointError: as `interop.sources.restore_model`.
        """
        if checkpoint_path is not None:
            sources.restore_model(checkpoint_path, model, use_averages=use_averages)
        serve = make_serving_function(
            model=model, resizer=resizer, input_type="image_tensor", num_channels=num_channels
        )
        return cls(lambda image: serve(tf.constant(image)), categories=categories, num_channels=num_channels)

    def predict(self, image: np.ndarray) -> ImagePrediction:
        """Detects objects in one image [h, w, channels] uint8."""
        outputs = self._serve(image[np.newaxis])
        n = int(outputs["num_detections"][0])
        return ImagePrediction(
            boxes_normalized=np.asarray(outputs["detection_boxes"][0, :n]),
            scores=np.asarray(outputs["detection_scores"][0, :n]),
            class_ids=np.asarray(outputs["detection_classes"][0, :n]).astype(np.int64),
        )

    def predict_files(
        self,
        paths: Sequence[str],
        *,
        output_dir: str,
        min_score: float = 0.5,
        max_num_boxes: int | None = None,
        draw: bool = True,
        show_progress: bool = True,
    ) -> PredictionReport:
        """Detects objects in image files; writes `detections.json`, and a PNG an image.

        The JSON object holds `images` (`id`, counted from 1, `file_name`, `width`, `height`, and `drawing`, the PNG),
        `detections` (COCO's results format: `image_id`, `category_id`, `bbox` as xmin, ymin, width, height in pixels,
        `score`; and `category_name`), `categories`, and `failures` (`file_name`, `reason`).

        Args:
            paths: image files; `find_images` lists those of folders.
            output_dir: folder to write, made if missing.
            min_score: detections below it are left out of JSON and drawings.
            max_num_boxes: most detections drawn on an image; None = all.
            draw: whether PNGs are written.
            show_progress: whether a progress bar is shown on standard error.

        Raises:
            ValueError: if there are no paths.
        """
        if not paths:
            raise ValueError("There are no images to predict.")
        tf.io.gfile.makedirs(output_dir)
        drawing_names = _drawing_names(paths)
        images: list[dict[str, Any]] = []
        detections: list[dict[str, Any]] = []
        failures: dict[str, str] = {}
        for image_id, path in enumerate(tqdm.tqdm(paths, unit="image", disable=not show_progress), start=1):
            try:
                image = read_image(path, num_channels=self._num_channels)
            except UnreadableImageError as error:
                failures[path] = str(error)
                _LOGGER.warning("%s cannot be read and is passed over: %s", path, error)
                continue
            height, width = image.shape[:2]
            found = _above(self.predict(image), min_score)
            entry = {"id": image_id, "file_name": path, "width": width, "height": height}
            detections += self._to_json(image_id, found, height, width)
            if draw:
                entry["drawing"] = drawing_names[path]
                self._draw(image, found, os.path.join(output_dir, drawing_names[path]), max_num_boxes)
            images.append(entry)
        if failures:
            _LOGGER.warning("%d of %d images could not be read.", len(failures), len(paths))
        json_path = os.path.join(output_dir, "detections.json")
        content = {
            "images": images,
            "detections": detections,
            "categories": self._categories,
            "failures": [{"file_name": path, "reason": reason} for path, reason in failures.items()],
        }
        with tf.io.gfile.GFile(json_path, "w") as file:
            file.write(json.dumps(content, indent=1))
        return PredictionReport(json_path, len(images), len(detections), failures)

    def _to_json(self, image_id: int, found: ImagePrediction, height: int, width: int) -> Iterator[dict[str, Any]]:
        boxes = found.boxes_normalized.astype(np.float64) * [height, width, height, width]
        for (ymin, xmin, ymax, xmax), score, class_id in zip(
            boxes.tolist(), found.scores, found.class_ids, strict=True
        ):
            yield {
                "image_id": image_id,
                "category_id": int(class_id),
                "category_name": self._names.get(int(class_id), f"id {class_id}"),
                "bbox": [round(value, 3) for value in (xmin, ymin, xmax - xmin, ymax - ymin)],
                "score": round(float(score), 6),
            }

    def _draw(self, image: np.ndarray, found: ImagePrediction, path: str, max_num_boxes: int | None) -> None:
        drawn = visualize.draw_boxes(
            image,
            visualize.Boxes(found.boxes_normalized, found.class_ids - 1, scores=found.scores),
            names={class_id - 1: name for class_id, name in self._names.items()},
            min_score=0.0,
            max_num_boxes=max_num_boxes,
        )
        png = io.BytesIO()
        Image.fromarray(drawn).save(png, format="PNG")
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(png.getvalue())


def find_images(inputs: Sequence[str]) -> list[str]:
    """Image files of a list of files, glob patterns and folders (with their subfolders), each once, in that order.

    Raises:
        FileNotFoundError: if one of them does not exist, matches nothing, or is a folder without images.
    """
    found: dict[str, None] = {}
    for given in inputs:
        if tf.io.gfile.isdir(given):
            paths = [
                os.path.join(folder, name)
                for folder, _, names in tf.io.gfile.walk(given)
                for name in names
                if name.lower().endswith(IMAGE_SUFFIXES)
            ]
            if not paths:
                raise FileNotFoundError(f"The folder {given} holds no images. Looked for: {', '.join(IMAGE_SUFFIXES)}.")
        elif tf.io.gfile.exists(given):
            paths = [given]
        else:
            paths = tf.io.gfile.glob(given)
            if not paths:
                raise FileNotFoundError(f"There is no image, folder or match of a pattern named {given}.")
        found.update(dict.fromkeys(sorted(paths)))
    return list(found)


def read_image(path: str, *, num_channels: int = 3) -> np.ndarray:
    """Reads an image file: [h, w, num_channels] uint8, decoded as training decodes it, other formats by Pillow.

    Raises:
        UnreadableImageError: if the file cannot be opened or holds no whole image.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            encoded = file.read()
    except tf.errors.OpError as error:
        raise UnreadableImageError(f"the file cannot be opened: {error.message}") from error
    if not encoded:
        raise UnreadableImageError("the file is empty")
    try:
        return tf.io.decode_image(encoded, channels=num_channels, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError:
        pass  # a format that TensorFlow does not know, or a broken file, of which Pillow says more
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            pixels = np.asarray(picture.convert(_PILLOW_MODES[num_channels]))
    except UnidentifiedImageError as error:
        raise UnreadableImageError("neither TensorFlow nor Pillow knows its format") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises for broken files
        raise UnreadableImageError(str(error)) from error
    return pixels.reshape(*pixels.shape[:2], num_channels)


def _find_saved_model(path: str) -> str:
    for folder in (path, os.path.join(path, "saved_model")):
        if tf.io.gfile.exists(os.path.join(folder, "saved_model.pb")):
            return folder
    raise FileNotFoundError(f"There is no SavedModel in {path}: neither saved_model.pb nor saved_model/saved_model.pb.")


def _parses_examples(signature: Any) -> bool:
    """Whether a signature that takes strings wants tf.train.Examples rather than image files."""
    graph_def = signature.graph.as_graph_def()
    nodes = [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]
    return any(node.op in _PARSERS for node in nodes)


def _as_input(image: np.ndarray, spec: tf.TensorSpec, takes_examples: bool) -> tf.Tensor:
    """One image [1, h, w, channels] uint8 as what a signature takes."""
    if spec.dtype != tf.string:
        return tf.cast(image, spec.dtype)
    encoded = tf.io.encode_png(image[0])  # without loss, so that all input types see the same pixels
    if takes_examples:
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded.numpy()]))
        features = tf.train.Features(feature={"image/encoded": feature})
        encoded = tf.constant(tf.train.Example(features=features).SerializeToString())
    return encoded[tf.newaxis]


def _above(prediction: ImagePrediction, min_score: float) -> ImagePrediction:
    is_kept = prediction.scores >= min_score
    return ImagePrediction(*(field[is_kept] for field in prediction))


def _drawing_names(paths: Sequence[str]) -> dict[str, str]:
    """Path -> file name of its drawing: the image's name, numbered where several images share it."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        name, n = f"{stem}.png", 1
        while name.lower() in taken:  # lower: there are file systems that do not tell a.png from A.png
            n += 1
            name = f"{stem}_{n}.png"
        taken.add(name.lower())
        names[path] = name
    return names


def make_predictor(config: pipeline_pb2.TrainEvalPipelineConfig, *, checkpoint: str) -> Predictor:
    """A predictor with a checkpoint's weights and the label map's names."""
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    model = builder.build_detector(config, reader, execution=builder.inference_execution(config))
    sources.restore_model(checkpoint, model, use_averages=config.eval_config.use_moving_averages)
    return Predictor.from_model(
        model=model,
        resizer=builder.build_resizer(model_config.image_resizer(config.model)),
        categories=list_categories(config, load_label_map(reader)),
        num_channels=model_config.num_image_channels(config.model, reader),
    )
