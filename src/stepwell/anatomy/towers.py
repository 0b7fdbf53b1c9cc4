"""The parallel parts of a model: towers, twins, an actor and its critic.

A part is a tower parallel to an earlier part if both have their own input: both have a token embedding or a convolution
over raw channels before their blocks; or the part consists of plain layers whose sizes fit the input of the other part
and not its output; or the names say so (`student` and `teacher`). An encoder and its decoder are sequential, as are
stages, items of a Sequential, and a part with cross-attention after another part.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from stepwell.anatomy.parts import Node, Towers, has_blocks

Part = tuple[str, nn.Module, list[Node]]

_TABLES = (nn.Embedding, nn.EmbeddingBag)
_RAW_CHANNELS = 4  # a convolution over so few channels reads images or sound
_LEARNED = re.compile(r"quer|latent|prompt|regist|slot|pos|time|(^|_)(rel|relative|cls|class|mask)", re.IGNORECASE)
_READS_ANOTHER = re.compile(r"cross|encoder_attn|EncDecAttention|encdec", re.IGNORECASE)
_WORDS = re.compile(r"[a-z]+|[A-Z][a-z]*")
# fmt: off
_BESIDE = frozenset(
    (
        "actor", "critic", "policy", "value", "generator", "discriminator", "student", "teacher", "online", "target",
        "ema", "momentum",
    )
)
_SENSES = frozenset(("audio", "speech", "sound", "vision", "visual", "image", "video", "text", "language", "depth"))
_SAYS_NOTHING = frozenset(
    (
        "embed", "embedding", "embeddings", "emb", "patch", "token", "tok", "block", "blocks", "layer", "layers",
        "stem", "conv", "encoder", "model", "net", "tower", "branch", "transformer", "proj", "input", "stack", "norm",
        "the",
    )
)
# fmt: on


@dataclass
class _Place:
    """A part, and where in the row it begins."""

    part: Part
    start: int


class _Row:
    """The row while it grows."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.towers: Towers | None = None  # the last towers, while nothing else with blocks has come
        self.first: _Place | None = None  # the first of them, or the last part that has blocks or an input of its own
        self.before: _Place | None = None  # the last part of any kind

    def append(self, part: Part, row: list[Node], leads: bool) -> None:
        self.before = _Place(part, len(self.nodes))
        if leads or self.first is None:
            self.first, self.towers = self.before, None
        self.nodes += row

    def stand_beside(self, place: _Place, part: Part, row: list[Node]) -> None:
        at = None if self.towers is None else self.nodes.index(self.towers)
        if self.towers is None or at is None or place.start > at:
            self.towers, at = Towers([self.nodes[place.start :]]), place.start
            self.nodes[at:] = [self.towers]
        else:  # what came since belongs to the tower before it
            self.towers.branches[-1] += self.nodes[at + 1 :]
            del self.nodes[at + 1 :]
        self.towers.branches.append(row)
        self.before = _Place(part, at)


def side_by_side(parts: list[Part], items: set[str]) -> list[Node]:
    """The rows of the children of a module as one row, with parallel towers.

    Args:
        parts: the children in order: name, module, row.
        items: the names of those that are items of a stack.
    """
    whole = _Row()
    sizes: set[int] = set()  # what the parts so far give
    lent = _tables(parts)
    among_blocks = any(has_blocks(row) for _, _, row in parts)
    for part in parts:
        name, module, row = part
        if not _is_body(part, items):
            whole.nodes += row if name not in lent else []
            sizes |= _gives(module)
            continue
        tables = [node for owner in parts if lent.get(owner[0]) == name for node in owner[2]]
        beside = None
        if whole.before is not None and _twins(whole.before.part, part, items):
            beside = whole.before
        elif whole.first is not None and _towers(whole.first.part, part, sizes, lent):
            beside = whole.first
        if beside is not None:
            whole.stand_beside(beside, part, [*tables, *row])
        else:
            whole.append(part, [*tables, *row], has_blocks(row) or (not among_blocks and _has_input(part, set(), lent)))
        sizes |= _gives(module)
    return whole.nodes


def _is_body(part: Part, items: set[str]) -> bool:
    """Whether it is more than an embedding or a norm: it has blocks, or layers."""
    name, module, row = part
    return has_blocks(row) or (name not in items and any(not isinstance(layer, _TABLES) for layer in _layers(module)))


def _in_turn(one: Part, other: Part) -> bool:
    """Whether the names or the attention of `other` say that it runs after `one`."""
    starts = [{word[:3] for word in _words(name)} for name, _, _ in (one, other)]
    return ("enc" in starts[0] and "dec" in starts[1]) or any(
        _READS_ANOTHER.search(path) for path, _ in other[1].named_modules()
    )


