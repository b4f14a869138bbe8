"""Finds anchors that cover more boxes: as many as before, of other sizes and aspect ratios.

The number of anchors of a cell stays, and with it the shape of the heads and the time of a step. Nothing is random: the same
boxes give the same anchors. Letters: N boxes, S sizes, Q aspect ratios that are tried.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from object_detection_fpn.protos import anchor_generator_pb2
from object_detection_fpn.tools.inspect.anchors import best_ious, share
from object_detection_fpn.tools.inspect.layout import AnchorLayout

_MOST_BOXES = 3000  # that are looked at, at equal distances among all
_MOST_SETS = 1000  # of sizes or aspect ratios that are tried at once; of more, those that differ from the best in one
_MOST_STARTS = 20
_RATIOS = (0.2, 0.25, 0.33, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0)
_STEPS_PER_OCTAVE = 4
_OCTAVES = 2  # by which sizes may differ from those of the config
_MIN_SIDE = 2.0  # pixels of the smallest anchor

Choice = tuple[tuple[int, ...], tuple[int, ...]]
"""Rows of the sizes, and of the aspect ratios."""


class Score(NamedTuple):
    """What is made as great as possible: the first number first.

    Shares are counted in steps: for less than one, sizes do not change, nor objects go to other levels.
    """

    covered_50: int
    """Steps of 0.2 %."""
    covered_70: int
    """Steps of 5 %."""
    nearness: float
    """Minus the octaves between the size and that of the config."""
    mean_iou: float


_STEP_50, _STEP_70 = 0.002, 0.05
_ROUNDING = 1e-9


def search(
    layout: AnchorLayout, boxes: np.ndarray, image_sizes: np.ndarray
) -> anchor_generator_pb2.AnchorGenerator | None:
    """Anchors that cover as many boxes at IoU 0.5 as can be, and of equal ones those of the size nearest to the config's.

    Args:
        layout: the anchors of the config.
        boxes: [N, 4] pixels at the training size.
        image_sizes: [N, 2] of their padded images.

    Returns:
        The message of the anchors; None without boxes, or where none of those that are tried are better.
    """
    if not len(boxes):
        return None
    rows = np.unique(np.linspace(0, len(boxes) - 1, min(len(boxes), _MOST_BOXES)).round().astype(int))
    boxes, image_sizes = boxes[rows], image_sizes[rows]
    ratios, present_ratios = _with_present(_RATIOS, _ratios_of(layout.generator))
    sizes, present_sizes = _sizes(layout)
    ious = _ious(layout, sizes, ratios, boxes, image_sizes)
    present: Choice = (present_sizes, present_ratios)
    # Of a pyramid; the scales of one map are a choice without order.
    changes = np.zeros([len(sizes)]) if layout.is_grid else np.abs(np.log2(np.array(sizes) / sizes[present_sizes[0]]))
    best = choose(ious, present, changes)
    if score(ious, best, changes) <= score(ious, present, changes):
        return None
    return _with_anchors(layout, [sizes[row] for row in best[0]], [ratios[row] for row in best[1]]).generator


def choose(ious: np.ndarray, present: Choice, changes: np.ndarray) -> Choice:
    """The sizes and aspect ratios of the best score: each in turn is chosen anew until nothing changes, from several starts.

    Args:
        ious: [S, Q, N], the best IoU of each box with anchors of one size and one aspect ratio.
        present: those of the config, the first start; so many of both are chosen.
        changes: [S], octaves between each size and that of the config.
    """
    all_sizes = _sets(ious.shape[0], present[0])
    step = max(1, -(-len(all_sizes) // _MOST_STARTS))
    starts = [present, *((sizes, present[1]) for sizes in all_sizes[::step])]
    best, best_score = present, score(ious, present, changes)
    for start in starts:
        found, found_score = start, score(ious, start, changes)
        while True:
            of_sizes = ious[list(found[0])].max(axis=0)  # [Q, N]
            ratios = _best(of_sizes, _sets(ious.shape[1], found[1]), np.zeros([ious.shape[1]]))
            of_ratios = ious[:, list(ratios)].max(axis=1)  # [S, N]
            sizes = _best(of_ratios, _sets(ious.shape[0], found[0]), changes)
            new_score = score(ious, (sizes, ratios), changes)
            if new_score <= found_score:
                break
            found, found_score = (sizes, ratios), new_score
        if found_score > best_score:
            best, best_score = found, found_score
    return best


def score(ious: np.ndarray, choice: Choice, changes: np.ndarray) -> Score:
    """The score of sizes and aspect ratios; the other arguments as for `choose`."""
    of_sizes = ious[np.ix_(*map(list, choice))].max(axis=1)  # [chosen sizes, N]
    return _score(of_sizes, changes[list(choice[0])])


def _best(ious: np.ndarray, sets: Sequence[tuple[int, ...]], changes: np.ndarray) -> tuple[int, ...]:
    """The set of rows of `ious` [any, N] of the best score."""
    return max(sets, key=lambda rows: _score(ious[list(rows)], changes[list(rows)]))


def _score(ious: np.ndarray, changes: np.ndarray) -> Score:
    """Of anchors whose IoUs with the boxes are rows [any, N]."""
    best = ious.max(axis=0)
    return Score(
        int(share(best >= 0.5) / _STEP_50 + _ROUNDING),
        int(share(best >= 0.7) / _STEP_70 + _ROUNDING),
        -float(changes.max()),
        float(best.mean()),
    )


def _sets(num: int, present: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Sets of as many of `num` rows as there are in `present`; where these are too many, those that differ from it in one."""
    if math.comb(num, len(present)) <= _MOST_SETS:
        return list(itertools.combinations(range(num), len(present)))
    others = [row for row in range(num) if row not in present]
    changed = [(*present[:i], row, *present[i + 1 :]) for i in range(len(present)) for row in others]
    return [tuple(sorted(rows)) for rows in (present, *changed)]


