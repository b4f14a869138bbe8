"""How a model is computed: one record for what is not part of the model itself."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model is computed. Whatever it says, the model has the same variables and, up to rounding, the same results.

    Attributes:
        dtype: dtype policy of the layers, "float32", "mixed_bfloat16" or "mixed_float16".
        static: operations of static shape, which XLA compiles, in place of the native kernels of CPU and GPU.
        jit_compile: XLA compiles the step on CPU and GPU too; needs `static`. (A TPU compiles whatever this says.)
        winograd: 3 x 3 convolutions of pyramid and heads in float32 by `ops.winograd` where that is faster: on a CPU.
        recomputed_stages: of how many stages of the backbone, from the finest, the inside is computed again for the gradient
            instead of being kept.
        portable: operations that other runtimes have too, LiteRT and ONNX's, in place of those that TensorFlow alone has; what
            overlaps is still dropped by a kernel, which they have. For inference.
        is_restored: kernels of convolutions stay zero until a checkpoint gives them their values; drawing them takes two
            fifths of the time of building a model.

    Raises:
        ValueError: if `jit_compile` is asked for without `static`.
    """

    dtype: str = "float32"
    static: bool = False
    jit_compile: bool = False
    winograd: bool = False
    recomputed_stages: int = 0
    portable: bool = False
    is_restored: bool = False

    def __post_init__(self) -> None:
        if self.jit_compile and not self.static:
            raise ValueError("jit_compile = True with static = False: XLA compiles operations of static shape only.")
