"""What devices can do at most, from the data sheets of their makers."""

from typing import NamedTuple


class Peak(NamedTuple):
    """The peak of one device.

    Attributes:
      flops: dense bfloat16 FLOPs a second.
      bytes: that its memory moves in a second.
    """

    flops: float
    bytes: float


# By JAX's name of the device. NVIDIA H100 (SXM), H200 and A100 Tensor Core GPU; Google Cloud TPU
# system architecture.
PEAKS = {
    "NVIDIA H100 80GB HBM3": Peak(989e12, 3.35e12),
    "NVIDIA H200": Peak(989e12, 4.8e12),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 1.555e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 2.039e12),
    "TPU v4": Peak(275e12, 1.228e12),
    "TPU v5 lite": Peak(197e12, 0.819e12),
    "TPU v5": Peak(459e12, 2.765e12),
    "TPU v5p": Peak(459e12, 2.765e12),
}
