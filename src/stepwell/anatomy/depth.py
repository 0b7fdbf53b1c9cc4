"""How deep in the model a parameter is: the number of its block, found in the tree of modules.

A block is what is repeated: a module of its own inside a Sequential or ModuleList (`blocks.3`, `encoder.layer.3`,
`layer1.0`, `features.4.0`). Lists of lists are stages of blocks (`stages.2.blocks.1`), and are counted through. A model
without blocks counts its layers with weights instead. What comes before the first block has depth 0, blocks are
1 to n, what comes after has n + 1; what stands between two blocks (a downsampling) belongs to the one after it, also
where it lies in a list of its own beside the stages (`downsample_layers.2`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

# Lists that lie beside one another in a layer, not one after another; no depth in them.
_BESIDE = ("expert", "head", "branch", "adapter", "lora")
_IN_HEAD = re.compile(r"(^|[._])heads?[._]", re.IGNORECASE)  # so do the lists of an output part, whatever their names


@dataclass(frozen=True)
class Unit:
    """A piece of the model in the order in which it was put together: a block, or one module outside of blocks."""

    path: str
    is_block: bool
    parameters: tuple[nn.Parameter, ...]


def units(model: nn.Module) -> list[Unit]:
    """The blocks of `model`, and the modules outside of them that have parameters."""
    return list(_descend(model, "", in_stack=False))


def _descend(module: nn.Module, path: str, in_stack: bool) -> Iterator[Unit]:
    children = list(module.named_children())
    stack = _is_stack(module, path)
    if in_stack and children and not stack and not _holds_blocks(module):
        parameters = tuple(module.parameters())
        if parameters:
            yield Unit(path, True, parameters)
        return
    own = tuple(p for p in module.parameters(recurse=False))
    if own:
        yield Unit(path, False, own)
    for name, child in _in_order(children):
        in_list = stack or "." in name  # an item of one of the lists that `_in_order` has opened
        yield from _descend(child, f"{path}.{name}" if path else name, in_stack=in_list)


def _in_order(children: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The children in the order in which they run: where a list of stages has lists of as many layers beside it (the
    `downsample_layers` of a ConvNeXt, the `patch_embeddings` of a pyramid), the first item of each comes before the
    second of any."""
    lists = {
        name: list(child.named_children())
        for name, child in children
        if isinstance(child, nn.ModuleList) and not any(True for _ in child.parameters(recurse=False))
    }
    stages = [items for items in lists.values() if len(items) > 1 and all(_is_stage(item) for _, item in items)]
    if len(stages) != 1:
        return children
    beside = [name for name, items in lists.items() if len(items) == len(stages[0])]
    rows = [(f"{name}.{lists[name][i][0]}", lists[name][i][1]) for i in range(len(stages[0])) for name in beside]
    names = [name for name, _ in children]
    first = min(names.index(name) for name in beside)
    others = [child for child in children if child[0] not in beside]
    return [*others[:first], *rows, *others[first:]]


def _is_stage(module: nn.Module) -> bool:
    """Whether it is a list of blocks."""
    return _is_stack(module, "") and all(any(True for _ in item.children()) for item in module.children())


def _is_stack(module: nn.Module, path: str) -> bool:
    name = path.rpartition(".")[2].lower()
    beside = any(word in name for word in _BESIDE) or _IN_HEAD.search(path)
    return isinstance(module, (nn.Sequential, nn.ModuleList)) and not beside


def _holds_blocks(module: nn.Module) -> bool:
    """Whether `module` is a stage: it holds a list of two or more blocks of one kind, or a list so called."""
    for path, inner in module.named_modules():
        if inner is module or not _is_stack(inner, path) or any(word in path.lower() for word in _BESIDE):
            continue
        items = [item for item in inner.children() if any(True for _ in item.parameters())]
        kinds = {type(item) for item in items}
        blocks = all(any(True for _ in item.children()) and not _is_stack(item, "") for item in items)
        called = path in ("blocks", "layers", "layer", "block")
        if blocks and len(kinds) == 1 and (len(items) >= 2 or called) and any(_weights(item) > 1 for item in items):
            return True
    return False


def _weights(module: nn.Module) -> int:
    """How many weights it has; what has one, such as a convolution with its norm, is a layer of a block."""
    return sum(sum(size > 1 for size in parameter.shape) > 1 for parameter in module.parameters())