def _twins(one: Part, other: Part, items: set[str]) -> bool:
    """Whether the names say so (actor and critic), or plain layers whose sizes do not fit one after the other do."""
    (name, module, row), (later, after, later_row) = one, other
    if name in items or later in items:
        return False
    words, later_words = _words(name) & _BESIDE, _words(later) & _BESIDE
    if words and later_words and words != later_words and not _in_turn(one, other):
        return True
    ends, ends_after = _ends(module), _ends(after)
    if has_blocks(row) or has_blocks(later_row) or ends is None or ends_after is None:
        return False
    (reads, gives, features), (reads_too, _, features_too) = ends, ends_after
    if features != features_too or reads != reads_too or _in_turn(one, other):
        return False
    # channels may be joined to those of a shortcut, or become pixels
    return reads != gives if features else reads % gives > 0 and gives % reads > 0


def _towers(one: Part, other: Part, sizes: set[int], lent: dict[str, str]) -> bool:
    """Whether both parts have their own input."""
    if not (_has_input(other, sizes, lent) and _has_input(one, set(), lent)) or _in_turn(one, other):
        return False
    return not {id(table) for table in _own_tables(one[1])} & {id(table) for table in _own_tables(other[1])}


def _has_input(part: Part, sizes: set[int], lent: dict[str, str]) -> bool:
    name, module, _ = part
    return bool(_own_tables(module)) or name in lent.values() or _reads_raw(name, module, sizes)


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(name)}


def _own_tables(module: nn.Module) -> list[Tensor]:
    """The tables of tokens in it, without those of positions and learned queries."""
    return [
        inner.weight
        for path, inner in module.named_modules()
        if isinstance(inner, _TABLES) and not _LEARNED.search(path.rpartition(".")[2]) and not _in_a_list(path)
    ]


def _in_a_list(path: str) -> bool:
    return any(part.isdigit() for part in path.split(".")[:-1])


def _tables(parts: list[Part]) -> dict[str, str]:
    """Assigns single embeddings and convolutions among the children to the stacks next to them, by name."""
    bodies = [part for part in parts if has_blocks(part[2])]
    loose = [part for part in parts if part[2] and not has_blocks(part[2]) and _has_input(part, set(), {})]
    without = [name for name, module, row in bodies if not _has_input((name, module, row), set(), {})]
    if len(bodies) < 2 or not loose:
        return {}
    found = {}
    for name, _, _ in loose:
        told = [body for body in without if _words(body) & _words(name) - _SAYS_NOTHING]
        if len(told) == 1:
            found[name] = told[0]
    if not found and len(without) == 1:  # OpenAI's CLIP: the text tower's parts lie in the model itself
        found = {name: without[0] for name, module, _ in loose if _own_tables(module)}
    return found


def _reads_raw(name: str, module: nn.Module, sizes: set[int]) -> bool:
    """Whether its first weight is that of a convolution over the raw channels of an input, and not over what the parts
    before it give (`sizes`)."""
    layer = next(iter(_layers(module)), None)
    if not isinstance(layer, nn.modules.conv._ConvNd) or layer.in_channels in sizes:
        return False
    return layer.in_channels <= _RAW_CHANNELS or bool(_words(name) & _SENSES)


def _layers(module: nn.Module) -> list[nn.Module]:
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, *_TABLES)
    return [inner for inner in module.modules() if isinstance(inner, kinds)]


def _ends(module: nn.Module) -> tuple[int, int, bool] | None:
    """What a part made of plain layers reads and gives, and whether these are features (or else channels)."""
    layers = _layers(module)
    if not layers:
        return None
    first, last = layers[0], layers[-1]
    if isinstance(first, nn.Linear) and isinstance(last, nn.Linear):
        return first.in_features, last.out_features, True
    if isinstance(first, nn.modules.conv._ConvNd) and isinstance(last, nn.modules.conv._ConvNd):
        return first.in_channels, last.out_channels, False
    return None


def _gives(module: nn.Module) -> set[int]:
    """The sizes of what it may give: of its last layer and of its last norm."""
    sizes = set()
    for inner in [*_layers(module)[-1:], *[m for m in module.modules() if isinstance(m, nn.LayerNorm)][-1:]]:
        for key in ("out_features", "out_channels", "embedding_dim", "hidden_size"):
            if isinstance(getattr(inner, key, None), int):
                sizes.add(getattr(inner, key))
        if isinstance(inner, nn.LayerNorm):
            sizes.add(int(inner.normalized_shape[-1]))
    return sizes
