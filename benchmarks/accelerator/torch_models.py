"""The models of the benchmark in PyTorch, with the same numbers of parameters."""

from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from lcjax.models import BERT, GPT2, Decoder, ViT


class GatedMLP(nn.Module):
    """SwiGLU without biases."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (batch, length, width) to the same shape."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


def mlp(width: int, hidden: int, approximate: str = "none") -> nn.Module:
    """Returns two linear layers with a GELU between them."""
    gelu = nn.GELU(approximate=approximate)
    return nn.Sequential(nn.Linear(width, hidden), gelu, nn.Linear(hidden, width))


class Attention(nn.Module):
    """Self-attention by `scaled_dot_product_attention`, perhaps with rotary positions."""

    def __init__(self, width: int, heads: int, *, causal: bool, rotary: bool = False):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=not rotary)
        self.out = nn.Linear(width, width, bias=not rotary)
        self.heads, self.causal, self.rotary = heads, causal, rotary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (batch, length, width) to the same shape."""
        batch, length, width = x.shape
        split = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Returns queries or keys (batch, heads, length, head width) with rotary positions."""
    half, length = x.shape[-1] // 2, x.shape[-2]
    powers = torch.arange(half, device=x.device) / half
    angles = torch.arange(length, device=x.device)[:, None] * 10_000.0**-powers
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    one, other = x[..., :half], x[..., half:]
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


class Block(nn.Module):
    """Attention and an MLP as residual branches, with norms before or after them."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module], *,
                 post: bool = False):  # fmt: skip
        super().__init__()
        self.attention, self.mlp, self.post = attention, mlp, post
        self.norm_1, self.norm_2 = norm(), norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps tokens (batch, length, width) to the same shape."""
        if self.post:
            x = self.norm_1(x + self.attention(x))
            return self.norm_2(x + self.mlp(x))
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class VisionTransformer(nn.Module):
    """ViT with a class token, on uint8 images (batch, height, width, channels)."""

    def __init__(self, model: ViT, edge: int):
        super().__init__()
        width, patch = model.width, model.patch_size
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (edge // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(
            *(
                Block(
                    Attention(width, model.num_heads, causal=False),
                    mlp(width, model.mlp_hidden),
                    lambda: nn.LayerNorm(width, eps=model.epsilon),
                )
                for _ in range(model.depth)
            )
        )
        self.norm = nn.LayerNorm(width, eps=model.epsilon)
        self.head = nn.Linear(width, model.num_classes or 0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits (batch, classes)."""
        pixels = (images.to(self.token.dtype) / 255 - 0.5) / 0.5
        x = self.patches(pixels.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Language(nn.Module):
    """GPT-2, a SwiGLU decoder or BERT, on tokens (batch, length)."""

    def __init__(self, embeddings: list[nn.Embedding], parts: dict[str, nn.Module | None]):
        """Takes the tables of tokens and positions, perhaps of types, and what follows them.

        Args:
          embeddings: each is indexed by the tokens, the positions, or 0.
          parts: embedding_norm, blocks, norm, pooler, head; a head of None is the first table.
        """
        super().__init__()
        self.embeddings = nn.ModuleList(embeddings)
        self.parts = nn.ModuleDict({name: part or nn.Identity() for name, part in parts.items()})
        self.tied, self.pooled = parts["head"] is None, parts["pooler"] is not None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns logits (batch, length, vocabulary), or (batch, classes) with a pooler."""
        length, zero = tokens.shape[1], torch.zeros_like(tokens)
        places = torch.arange(length, device=tokens.device)
        x = sum(
            table(index)
            for table, index in zip(self.embeddings, (tokens, places, zero), strict=False)
        )
        parts = self.parts
        x = parts["norm"](parts["blocks"](parts["embedding_norm"](x)))
        if self.pooled:
            x = torch.tanh(parts["pooler"](x[:, 0]))
        return F.linear(x, self.embeddings[0].weight) if self.tied else parts["head"](x)


def build(module: Any, example: tuple[int, ...]) -> nn.Module:
    """Returns the PyTorch model of a module of lcjax.

    Args:
      module: a ViT, GPT2, BERT or Decoder.
      example: shape of one input.

    Raises:
      TypeError: another module.
    """
    if isinstance(module, ViT):
        return VisionTransformer(module, example[0])
    if isinstance(module, GPT2):
        return _gpt2(module)
    if isinstance(module, BERT):
        return _bert(module)
    if isinstance(module, Decoder):
        return _decoder(module)
    raise TypeError(f"got {type(module).__name__}; expected ViT, GPT2, BERT or Decoder.")


def _gpt2(model: GPT2) -> nn.Module:
    width, epsilon = model.width, model.epsilon
    blocks = (
        Block(
            Attention(width, model.num_heads, causal=True),
            mlp(width, model.mlp_hidden or 4 * width, "tanh"),
            lambda: nn.LayerNorm(width, eps=epsilon),
        )
        for _ in range(model.depth)
    )
    tables = [nn.Embedding(model.vocab_size, width), nn.Embedding(model.max_length, width)]
    return Language(tables, _parts(blocks, norm=nn.LayerNorm(width, eps=epsilon)))


def _bert(model: BERT) -> nn.Module:
    width, epsilon = model.width, model.epsilon
    blocks = (
        Block(
            Attention(width, model.num_heads, causal=False),
            mlp(width, model.mlp_hidden),
            lambda: nn.LayerNorm(width, eps=epsilon),
            post=True,
        )
        for _ in range(model.depth)
    )
    sizes = (model.vocab_size, model.max_length, model.token_types)
    parts = _parts(
        blocks,
        embedding_norm=nn.LayerNorm(width, eps=epsilon),
        pooler=nn.Linear(width, width),
        head=nn.Linear(width, model.num_classes or 0),
    )
    return Language([nn.Embedding(size, width) for size in sizes], parts)


def _decoder(model: Decoder) -> nn.Module:
    config = model.config
    blocks = (
        Block(
            Attention(config.width, config.num_heads, causal=True, rotary=True),
            GatedMLP(config.width, config.mlp_hidden),
            lambda: nn.RMSNorm(config.width, eps=config.epsilon),
        )
        for _ in range(config.depth)
    )
    parts = _parts(
        blocks,
        norm=nn.RMSNorm(config.width, eps=config.epsilon),
        head=nn.Linear(config.width, config.vocab_size, bias=False),
    )
    return Language([nn.Embedding(config.vocab_size, config.width)], parts)


def _parts(blocks: Any, **others: nn.Module) -> dict[str, nn.Module | None]:
    names = ("embedding_norm", "norm", "pooler", "head")
    return {"blocks": nn.Sequential(*blocks), **{name: others.get(name) for name in names}}
