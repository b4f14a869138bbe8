"""AutoAugment for detection (Zoph et al., 2019, "Learning Data Augmentation Strategies for Object Detection").

`official.vision.ops.augment` has these changes of pixels, and they are used. It lacks the rest: its AutoAugment draws from
TensorFlow's global generator, so that no seed reproduces an example, knows policy v0 only, and fills with reflections of
objects that then have no box.

Shape letters: N objects, H W size, F channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from object_detection_fpn.data.augment import common, warp
from object_detection_fpn.data.augment.warp import GRAY, Warp
from object_detection_fpn.data.example import Example

Policy = tuple[tuple[tuple[str, float, int], ...], ...]
"""Of these sequences of (change, probability, level from 0 to 10) one is drawn and applied."""

POLICIES: dict[str, Policy] = {
    "v0": (
        (("TranslateX_BBox", 0.6, 4), ("Equalize", 0.8, 10)),
        (("TranslateY_Only_BBoxes", 0.2, 2), ("Cutout", 0.8, 8)),
        (("Sharpness", 0.0, 8), ("ShearX_BBox", 0.4, 0)),
        (("ShearY_BBox", 1.0, 2), ("TranslateY_Only_BBoxes", 0.6, 6)),
        (("Rotate_BBox", 0.6, 10), ("Color", 1.0, 6)),
    ),
    "v2": (
        (("Color", 0.0, 6), ("Cutout", 0.6, 8), ("Sharpness", 0.4, 8)),
        (("Rotate_BBox", 0.4, 8), ("Sharpness", 0.4, 2), ("Rotate_BBox", 0.8, 10)),
        (("TranslateY_BBox", 1.0, 8), ("AutoContrast", 0.8, 2)),
        (("AutoContrast", 0.4, 6), ("ShearX_BBox", 0.8, 8), ("Brightness", 0.0, 10)),
        (("SolarizeAdd", 0.2, 6), ("Contrast", 0.0, 10), ("AutoContrast", 0.6, 0)),
        (("Cutout", 0.2, 0), ("Solarize", 0.8, 8), ("Color", 1.0, 4)),
        (("TranslateY_BBox", 0.0, 4), ("Equalize", 0.6, 8), ("Solarize", 0.0, 10)),
        (("TranslateY_BBox", 0.2, 2), ("ShearY_BBox", 0.8, 8), ("Rotate_BBox", 0.8, 8)),
        (("Cutout", 0.8, 8), ("Brightness", 0.8, 8), ("Cutout", 0.2, 2)),
        (("Color", 0.8, 4), ("TranslateY_BBox", 1.0, 6), ("Rotate_BBox", 0.6, 6)),
        (("Rotate_BBox", 0.6, 10), ("BBox_Cutout", 1.0, 4), ("Cutout", 0.2, 8)),
        (("Rotate_BBox", 0.0, 0), ("Equalize", 0.6, 6), ("ShearY_BBox", 0.6, 8)),
        (("Brightness", 0.8, 8), ("AutoContrast", 0.4, 2), ("Brightness", 0.2, 2)),
        (("TranslateY_BBox", 0.4, 8), ("Solarize", 0.4, 6), ("SolarizeAdd", 0.2, 10)),
        (("Contrast", 1.0, 10), ("SolarizeAdd", 0.2, 8), ("Equalize", 0.2, 4)),
    ),
    "v3": (
        (("Posterize", 0.8, 2), ("TranslateX_BBox", 1.0, 8)),
        (("BBox_Cutout", 0.2, 10), ("Sharpness", 1.0, 8)),
        (("Rotate_BBox", 0.6, 8), ("Rotate_BBox", 0.8, 10)),
        (("Equalize", 0.8, 10), ("AutoContrast", 0.2, 10)),
        (("SolarizeAdd", 0.2, 2), ("TranslateY_BBox", 0.2, 8)),
        (("Sharpness", 0.0, 2), ("Color", 0.4, 8)),
        (("Equalize", 1.0, 8), ("TranslateY_BBox", 1.0, 8)),
        (("Posterize", 0.6, 2), ("Rotate_BBox", 0.0, 10)),
        (("AutoContrast", 0.6, 0), ("Rotate_BBox", 1.0, 6)),
        (("Equalize", 0.0, 4), ("Cutout", 0.8, 10)),
        (("Brightness", 1.0, 2), ("TranslateY_BBox", 1.0, 6)),
        (("Contrast", 0.0, 2), ("ShearY_BBox", 0.8, 0)),
        (("AutoContrast", 0.8, 10), ("Contrast", 0.2, 10)),
        (("Rotate_BBox", 1.0, 10), ("Cutout", 1.0, 10)),
        (("SolarizeAdd", 0.8, 6), ("Equalize", 0.8, 8)),
    ),
    "test": ((("TranslateX_BBox", 1.0, 4), ("Equalize", 1.0, 10)),),
}
POLICIES["v1"] = (
    *POLICIES["v0"],
    (("Color", 0.0, 0), ("ShearX_Only_BBoxes", 0.8, 4)),
    (("ShearY_Only_BBoxes", 0.8, 2), ("Flip_Only_BBoxes", 0.0, 10)),
    (("Equalize", 0.6, 10), ("TranslateX_BBox", 0.2, 2)),
    (("Color", 1.0, 10), ("TranslateY_Only_BBoxes", 0.4, 6)),
    (("Rotate_BBox", 0.8, 10), ("Contrast", 0.0, 10)),
    (("Cutout", 0.2, 2), ("Brightness", 0.8, 10)),
    (("Color", 1.0, 6), ("Equalize", 1.0, 2)),
    (("Cutout_Only_BBoxes", 0.4, 6), ("TranslateY_Only_BBoxes", 0.8, 2)),
    (("Color", 0.2, 8), ("Rotate_BBox", 0.8, 10)),
    (("Sharpness", 0.4, 4), ("TranslateY_Only_BBoxes", 0.0, 4)),
    (("Sharpness", 1.0, 4), ("SolarizeAdd", 0.4, 4)),
    (("Rotate_BBox", 1.0, 8), ("Sharpness", 0.2, 8)),
    (("ShearY_BBox", 0.6, 10), ("Equalize_Only_BBoxes", 0.6, 8)),
    (("ShearX_BBox", 0.2, 6), ("TranslateY_Only_BBoxes", 0.2, 10)),
    (("SolarizeAdd", 0.6, 8), ("Brightness", 0.8, 10)),
)

_MAX_LEVEL = 10
_NUM_COLOURS = 3

# Values at the highest level, from the paper's appendix and the Object Detection API.
_DEGREES = 30.0
_SHEAR = 0.3
_TRANSLATION = 250.0  # pixels
_TRANSLATION_IN_BOX = 120.0  # pixels
_CUTOUT = 100  # half a side in pixels
_CUTOUT_IN_BOX = 50
_CUTOUT_SHARE_OF_BOX = 0.75
_ONLY_BOXES_RARER = 3.0  # changes of single boxes are this much less likely than written, since there are many boxes


def autoaugment_image(example: Example, *, seed: tf.Tensor, policy_name: str = "v0") -> Example:
    """Applies one sequence of changes of a learned policy, drawn at random.

    Objects that are moved out of the image are dropped with all their fields; the Object Detection API keeps a thin box at
    the border for each.

    Args:
        example: image and objects.
        seed: [2] int32.
        policy_name: "v0" is the paper's; "v1", "v2", "v3" and "test" are the Object Detection API's.

    Returns:
        The example; its image has the type it had, and whole values.

    Raises:
        ValueError: if there is no such policy.
    """
    if policy_name not in POLICIES:
        raise ValueError(f'policy_name = "{policy_name}" is unknown. Allowed: {", ".join(sorted(POLICIES))}.')
    return apply_policy(example, POLICIES[policy_name], seed=seed)


def apply_policy(example: Example, policy: Policy, *, seed: tf.Tensor) -> Example:
    """Applies one of the sequences of changes, each as likely as the others."""
    choice_seed, change_seed = common.split(seed, 2)
    image = tf.cast(tf.clip_by_value(tf.cast(example.image, tf.float32), 0.0, 255.0), tf.uint8)

    def apply(changes: tuple[tuple[str, float, int], ...]) -> Example:
        changed = example._replace(image=image)
        for row, (name, probability, level) in enumerate(changes):
            if probability > 0:
                step_seed = tf.random.experimental.stateless_fold_in(change_seed, row)
                changed = _apply(changed, name, probability, level, step_seed)
        return changed

    index = common.random_integer(choice_seed, 0, len(policy))
    chosen = common.switch(index, [functools.partial(apply, changes) for changes in policy])
    return chosen._replace(
        image=tf.cast(tf.ensure_shape(chosen.image, [None, None, image.shape[-1]]), example.image.dtype)
    )


def _apply(example: Example, name: str, probability: float, level: int, seed: tf.Tensor) -> Example:
    """One change with its probability; by its `name` it works on the image or on the content of each box."""
    choice_seed, seed = common.split(seed, 2)
    if name.endswith("_Only_BBoxes"):
        change = _change_of_pixels(name.removesuffix("_Only_BBoxes"), level, is_in_box=True)
        return _change_boxes(example, change, probability / _ONLY_BOXES_RARER, seed)
    if name == "BBox_Cutout":
        changed: Callable[[], Example] = functools.partial(_cut_out_of_a_box, example, level, seed)
    elif name.endswith("_BBox"):
        changed = functools.partial(_move, example, name.removesuffix("_BBox"), level, seed)
    else:
        change = _change_of_pixels(name, level)
        changed = lambda: example._replace(image=change(example.image, seed))  # noqa: E731
    return common.choose(common.happens(choice_seed, probability), changed, lambda: example)


# Pixels ---------------------------------------------------------------------------------------------------------------

_Change = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From [H, W, F] uint8 and a seed to the same shape."""


