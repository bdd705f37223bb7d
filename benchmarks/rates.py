"""What a machine allows: the rates of its arithmetic and of its memory, as torch reaches them in the same run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Measured limits.

    Attributes:
        float32: GFLOP/s of a product without TF32.
        float64: GFLOP/s of a product; on a CPU half of float32.
        float16: GFLOP/s of a product on tensor cores; 0 on a CPU, where nothing is held against it.
        copy: GB/s of a copy, bytes read and bytes written.
    """

    float32: float
    float64: float
    float16: float
    copy: float

    def gflops(self, arithmetic: str) -> float:
        """GFLOP/s that an arithmetic allows: float32, float64, or one or three fp16 products on tensor cores.

        Three products make one of float32's precision; their flop are counted once.
        """
        return {
            "float32": self.float32,
            "float64": self.float64,
            "one fp16 product": self.float16,
            "three fp16 products": self.float16 / 3,
        }[arithmetic]
