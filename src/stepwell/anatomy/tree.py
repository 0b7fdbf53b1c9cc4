"""The parts of a model in the order in which they run: blocks, the layers around them, and parallel towers.

A block is a repeated module, usually one residual unit: an item of a Sequential or ModuleList (`blocks.3`, `layer1.0`)
or of a ModuleDict, or one of several attributes with numbered names (`block0`, `s2.b1`) or of the same class. A part of
a block is never a block. Lists of lists are stages of blocks (`stages.2.blocks.1`), whose blocks are numbered through.
Declarations of the model override this (`declarations.py`).
"""

from __future__ import annotations

import re
from collections import Counter

from torch import nn

from stepwell.anatomy import declarations
from stepwell.anatomy.parts import Node, Unit, weights
from stepwell.anatomy.towers import side_by_side

# Lists that lie beside one another in a layer, not one after another; no depth in them.
_BESIDE = ("expert", "head", "branch", "adapter", "lora", "quantize")
_IN_HEAD = re.compile(r"(^|[._])heads?[._]", re.IGNORECASE)  # so do the lists of an output part, whatever their names
_NUMBERED = re.compile(r"(.*?)[_.-]?(\d+)(?:[_.-]?\d+)?[a-z]?")  # block0, layer_1, block1-0, inception3a
# Numbered attributes that are parts of one layer, not layers in a row.
_PART = re.compile(
    r"attn|attention|norm|(^|_)(ln|bn)$|mlp|(^|_)(ffn?|fc|lin|linear|ff|gate|rnn|lstm|gru|q|act|loss|pool)$|feed"
    r"|proj|head|branch|expert|adapter|lora|emb|pos|tok|critic|actor|skip|shortcut",
    re.IGNORECASE,
)
_SHARE = 2 / 3  # of the weights of a stage, which lie in its blocks where these are attributes


def tree(model: nn.Module) -> list[Node]:
    """The parts of `model` in a row, with towers in parallel rows."""
    return _Builder(model).row(model, "", in_stack=False)


class _Builder:
    def __init__(self, model: nn.Module) -> None:
        self.named_blocks = declarations.block_classes(model)  # as the model says it
        counted = Counter(type(module).__name__ for module in model.modules())
        self.named_blocks = {name for name in self.named_blocks if counted[name] > 1 and "mbed" not in name}

    def row(self, module: nn.Module, path: str, in_stack: bool) -> list[Node]:
        groups = declarations.groups(module, path)
        if groups is not None:
            return [_of_group(group) for group in groups]
        children = [child for child in module.named_children() if any(True for _ in child[1].parameters())]
        if in_stack and self._is_block(module, children):
            parameters = tuple(
                (_owner(path, name), parameter) for name, parameter in module.named_parameters(remove_duplicate=True)
            )
            return [Unit(path, True, parameters)] if parameters else []
        own = tuple((path, p) for p in module.parameters(recurse=False))
        found: list[Node] = [Unit(path, False, own)] if own else []
        items = self._items(module, path, children)
        parts = []
        for name, child in _in_order(children):
            in_list = name in items or ("." in name and _is_stage(child))  # of a list that `_in_order` has opened
            parts.append((name, child, self.row(child, f"{path}.{name}" if path else name, in_list)))
        if isinstance(module, nn.Sequential):
            return [*found, *(node for _, _, row in parts for node in row)]
        return [*found, *side_by_side(parts, items)]

    def _items(self, module: nn.Module, path: str, children: list[tuple[str, nn.Module]]) -> set[str]:
        """The children that are items of a stack: blocks, or stages of them."""
        if is_stack(module, path):
            kinds = Counter(_kind(child) for _, child in children if not is_list(child))
            several = {name for name, child in children if _layers_in(child) > 1}
            repeated = any(name in several and kinds[_kind(child)] > 1 for name, child in children)
            if len(kinds) > 1 and repeated:  # of several kinds: a layer by itself is no block there
                return several
            return {name for name, _ in children}
        if isinstance(module, (nn.Sequential, nn.ModuleList)) or _lies_beside(path):
            return set()
        blocks = [(name, child) for name, child in children if _is_composite(child) and not _lies_beside(name)]
        found = {name for name, child in blocks if type(child).__name__ in self.named_blocks}
        found |= _numbered(blocks)
        kinds_of = {name: _kind(child) for name, child in blocks if not _PART.search(name)}
        alike = Counter(kinds_of.values())
        least = 2 if isinstance(module, nn.ModuleDict) else 3  # two of a kind may be attention to itself and to others
        return found | {name for name, kind in kinds_of.items() if alike[kind] >= least}

    def _is_block(self, module: nn.Module, children: list[tuple[str, nn.Module]]) -> bool:
        if not children:
            return False
        if is_list(module):  # one that is itself a list: its layers by themselves make no blocks
            return weights(module) > 1 and all(weights(child) < 2 and not _is_composite(child) for _, child in children)
        return not _holds_blocks(module)


