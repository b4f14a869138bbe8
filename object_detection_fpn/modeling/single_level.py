"""The features of Faster R-CNN on one map: stages of a backbone on both sides of the RoIs (He et al. 2015, appendix A).

The stages up to stride 16 see the image, and the last one sees each RoI. The detector takes the map for a pyramid of one level.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling.fpn import Pyramid


class SingleLevel(Pyramid):
    """Gives one level of the backbone as it is, and has no variables.

    Call: {level: [B, H_l, W_l, F_l]} -> tuple of [B, H, W, F], one entry.

    Args:
        in_filters: {level: F_l} of the backbone.
        level: which one, usually 4, of stride 16.
        dtype: policy of the layer.
        name: of the layer.
    """

    def __init__(self, *, in_filters: dict[int, int], level: int, dtype: str = "float32", name: str = "fpn"):
        num_filters = in_filters.get(level, 0)  # a backbone without that level is refused
        super().__init__(
            in_filters=in_filters, min_level=level, max_level=level, num_filters=num_filters, dtype=dtype, name=name
        )
        self.built = True

    def call(self, features: dict[int, tf.Tensor], training: bool) -> tuple[tf.Tensor, ...]:
        return (features[self.min_level],)


class LastStage(tf_keras.layers.Layer):
    """Second-stage features of each RoI: the last stage of a backbone over its cells.

    Call: [N, S, S, F] -> [N, `output_size`, `output_size`, `num_units`]; the predictors see the mean over the cells.

    Args:
        network: the stage, see `Backbone.split_last_stage`.
        in_size: S.
        is_frozen: the stage does not train: its statistics stay, and no gradient goes through it.
        dtype: policy of the layer.
        name: of the layer.
    """

    def __init__(
        self,
        network: tf_keras.Model,
        *,
        in_size: int,
        is_frozen: bool = False,
        dtype: str = "float32",
        name: str = "last_stage",
    ):
        super().__init__(name=name, dtype=dtype)
        self.network = network
        _, self.output_size, _, self.num_units = network.compute_output_shape(
            (1, in_size, in_size, network.input_shape[-1])
        )
        self._is_frozen = is_frozen
        self.built = True  # the backbone made its variables

    @property
    def parts(self) -> list[tf_keras.layers.Layer]:
        """Its layers, in their order in the network."""
        return self.network.layers

    def call(self, roi_features: tf.Tensor, training: bool) -> tf.Tensor:
        if self._is_frozen:
            return tf.stop_gradient(self.network(roi_features, training=False))
        return self.network(roi_features, training=training)