def _change_of_pixels(name: str, level: int, *, is_in_box: bool = False) -> _Change:
    """A change that leaves boxes where they are, by the policies' name for it."""
    library = _library()
    share = level / _MAX_LEVEL
    factor = share * 1.8 + 0.1  # of "enhancements": below 1 less, above 1 more of it
    if name in _GEOMETRY:
        return lambda image, seed: warp.transform_pixels(
            image, _matrix(name, level, tf.shape(image), seed, is_in_box=is_in_box)
        )
    if name == "Cutout":
        half = int(share * (_CUTOUT_IN_BOX if is_in_box else _CUTOUT))
        return lambda image, seed: _cut_out(image, [0, 0], tf.shape(image)[:2], [half, half], seed)
    if name == "Flip":
        return lambda image, seed: tf.reverse(image, [1])
    changes: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
        "AutoContrast": library.autocontrast,
        "Equalize": library.equalize,
        "Posterize": lambda colours: library.posterize(colours, int(share * 4)),
        "Solarize": lambda colours: library.solarize(colours, int(share * 256)),
        "SolarizeAdd": lambda colours: library.solarize_add(colours, int(share * 110)),
        "Color": lambda colours: library.color(colours, factor),
        "Contrast": lambda colours: _contrast(colours, factor),
        "Brightness": lambda colours: library.brightness(colours, factor),
        "Sharpness": lambda colours: _sharpness(colours, factor),
    }
    return lambda image, seed: tf.concat([changes[name](image[..., :_NUM_COLOURS]), image[..., _NUM_COLOURS:]], axis=-1)


