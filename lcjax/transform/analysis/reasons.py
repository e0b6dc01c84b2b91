"""Why a Dense that feeds another is not a site: one member for every cause."""

from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """What prevents a site; the value is the text, with places for the fields of a `Reason`."""

    LINEAR = "only linear steps are between them, so there is no activation"
    NOT_BY_UNIT = "`{op}` is between, which does not act on each unit alone"
    MERGES = "`{op}` is between, which merges or splits axes of tokens or units"
    SUM = "a norm, softmax or pooling over units or tokens is between"
    REDUCTION = "a norm, softmax or pooling over units or tokens is between (`{op}`)"
    OTHER = "another value enters, which comes from no Dense"
    OTHER_STATISTICS = (
        "another value enters, which comes from no Dense (statistics of a norm fold in where they "
        "are given with the params or has_state=True)"
    )
    UNITS = "the Dense after it does not sum over the units of the one before, or over more"
    TWO_DENSES = "it depends on the outputs of two Dense layers and is not value times gate"
    SEVERAL = "it depends on the outputs of several Dense layers"
    TWO_PARTS = "it multiplies two parts of a Dense's output, and neither is linear in that output"
    ONE_KERNEL = (
        "gate and value are parts of one product, cut in a way that is not looked through. Cut one "
        "axis into two ranges, as jnp.split and x[..., 0, :] do, or give each its own kernel"
    )
    BY_TOKEN = (
        "`{op}` brings in values that differ from token to token, such as a bias by position or a "
        "norm along another axis, which do not fold into a Dense"
    )
    UNFOLDED = "`{op}` next to the activation is linear and does not fold into a scale and a bias"
    STOPPED = (
        "a `stop_gradient` keeps the layers before it from training, which one fused Dense cannot "
        "do"
    )
    FROZEN = "the kernel {which} it is under `stop_gradient`, and a fused kernel would train"
    COMPUTED = "the kernel {which} it is computed from params and is not itself one of them"
    LORA = (
        "a LoRA product is added to the product with the kernel {which} it. Merge it into the "
        "kernel: collapse, then add LoRA to the compact model"
    )
    QUANTIZED = (
        "the kernel {which} it is quantized (stored as {dtype}). Collapse the float kernels first, "
        "then quantize the compact ones"
    )
    DTYPE = "the kernel {which} it is stored as {dtype}, and only real floats fuse"
    PICKED = "a loop counter indexes it. Pass the layers to lax.scan as `xs`, or unroll the loop"
    LOOPS = "the two Dense layers are in different loops, or only one of them in a branch"
    LAYERS = "one kernel belongs to one layer of a scan and the other to all of them"
    JOINED_BY_LAYER = "a bias or norm differs by layer of a scan, and the kernels do not"
    NESTED = "it is inside the gate of another site"
    TIED = "the kernel before it is used elsewhere too (tied weights)"
    ONE_LEAF = "the kernel {which} it is a part of {leaf}, of which other layers are parts too"
    BOTH_PARTS = "the kernels before and after it are parts of one leaf, {leaf}"
    BOTH_SIDES = "the kernel {leaf} is used on both sides of it (tied weights)"
    UNOPENED = "lcjax does not look inside it. It does for scan, while, cond, remat and jit"
    SHARDED = (
        "its body sees parts of the arrays, one on each device. Give the function without "
        "jax.shard_map to lcjax, and shard params and inputs for jax.jit"
    )
    BATCHED = (
        "one of the kernels is stacked along a batch axis, one for every expert, member or "
        "position, and the other is not stacked alike"
    )
    RAGGED = (
        "`{op}` multiplies each group of tokens by the kernel of its own expert, in groups that "
        "the data chooses; only experts of equally many tokens, as in jnp.einsum, are rewritten"
    )
    GATHERED = "`{op}` selects its kernel by a value of the data, as one expert for every token"
    HIDDEN_USED = "its hidden value is used elsewhere too, by `{op}`"
    HIDDEN_RETURNED = "its hidden value is returned by the function"
    KERNEL_USED = "the kernel {which} it, {leaf}, is used elsewhere too, by `{op}` (tied weights)"
    KERNEL_RETURNED = (
        "the kernel {which} it, {leaf}, is returned by the function (return only what changes)"
    )
    FOLDED_USED = "{leaf}, which fusing would fold in, is used elsewhere too, by `{op}`"
    FOLDED_RETURNED = "{leaf}, which fusing would fold in, is returned by the function"


@dataclass(frozen=True)
class Reason:
    """A cause, with what it refers to; prints as a clause.

    Attributes:
      cause: the cause.
      op: name of the operation that is in the way.
      leaf: path of the leaf of the params that is concerned.
      which: whether it is the kernel "before" or "after" the activation.
      dtype: of the kernel.
    """

    cause: Cause
    op: str = ""
    leaf: str = ""
    which: str = ""
    dtype: str = ""

    def __str__(self) -> str:
        """Returns the text."""
        return self.cause.value.format(**vars(self))


# A path in the params and why there is no site.
Rejected = tuple[str, Reason]