def _of_group(group: declarations.Group) -> Unit:
    return Unit(group.path, group.is_block, group.parameters, declared=True)


def _owner(path: str, name: str) -> str:
    local = name.rpartition(".")[0]
    return f"{path}.{local}" if path and local else path or local


def is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.Sequential, nn.ModuleList))


def is_stack(module: nn.Module, path: str) -> bool:
    """Whether its children run one after another, as far as its class and name tell."""
    return is_list(module) and not _lies_beside(path)


def _lies_beside(path: str) -> bool:
    name = path.rpartition(".")[2].lower()
    return any(word in name for word in _BESIDE) or bool(_IN_HEAD.search(path))


def _is_composite(module: nn.Module) -> bool:
    return weights(module) > 1 and any(True for _ in module.children())


def _layers_in(module: nn.Module) -> int:
    """The number of modules in it that have weights."""
    return sum(
        any(sum(size > 1 for size in parameter.shape) > 1 for parameter in inner.parameters(recurse=False))
        for inner in module.modules()
    )


def _numbered(children: list[tuple[str, nn.Module]]) -> set[str]:
    """Those whose names are one name with numbers: `block0`, `block1`."""
    stems: dict[str, list[str]] = {}
    for name, _ in children:
        match = _NUMBERED.fullmatch(name)
        if match and not _PART.search(match[1]):
            stems.setdefault(match[1], []).append(name)
    return {name for names in stems.values() if len(names) > 1 for name in names}


def _kind(module: nn.Module) -> object:
    """Its class; of torch's containers, what they hold."""
    if type(module) in (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict):
        return (type(module), tuple(_kind(child) for child in module.children()))
    return type(module)


def _in_order(children: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The children in the order in which they run: if a list of stages has further lists of equal length next to it
    (the `downsample_layers` of a ConvNeXt, the `patch_embeddings` of a pyramid), the first item of each comes before
    the second of any. A quantizer comes before the decoder that reads its codes."""
    quantizers = [child for child in children if "quantize" in child[0].lower()]
    rest = [child for child in children if "quantize" not in child[0].lower()]
    decoder = next((place for place, (name, _) in enumerate(rest) if name.lower().startswith("dec")), None)
    if quantizers and decoder is not None:
        children = [*rest[:decoder], *quantizers, *rest[decoder:]]
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
    return is_list(module) and all(any(True for _ in item.children()) for item in module.children())


def _holds_blocks(module: nn.Module) -> bool:
    """Whether `module` is a stage: it holds a list of two or more blocks of one kind, or a list so called; or its
    weights lie in blocks that are its numbered attributes."""
    for path, inner in module.named_modules():
        if inner is module or not is_stack(inner, path) or any(word in path.lower() for word in _BESIDE):
            continue
        items = [item for item in inner.children() if any(True for _ in item.parameters())]
        kinds = {type(item) for item in items}
        blocks = all(any(True for _ in item.children()) and not is_list(item) for item in items)
        called = path in ("blocks", "layers", "layer", "block")
        if blocks and len(kinds) == 1 and (len(items) >= 2 or called) and any(weights(item) > 1 for item in items):
            return True
    children = [(name, child) for name, child in module.named_children() if _is_composite(child)]
    numbered = {name for name in _numbered(children) if not name.lower().startswith("conv")}
    inside = sum(weights(child) for name, child in children if name in numbered)
    return inside >= _SHARE * weights(module) > 0
