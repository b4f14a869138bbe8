"""Predictors of other classes: which of them are the same classes by name, and their columns put where they belong.

Classes count from 0, without background: class c of a model is id c + 1 of its label map. A class has all the names under which
a label map knows it, best first; one without names never occurs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from object_detection_fpn.modeling.detector import ClassColumns
from object_detection_fpn.training.weights import WeightsReport, variables_by_path

_LOGGER = logging.getLogger(__name__)

Names = Sequence[str]
"""Of one class."""

KeysOf = Callable[[Names], set[str]]
"""What names of a class are compared by."""

# From strict to lenient: the first name, any name, any name without case and blanks.
_COMPARISONS: tuple[KeysOf, ...] = (
    lambda names: set(names[:1]),
    lambda names: set(names),
    lambda names: {"".join(name.split()).casefold() for name in names},
)


class MatchedClasses(NamedTuple):
    """Which classes of a checkpoint are which classes here."""

    sources: np.ndarray
    """[C] int64: for each class here, the class there that it is; -1 where there is none."""
    here: Sequence[Names]
    """Names of the C classes here."""
    there: Sequence[Names]
    """Names of the classes of the checkpoint."""

    @property
    def is_same(self) -> bool:
        """Whether both sides have the same classes in the same order."""
        return len(self.here) == len(self.there) and np.array_equal(self.sources, np.arange(len(self.here)))

    @property
    def kept(self) -> list[str]:
        """The first names of the classes here that are there as well."""
        return [names[0] for names, source in zip(self.here, self.sources, strict=True) if names and source >= 0]

    @property
    def text(self) -> str:
        """For people: which of the classes that have a name are kept, and which are not."""
        drawn = [names[0] for names, source in zip(self.here, self.sources, strict=True) if names and source < 0]
        text = f"{len(self.kept)} of {len(self.kept) + len(drawn)} classes kept by name"
        text += f": {', '.join(self.kept)}" if self.kept else ""
        return text + (f"; from first values: {', '.join(drawn)}" if drawn else "")


def match_classes(here: Sequence[Names], there: Sequence[Names]) -> MatchedClasses:
    """Finds the classes whose names agree.

    Names agree first as they are written, then without regard to case and blanks. A name that two classes of one side share
    decides nothing. Classes of one number that have no name on either side are taken for the same: they never occur.

    Args:
        here: names of each class of the model.
        there: names of each class of the checkpoint.
    """
    sources = np.full([len(here)], -1, np.int64)
    for keys_of in _COMPARISONS:
        mine = _by_key(here, keys_of, free=[c for c in range(len(here)) if sources[c] < 0])
        theirs = _by_key(there, keys_of, free=set(range(len(there))) - set(sources.tolist()))
        pairs = {(mine[key], theirs[key]) for key in mine.keys() & theirs.keys()}
        for c, source in pairs:
            # Two names of one class may lead to two classes.
            if sum(c == other for other, _ in pairs) == 1 and sum(source == other for _, other in pairs) == 1:
                sources[c] = source
    for c in range(min(len(here), len(there))):
        if not here[c] and not there[c]:
            sources[c] = c
    return MatchedClasses(sources, here, there)


def _by_key(classes: Sequence[Names], keys_of: KeysOf, free: Iterable[int]) -> dict[str, int]:
    """{key: the only one of the `free` classes that has it}."""
    found: dict[str, list[int]] = {}
    for c in free:
        for key in keys_of(classes[c]):
            found.setdefault(key, []).append(c)
    return {key: numbers[0] for key, numbers in found.items() if len(numbers) == 1}


def move_columns(
    stored: np.ndarray,
    drawn: np.ndarray,
    sources: np.ndarray,
    *,
    num_columns: int,
    has_background: bool,
    num_groups: int = 1,
) -> np.ndarray:
    """Puts the columns of a checkpoint's classes where the model has these classes.

    Args:
        stored: [..., N] of the checkpoint: of the background if there is one, then of its classes in order.
        drawn: [..., M] of the model, which classes without source keep.
        sources: [C] int, as `MatchedClasses.sources`.
        num_columns: of each class.
        has_background: one more class in front, which is kept.
        num_groups: how often all these follow one after the other.

    Returns:
        [..., M].

    Raises:
        ValueError: if a source is beyond the stored classes, or the columns are not those of C classes.
    """
    first = int(has_background)
    rows = np.concatenate([np.zeros([first], np.int64), np.where(sources >= 0, sources + first, -1)])
    num_stored = stored.shape[-1] // (num_columns * num_groups)
    if len(rows) * num_columns * num_groups != drawn.shape[-1] or rows.max(initial=0) >= num_stored:
        raise ValueError(f"{len(sources)} classes do not fit {list(drawn.shape)} <- {list(stored.shape)}.")
    moved = np.array(drawn).reshape(*drawn.shape[:-1], num_groups, len(rows), num_columns)
    old = np.asarray(stored).reshape(*stored.shape[:-1], num_groups, num_stored, num_columns)
    moved[..., rows >= 0, :] = old[..., rows[rows >= 0], :]
    return moved.reshape(drawn.shape)


class MovedClasses(NamedTuple):
    """Weights of a checkpoint whose predictors were made to fit the classes of a model."""

    weights: Mapping[str, Any]
    """{path of a variable: array}, all that the checkpoint has."""
    partly: Sequence[str]
    """The paths of those of which only some columns are the checkpoint's."""
    text: str
    """For people: which classes were kept; empty if the checkpoint has nothing of any class."""

    def described(self, report: WeightsReport) -> WeightsReport:
        """The report of their assignment, which also says this."""
        restored = [path for path in report.restored if path not in self.partly]
        by_class = [path for path in report.restored if path in self.partly]
        return report._replace(restored=restored, by_class=by_class, classes=self.text)


