# pyright: reportMissingImports=false, reportCallIssue=false, reportAttributeAccessIssue=false
"""Models of transformers whose MLPs have the forms that `lcjax_forms` in config.json describes.

A form is one of
  deep      the MLP as the architecture has it
  units     `width` of its hidden units, an output bias, and with `linear` an affine map next to it
  linear    one affine map
  constant  a bias

Written by lcjax; needs PyTorch and transformers alone.
"""

import torch
from torch import nn

_VERSION = 1


class ConstantOutput(nn.Module):
    """Returns a bias for every token."""

    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x):
        """Returns (..., width)."""
        return self.bias.expand(*x.shape[:-1], -1)


class GatedForm(nn.Module):
    """A gated MLP in a form."""

    def __init__(self, deep, width, form):
        super().__init__()
        units = form["form"] == "units"
        if units:
            bias = deep.gate_proj.bias is not None
            self.gate_proj = nn.Linear(width, form["width"], bias=bias)
            self.up_proj = nn.Linear(width, form["width"], bias=bias)
            self.act_fn = deep.act_fn
        self.down_proj = _last(width, form)
        self.bypass = nn.Linear(width, width, bias=False) if form["linear"] else None
        self.units = units

    def forward(self, x):
        """Returns the output of the MLP."""
        inner = self.act_fn(self.gate_proj(x)) * self.up_proj(x) if self.units else x
        y = self.down_proj(inner)
        return y if self.bypass is None else y + self.bypass(x)


class FusedForm(nn.Module):
    """A gated MLP whose first two layers are one, in a form."""

    def __init__(self, deep, width, form):
        super().__init__()
        self.units = form["form"] == "units"
        if self.units:
            self.Wi = nn.Linear(width, 2 * form["width"], bias=deep.Wi.bias is not None)
            self.act, self.drop = deep.act, deep.drop
        self.Wo = _last(width, form)
        self.bypass = nn.Linear(width, width, bias=False) if form["linear"] else None

    def forward(self, x):
        """Returns the output of the MLP."""
        inner = x
        if self.units:
            gate, up = self.Wi(x).chunk(2, dim=-1)
            inner = self.drop(self.act(gate) * up)
        y = self.Wo(inner)
        return y if self.bypass is None else y + self.bypass(x)


class PlainForm(nn.Module):
    """An MLP without a gate in a form; the residual sum is elsewhere."""

    def __init__(self, deep, width, form):
        super().__init__()
        self.units = form["form"] == "units"
        if self.units:
            self.lin1, self.activation = nn.Linear(width, form["width"]), deep.activation
        self.lin2, self.dropout = _last(width, form), deep.dropout
        self.bypass = nn.Linear(width, width, bias=False) if form["linear"] else None

    def forward(self, x):
        """Returns the output of the MLP."""
        y = self.lin2(self.activation(self.lin1(x)) if self.units else x)
        return self.dropout(y if self.bypass is None else y + self.bypass(x))


class InnerForm(nn.Module):
    """The first half of an MLP without a gate: hidden units, or the input where there are none."""

    def __init__(self, deep, width, form):
        super().__init__()
        self.units = form["form"] == "units"
        if self.units:
            self.dense = nn.Linear(width, form["width"])
            self.intermediate_act_fn = deep.intermediate_act_fn

    def forward(self, x):
        """Returns what the second half reads."""
        return self.intermediate_act_fn(self.dense(x)) if self.units else x


class OutputForm(nn.Module):
    """The second half of an MLP without a gate, the residual sum and its norm."""

    def __init__(self, deep, width, form):
        super().__init__()
        self.dense = _last(width, form)
        self.bypass = nn.Linear(width, width, bias=False) if form["linear"] else None
        self.LayerNorm, self.dropout = deep.LayerNorm, deep.dropout

    def forward(self, inner, x):
        """Returns the output of the layer."""
        y = self.dense(inner)
        y = y if self.bypass is None else y + self.bypass(x)
        return self.LayerNorm(self.dropout(y) + x)


def _last(width, form):
    if form["form"] == "constant":
        return ConstantOutput(width)
    return nn.Linear(form["width"] if form["form"] == "units" else width, width)


class CompactForms:
    """Gives the MLPs of a model the forms of its config."""

    def __init__(self, config, *inputs, **options):
        super().__init__(config, *inputs, **options)
        forms = config.lcjax_forms
        if forms["version"] != _VERSION:
            raise ValueError(f"lcjax_forms: got version {forms['version']}, expected {_VERSION}.")
        names = [name for name in (self.base_model_prefix, "model") if hasattr(self, name)]
        base = getattr(self, names[0]) if names else self
        blocks = getattr(base, "encoder", None) or getattr(base, "transformer", None)
        layers = base.layers if blocks is None else blocks.layer
        for layer, form in zip(layers, forms["layers"], strict=True):
            if form["form"] == "deep":
                continue
            width = config.hidden_size
            if hasattr(layer, "ffn"):
                layer.ffn = PlainForm(layer.ffn, width, form)
            elif hasattr(layer, "mlp"):
                kind = FusedForm if hasattr(layer.mlp, "Wi") else GatedForm
                layer.mlp = kind(layer.mlp, width, form)
            else:
                layer.intermediate = InnerForm(layer.intermediate, width, form)
                layer.output = OutputForm(layer.output, width, form)
