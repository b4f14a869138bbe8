"""Weight transfer: how the mask of a class is predicted, computed from how its box is (Mask^X R-CNN, Hu et al. 2018)."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers

_LEAK = 0.1  # of LeakyReLU, Hu et al. 2018, section 3.1


class WeightTransfer(tf_keras.layers.Layer):
    """Predicts a 1 x 1 kernel for each class: fully connected, LeakyReLU, fully connected (Hu et al. 2018, section 3.1).

    Call: [C, E], of each class the weights that score it and those that refine its box -> [C, F]. No gradient reaches these
    weights, which are to detect boxes.

    Args:
        in_units: E.
        num_hidden: units between.
        out_units: F.
        spec: initialization, regularization and execution.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        in_units: int,
        num_hidden: int = 256,
        out_units: int = 256,
        spec: layers.LayerSpec,
        name: str = "transfer",
    ):
        # float32 even in bfloat16 training: few numbers decide on all masks of a class.
        super().__init__(name=name, dtype="float32")
        self._in_units, self._num_hidden = in_units, num_hidden

        def make_dense(units: int, name: str) -> tf_keras.layers.Dense:
            return tf_keras.layers.Dense(
                units,
                kernel_initializer=spec.make_initializer(),
                kernel_regularizer=spec.regularizer,
                dtype="float32",
                name=name,
            )

        self.fc1, self.fc2 = make_dense(num_hidden, "fc1"), make_dense(out_units, "fc2")
        layers.build(self, (None, in_units))

    def build(self, _: tf.TensorShape) -> None:
        layers.build(self.fc1, (None, self._in_units))
        layers.build(self.fc2, (None, self._num_hidden))

    def call(self, class_weights: tf.Tensor) -> tf.Tensor:
        return self.fc2(tf.nn.leaky_relu(self.fc1(tf.stop_gradient(class_weights)), alpha=_LEAK))