def _contrast(colours: tf.Tensor, factor: float) -> tf.Tensor:
    """Moves values away from, or towards, one gray: with this gray, not the mean, the policies were learned."""
    num_pixels = tf.cast(tf.reduce_prod(tf.shape(colours)[:2]), tf.float32)
    gray = tf.cast(tf.minimum(num_pixels / 256.0, 255.0), tf.uint8)
    return _library().blend(tf.fill(tf.shape(colours), gray), colours, factor)


def _sharpness(colours: tf.Tensor, factor: float) -> tf.Tensor:
    # A filter of 3 x 3 pixels; smaller images have no inner pixels that it would change.
    is_large = tf.reduce_min(tf.shape(colours)[:2]) >= 3
    return tf.cond(is_large, lambda: _library().sharpness(colours, factor), lambda: colours)


def _cut_out(image: tf.Tensor, begin: tf.Tensor, end: tf.Tensor, half: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Grays the rectangle that reaches `half` [2] pixels around a random pixel from `begin` [2] up to `end` [2]."""
    is_inside = []
    for axis, axis_seed in enumerate(common.split(seed, 2)):
        centre = common.random_integer(axis_seed, begin[axis], end[axis])
        positions = tf.range(tf.shape(image)[axis])
        is_inside.append((positions >= centre - half[axis]) & (positions < centre + half[axis]))
    rows, columns = is_inside
    return tf.where((rows[:, tf.newaxis] & columns)[..., tf.newaxis], tf.constant(GRAY, image.dtype), image)


def _cut_out_of_a_box(example: Example, level: int, seed: tf.Tensor) -> Example:
    """Grays a rectangle, a share of the box, around a random pixel of a random box."""
    box_seed, cut_seed = common.split(seed, 2)
    num_boxes = tf.shape(example.objects.boxes)[0]
    size = tf.shape(example.image)[:2]

    def cut() -> tf.Tensor:
        row = common.random_integer(box_seed, 0, num_boxes)
        begin, end = _pixels_of(example.objects.boxes[row], size)
        half = tf.cast(level / _MAX_LEVEL * _CUTOUT_SHARE_OF_BOX * tf.cast(end - begin, tf.float32) / 2.0, tf.int32)
        return _cut_out(example.image, begin, end, half, cut_seed)

    return example._replace(image=tf.cond(num_boxes > 0, cut, lambda: example.image))


def _change_boxes(example: Example, change: _Change, probability: float, seed: tf.Tensor) -> Example:
    """Changes the content of each box with a probability, one box after the other in random order."""
    order_seed, choice_seed, change_seed = common.split(seed, 3)
    boxes = example.objects.boxes
    num_boxes, size = tf.shape(boxes)[0], tf.shape(example.image)[:2]
    order = tf.argsort(tf.random.stateless_uniform([num_boxes], order_seed))
    is_changed = tf.random.stateless_uniform([num_boxes], choice_seed) < probability

    def change_one(step: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = order[step]

        def changed() -> tf.Tensor:
            begin, end = _pixels_of(boxes[row], size)
            content = image[begin[0] : end[0], begin[1] : end[1]]
            content = change(content, tf.random.experimental.stateless_fold_in(change_seed, row))
            paddings = tf.concat([tf.stack([begin, size - end], axis=-1), [[0, 0]]], axis=0)
            is_inside = tf.pad(tf.ones_like(content, tf.bool), paddings)
            return tf.where(is_inside, tf.pad(content, paddings), image)

        return step + 1, tf.cond(is_changed[row], changed, lambda: image)

    spec = tf.TensorShape([None, None, example.image.shape[-1]])
    _, image = tf.while_loop(
        lambda step, _: step < num_boxes,
        change_one,
        (tf.constant(0), example.image),
        shape_invariants=(tf.TensorShape([]), spec),
    )
    return example._replace(image=tf.ensure_shape(image, spec))


def _pixels_of(box: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """First and one after the last pixel, each [2] int32, that a normalized box touches; at least one pixel."""
    corners = tf.reshape(box, [2, 2]) * tf.cast(size, tf.float32)
    begin = tf.clip_by_value(tf.cast(tf.floor(corners[0]), tf.int32), 0, size - 1)
    return begin, tf.clip_by_value(tf.cast(tf.math.ceil(corners[1]), tf.int32), begin + 1, size)


# Pixels and boxes -----------------------------------------------------------------------------------------------------

_GEOMETRY = ("TranslateX", "TranslateY", "ShearX", "ShearY", "Rotate")


def _move(example: Example, name: str, level: int, seed: tf.Tensor) -> Example:
    """Moves pixels and boxes together; what comes from outside is gray, objects that leave the image are dropped."""
    matrix = _matrix(name, level, tf.shape(example.image)[:2], seed)
    return warp.apply(Warp(matrix=matrix), example)


def _matrix(name: str, level: int, size: tf.Tensor, seed: tf.Tensor, *, is_in_box: bool = False) -> tf.Tensor:
    """[3, 3] float32, from (x, y, 1) in the result to the place in the image of `size` that it shows; either direction."""
    sign = tf.where(common.happens(seed, 0.5), 1.0, -1.0)
    amount = sign * level / _MAX_LEVEL
    zero, one = tf.zeros([]), tf.ones([])
    if name.startswith("Translate"):
        shift = amount * (_TRANSLATION_IN_BOX if is_in_box else _TRANSLATION)
        x, y = (shift, zero) if name == "TranslateX" else (zero, shift)
        rows = [[one, zero, x], [zero, one, y]]
    elif name.startswith("Shear"):
        x, y = (amount * _SHEAR, zero) if name == "ShearX" else (zero, amount * _SHEAR)
        rows = [[one, x, zero], [y, one, zero]]
    else:
        angle = amount * _DEGREES * math.pi / 180.0
        cos, sin = tf.cos(angle), tf.sin(angle)
        y, x = tf.unstack((tf.cast(size[:2], tf.float32) - 1.0) / 2.0)  # the middle of the pixels' centres
        rows = [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]
    return tf.stack([*(tf.stack(row) for row in rows), tf.constant([0.0, 0.0, 1.0])])


def _library() -> Any:
    """`official.vision.ops.augment`, only when a policy is asked for: the import takes seconds."""
    from official.vision.ops import augment

    return augment