def _ratios_of(generator: anchor_generator_pb2.AnchorGenerator) -> list[float]:
    return list(getattr(generator, generator.WhichOneof("anchor_generator_oneof")).aspect_ratios)


def _with_present(tried: Sequence[float], present: Sequence[float]) -> tuple[list[float], tuple[int, ...]]:
    """The values to try with those of the config among them, in order, and the rows of these."""
    others = [value for value in tried if not any(math.isclose(value, each, rel_tol=0.02) for each in present)]
    values = sorted({*present, *others})
    return values, tuple(values.index(value) for value in present)


def _sizes(layout: AnchorLayout) -> tuple[list[float], tuple[int, ...]]:
    """`anchor_scale`s or `scales` to try, and the rows of those of the config."""
    if layout.is_grid:
        grid = layout.generator.grid_anchor_generator
        present, side = list(grid.scales), min(grid.height, grid.width)
    else:
        present, side = [layout.generator.multiscale_anchor_generator.anchor_scale], 2**layout.min_level
    num_steps = _OCTAVES * _STEPS_PER_OCTAVE
    exponents = [step / _STEPS_PER_OCTAVE for step in range(-num_steps, num_steps + 1)]
    if layout.is_grid:  # from the smallest to the largest: half as fine, for they are many
        low, high = math.log2(min(present)) - _OCTAVES, math.log2(max(present)) + _OCTAVES
        exponents = [low + step / 2 for step in range(round((high - low) * 2) + 1)]
        tried = [2.0**exponent for exponent in exponents]
    else:
        tried = [present[0] * 2.0**exponent for exponent in exponents]
    return _with_present([float(f"{value:.3g}") for value in tried if value * side >= _MIN_SIDE], present)


def _with_anchors(layout: AnchorLayout, sizes: Sequence[float], ratios: Sequence[float]) -> AnchorLayout:
    """A copy with other anchors; a pyramid takes one size."""
    model = type(layout.model)()
    model.CopyFrom(layout.model)
    changed = AnchorLayout(model, layout.min_level, layout.max_level, layout.pad_to_multiple, layout.borders)
    if layout.is_grid:
        changed.generator.grid_anchor_generator.scales[:] = sizes
        changed.generator.grid_anchor_generator.aspect_ratios[:] = ratios
    else:
        (changed.generator.multiscale_anchor_generator.anchor_scale,) = sizes
        changed.generator.multiscale_anchor_generator.aspect_ratios[:] = ratios
    return changed


def with_generator(layout: AnchorLayout, generator: anchor_generator_pb2.AnchorGenerator) -> AnchorLayout:
    """A copy with the anchors of a message."""
    changed = _with_anchors(layout, [1.0], [1.0])
    changed.generator.CopyFrom(generator)
    return changed


def _ious(
    layout: AnchorLayout,
    sizes: Sequence[float],
    ratios: Sequence[float],
    boxes: np.ndarray,
    image_sizes: np.ndarray,
) -> np.ndarray:
    """[S, Q, N] float32: see `choose`. Of a pyramid all levels and sizes within an octave count."""
    grids = layout.grids(image_sizes)
    ious = np.empty([len(sizes), len(ratios), len(boxes)], np.float32)
    for row, size in enumerate(sizes):
        for column, ratio in enumerate(ratios):
            shapes = _with_anchors(layout, [size], [ratio]).shapes()
            ious[row, column] = best_ious(boxes, image_sizes, grids, shapes, layout.borders).max(axis=1)
    return ious