def move_classes(
    weights: Mapping[str, Any],
    model: Any,
    columns: Mapping[str, ClassColumns],
    *,
    here: Sequence[Names],
    there: Sequence[Names],
    source: str,
) -> MovedClasses:
    """Makes the weights of predictors that were trained for other classes fit a model's, by the names of the classes.

    Args:
        weights: {path of a variable: array}, of the checkpoint.
        model: the model, built; its predictors' present values are what new classes keep.
        columns: {path of a layer: what its last axis holds of each class}, of the model.
        here: names of each class of the label map here.
        there: names of each class of the checkpoint's label map.
        source: the checkpoint, for warnings.
    """
    variables = variables_by_path(model)
    layers = {path: columns[name] for path in variables if (name := path.rpartition("/")[0]) in columns}
    stored = {path: layer for path, layer in layers.items() if path in weights}
    num_here, num_there = _num_classes(variables, layers), _num_classes(weights, stored)
    if num_here is None or num_there is None:
        return MovedClasses(weights, (), "")
    if len(there) != num_there:
        _LOGGER.warning("%s: this checkpoint has %d classes, its label map %d.", source, num_there, len(there))
    matched = match_classes(_fit(here, num_here), _fit(there, num_there))
    moved, partly = dict(weights), []
    for path, layer in stored.items():
        array, variable = weights[path], variables[path]
        is_of_classes = layer.num_columns and array.shape[-1] == _width(layer, num_there)
        # What all classes share, here or there, and what has another width of the head, fits as it is or not at all.
        if is_of_classes and not matched.is_same and tuple(array.shape[:-1]) == tuple(variable.shape[:-1]):
            moved[path] = move_columns(
                np.asarray(array),
                variable.numpy(),
                matched.sources,
                num_columns=layer.num_columns,
                has_background=layer.has_background,
                num_groups=layer.num_groups,
            )
            partly.append(path)
    if not matched.kept:
        _LOGGER.warning(
            "%s: no class of this checkpoint has the name of a class here. The first one is %s there, and %s here.",
            source,
            _first(there),
            _first(here),
        )
    return MovedClasses(moved, partly, matched.text if partly or matched.is_same else "")


def _num_classes(arrays: Mapping[str, Any], layers: Mapping[str, ClassColumns]) -> int | None:
    """Classes without background, by the first layer that has columns of each class, and of the background if any has."""
    with_columns = {path: layer for path, layer in layers.items() if layer.num_columns}
    with_background = {path: layer for path, layer in with_columns.items() if layer.has_background}
    for path, layer in (with_background or with_columns).items():
        return int(arrays[path].shape[-1]) // (layer.num_columns * layer.num_groups) - layer.has_background
    return None


def _width(layer: ClassColumns, num_classes: int) -> int:
    """Columns of a layer of that many classes."""
    return (num_classes + layer.has_background) * layer.num_columns * layer.num_groups


def _fit(classes: Sequence[Names], num: int) -> list[Names]:
    """Names of `num` classes: those beyond are left out, those that a label map lacks have none."""
    return [*classes[:num], *[()] * (num - len(classes))]


def _first(classes: Sequence[Names]) -> str:
    return next((f'"{names[0]}"' for names in classes if names), "without name")
