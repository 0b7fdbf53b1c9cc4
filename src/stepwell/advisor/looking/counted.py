"""Facts of a module: its layers by kind, words of its names, sizes, frozen and tied tensors."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]+|[a-z]+|\d+")


@dataclass(frozen=True)
class Facts:
    """What is counted in a module.

    Attributes:
        names: words of class names, attribute names and parameter names, each once, lower case.
        classes: class names as they are. root: the words of the outermost class's name. inputs: arguments of forward.
        layers: number of layers by kind: conv1d, conv2d, conv3d, transposed, depthwise, linear, embedding, sparse,
            batch_norm, other_norm, recurrent, attention, patch, upsample, shuffle.
        largest_kernel: of the depthwise convolutions. vocabulary: rows of the largest embedding. outputs: of the last
            layer with weights. elements: of all parameters. trained_layers: modules with own trained parameters.
    """

    names: frozenset[str]
    classes: frozenset[str]
    root: str
    inputs: frozenset[str]
    layers: Counter[str]
    largest_kernel: int
    vocabulary: int
    inputs_of_first: int
    outputs: int
    last: str
    elements: int
    frozen: bool
    trained_layers: int
    tied: bool
    uninitialized: bool
    top: tuple[str, ...]

    def has(self, *words: str) -> bool:
        """Whether any of these words is among the names."""
        return any(word in self.names for word in words)


def words(name: str) -> list[str]:
    """The words of a name: `TransformerEncoderLayer` and `time_embed.0` alike."""
    return [word.lower() for part in re.split(r"[._\d]+", name) for word in _CAMEL.findall(part)]


def count(model: nn.Module) -> Facts:
    """The facts of a module, which is not run."""
    names: set[str] = set()
    classes: set[str] = set()
    layers: Counter[str] = Counter()
    kernel = vocabulary = outputs = first = trained = 0
    last = ""
    for path, module in model.named_modules():
        kind = type(module).__name__
        classes.add(kind)
        names.update(words(kind))
        names.add(kind.lower())
        names.update(part.lower() for part in path.split("."))
        names.update(words(path.rpartition(".")[2]))
        for layer in _layers(module):
            layers[layer] += 1
        own = list(module.parameters(recurse=False))
        trained += any(tensor.requires_grad for tensor in own)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            vocabulary = max(vocabulary, module.num_embeddings)
        if isinstance(module, _ConvNd | nn.Linear):
            outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            first = first or (module.in_features if isinstance(module, nn.Linear) else module.in_channels)
            last = "linear" if isinstance(module, nn.Linear) else "conv"
            if isinstance(module, _ConvNd) and module.groups == module.in_channels > 1:
                kernel = max(kernel, max(module.kernel_size))
    for name, _ in model.named_parameters():
        names.update(words(name))
        names.update(part.lower() for part in name.split("."))
    tensors = list(model.parameters())
    lazy = any(is_lazy(tensor) for tensor in tensors)
    sized = [t for t in tensors if not is_lazy(t)]
    return Facts(
        frozenset(names), frozenset(classes), " ".join(words(type(model).__name__)), _inputs(model), layers, kernel,
        vocabulary, first, outputs, last, sum(tensor.numel() for tensor in sized) + (1 if lazy else 0),
        any(not tensor.requires_grad for tensor in tensors), trained,
        len(list(model.named_parameters(remove_duplicate=False))) > len(tensors), lazy,
        tuple(name.lower() for name, _ in model.named_children()),
    )  # fmt: skip


def _inputs(model: nn.Module) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return frozenset()


def _layers(module: nn.Module) -> list[str]:
    found = []
    if isinstance(module, _ConvNd):
        dimensions = len(module.kernel_size)
        if "Transpose" in type(module).__name__:
            found.append("transposed")
        else:
            found.append(f"conv{dimensions}d")
        if module.groups == module.in_channels > 1:
            found.append("depthwise")
        if dimensions >= 2 and module.kernel_size == module.stride and min(module.kernel_size) >= 4:
            found.append("patch")
    elif isinstance(module, nn.Linear):
        found.append("linear")
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        found += [
            "embedding",
            *(["sparse"] if module.sparse else []),
            *(["bag"] if isinstance(module, nn.EmbeddingBag) else []),
        ]
    elif isinstance(module, _NormBase):
        found.append("batch_norm" if "BatchNorm" in type(module).__name__ else "other_norm")
    elif re.search(r"Norm", type(module).__name__):
        found.append("other_norm")
    elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
        found.append("recurrent")
    elif isinstance(module, nn.Upsample):
        found.append("upsample")
    elif isinstance(module, nn.PixelShuffle):
        found.append("shuffle")
    elif isinstance(module, nn.Tanh):
        found.append("tanh")
    elif isinstance(module, nn.LeakyReLU):
        found.append("leaky")
    own = type(module).__name__.lower()
    if (
        isinstance(module, nn.MultiheadAttention)
        or ("attention" in own or own.endswith("attn"))
        or {"q_proj", "k_proj"} <= dict(module.named_children()).keys()
        or "qkv" in dict(module.named_children())
    ):
        found.append("attention")
    return found
