"""The networks of two image presets in PyTorch, with lcjax's names of modules."""

from collections import OrderedDict
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from lcjax.tree.paths import leaf_path
from train.tasks.image.model import AnyModel, MixerConfig, MLPConfig


def chain(*widths: int) -> nn.Sequential:
    """Returns linear layers of these widths, with ReLUs between them."""
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        children[f"dense_{i}"] = nn.Linear(inputs, outputs)
        if i < len(widths) - 2:
            children[f"act_{i}"] = nn.ReLU()
    return nn.Sequential(children)


class Perceptron(nn.Module):
    """An MLP on flattened images."""

    def __init__(self, config: MLPConfig, image_shape: tuple[int, ...], classes: int):
        super().__init__()
        self.mlp = chain(int(np.prod(image_shape)), *config.hidden, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits (batch, classes) of images (batch, height, width, channels)."""
        return self.mlp(images.flatten(1))


class Block(nn.Module):
    """A Mixer block: mixes tokens, then channels."""

    def __init__(self, config: MixerConfig, tokens: int):
        super().__init__()
        width = config.width
        self.norm_1 = nn.LayerNorm(width, eps=1e-6)
        self.mlp_1_tokens = chain(tokens, config.token_hidden, tokens)
        self.norm_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp_2_channels = chain(width, config.channel_hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (batch, tokens, width) to the same shape."""
        x = x + self.mlp_1_tokens(self.norm_1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_2_channels(self.norm_2(x))


class Mixer(nn.Module):
    """MLP-Mixer: patch embedding, blocks, layer norm, mean over tokens, head."""

    def __init__(self, config: MixerConfig, image_shape: tuple[int, ...], classes: int):
        super().__init__()
        height, width, channels = image_shape
        self.edge, self.depth = config.patch_size, config.depth
        tokens = height // self.edge * (width // self.edge)
        self.patches = nn.ModuleDict({"project": nn.Linear(self.edge**2 * channels, config.width)})
        for i in range(config.depth):
            self.add_module(f"block_{i}", Block(config, tokens))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits (batch, classes) of images (batch, height, width, channels)."""
        batch, height, width, channels = images.shape
        edge = self.edge
        tiles = images.reshape(batch, height // edge, edge, width // edge, edge, channels)
        x = self.patches["project"](
            tiles.transpose(2, 3).reshape(batch, -1, edge * edge * channels)
        )
        for i in range(self.depth):
            x = self.get_submodule(f"block_{i}")(x)
        return self.head(self.norm(x).mean(1))


def build(config: AnyModel, image_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Returns the network of a configuration, with ReLUs.

    Raises:
      TypeError: for other networks than MLPs and Mixers.
    """
    if isinstance(config, MLPConfig):
        return Perceptron(config, image_shape, classes)
    if isinstance(config, MixerConfig):
        return Mixer(config, image_shape, classes)
    raise TypeError(f"got {type(config).__name__}, expected MLPConfig or MixerConfig.")


def state_of(params: Any) -> dict[str, np.ndarray]:
    """Returns lcjax's params by PyTorch's names: kernels transposed, slopes of shape (1,)."""
    state = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        owner, _, name = leaf_path(keys).rpartition("/")
        value = np.asarray(leaf)
        if name == "kernel":
            value = value.reshape(-1, value.shape[-1]).T
        name = "bias" if name == "bias" else "weight"
        state[f"{owner.replace('/', '.')}.{name}"] = np.atleast_1d(value)
    return state


def load(network: nn.Module, params: Any) -> None:
    """Copies lcjax's params into a network, without the slopes of its ReLUs.

    Raises:
      RuntimeError: for a missing tensor or another shape.
    """
    own = network.state_dict()
    state = {name: torch.tensor(value) for name, value in state_of(params).items() if name in own}
    network.load_state_dict(state)
