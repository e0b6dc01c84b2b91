"""Presets of `python -m train.image PRESET`."""

from train.config.base import OptimizerConfig, PenaltyConfig
from train.tasks.image.config import ImageConfig, ImageDataConfig
from train.tasks.image.model import AnyModel, MixerConfig, MLPConfig, PublishedConfig, ViTConfig

_CIFAR10 = ImageDataConfig(dataset="cifar10", batch_size=128, crop_padding=4, flip=True)
_IMAGENET = ImageDataConfig(dataset="imagenet2012", image_size=224, batch_size=1024, flip=True)
_IMAGENET_OPTIMIZER = OptimizerConfig(
    epochs=90, learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0
)

_PRESETS: dict[str, tuple[str, ImageDataConfig, AnyModel, OptimizerConfig, PenaltyConfig]] = {
    "digits-mixer": (
        "MLP-Mixer on scikit-learn's digits: the demonstration, under two minutes on two cores.",
        ImageDataConfig(dataset="digits", batch_size=32, crop_padding=1),
        MixerConfig(patch_size=2, depth=4, width=64, token_hidden=32, channel_hidden=256),
        OptimizerConfig(epochs=60, learning_rate=2e-3, weight_decay=0.3),
        PenaltyConfig(strength=0.05, where="*channels*"),
    ),
    "digits-mlp": (
        "MLP on scikit-learn's digits, a few seconds.",
        ImageDataConfig(dataset="digits", batch_size=64),
        MLPConfig(hidden=(128, 128, 128), activation="relu"),
        OptimizerConfig(epochs=30),
        PenaltyConfig(strength=0.02),
    ),
    "fashion-mlp": (
        "MLP 784-512-512-512-10 on Fashion-MNIST.",
        ImageDataConfig(dataset="fashion_mnist", batch_size=256, validation=0.05),
        MLPConfig(hidden=(512, 512, 512), activation="relu"),
        OptimizerConfig(epochs=6, learning_rate=1.5e-3, warmup=0.3, weight_decay=0.3),
        PenaltyConfig(strength=0.08),
    ),
    "fashion-mixer": (
        "MLP-Mixer on Fashion-MNIST, about ten minutes on two cores.",
        ImageDataConfig(dataset="fashion_mnist", batch_size=128),
        MixerConfig(patch_size=4, depth=4, width=96, token_hidden=48, channel_hidden=384),
        OptimizerConfig(epochs=5),
        PenaltyConfig(strength=0.01),
    ),
    "fashion-vit": (
        "Vision Transformer on Fashion-MNIST, about ten minutes on two cores.",
        ImageDataConfig(dataset="fashion_mnist", batch_size=128),
        ViTConfig(patch_size=4, depth=4, width=64, num_heads=4, mlp_hidden=256, pool="mean"),
        OptimizerConfig(epochs=5),
        PenaltyConfig(strength=0.01),
    ),
    "cifar10-mixer": (
        "MLP-Mixer on CIFAR-10, for one accelerator.",
        _CIFAR10,
        MixerConfig(patch_size=4, depth=8, width=256, token_hidden=128, channel_hidden=1024),
        OptimizerConfig(epochs=100, weight_decay=0.05, clip_norm=1.0),
        PenaltyConfig(strength=0.01),
    ),
    "cifar10-vit": (
        "Vision Transformer on CIFAR-10, for one accelerator.",
        _CIFAR10,
        ViTConfig(patch_size=4, depth=8, width=256, num_heads=8, mlp_hidden=1024, pool="mean"),
        OptimizerConfig(epochs=100, weight_decay=0.05, clip_norm=1.0),
        PenaltyConfig(strength=0.01),
    ),
    "imagenet-vit-b16": (
        "ViT-B/16 on ImageNet; --size Ti/16, S/16 or L/16 for the others.",
        _IMAGENET,
        PublishedConfig(family="vit", size="B/16"),
        _IMAGENET_OPTIMIZER,
        PenaltyConfig(strength=0.01),
    ),
    "imagenet-mixer-b16": (
        "Mixer-B/16 on ImageNet; --size S/16 or L/16 for the others.",
        _IMAGENET,
        PublishedConfig(family="mixer", size="B/16"),
        _IMAGENET_OPTIMIZER,
        PenaltyConfig(strength=0.01),
    ),
}

PRESETS = {
    name: (
        about,
        ImageConfig(preset=name, data=data, model=model, optimizer=optimizer, penalty=penalty),
    )
    for name, (about, data, model, optimizer, penalty) in _PRESETS.items()
}
