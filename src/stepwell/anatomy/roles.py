"""The role of each parameter of a model, found by the type of its module and by its shape."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from stepwell.anatomy import declarations
from stepwell.anatomy.depth import find_depths
from stepwell.anatomy.parts import Node, Towers, units
from stepwell.anatomy.tree import tree
from stepwell.arguments import flag
from stepwell.errors import UsageError

ROLES = {
    "matrix": "weight of a hidden linear layer, or a stack of them",
    "convolution": "kernel of a convolution",
    "embedding": "rows that are looked up, learned tokens (class, mask), and codebooks",
    "tied head": "an embedding that is the output layer too",
    "head": "weight of the output layer",
    "norm": "scale and shift of a normalization",
    "bias": "bias of any other layer",
    "scalar": "a single number, or one per channel (layer scale, PReLU)",
    "recurrent": "weights of an RNN, LSTM or GRU",
    "position": "table of positions, absolute or relative",
}

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)
_NORM_CLASS = re.compile(r"norm|^(LN|BN)\d*d?$", re.IGNORECASE)
_NORM_NAME = re.compile(r"(^|_)(norm|ln|bn|layernorm|layer_norm|batchnorm|rmsnorm)\d*(_|$)", re.IGNORECASE)
_POSITION = re.compile(
    r"(^|[._])(pos|position|positions|positional|wpe|rel|relative)(?=[._]|$)|posemb|posembed", re.IGNORECASE
)
_TOKEN = re.compile(
    r"(^|_)(token|tokens|cls|embed|embedding|embeddings|query|queries|prompt|registers?|latents?|probe"
    r"|codebooks?|codevectors?|codewords?|centroids?|prototypes?|slots?)(_|$)",
    re.IGNORECASE,
)
# In a name, without its module: what is made of rows, and what computes though its name speaks of rows or positions
# (`attention.self.query`, `pos_key_proj`, `rel_attn`).
_LOOKED_UP = re.compile(
    r"(^|_)(emb|embed|embedding|embeddings|wte)(_|$)|^(tok|tokens?|tok_embeddings?|shared|codebooks?|codevectors)$",
    re.I,
)
_COMPUTES = re.compile(r"(proj|project|projection|projector|linear|conv\d*d?|attn|attention|mlp|mixer)$|^linear_", re.I)
_ONE_TOKEN = re.compile(r"token|(^|_)(cls|class|mask|masked|spec)_emb|(^|_)probe$", re.IGNORECASE)  # one row of one
LOGARITHM = re.compile(r"(^|_)log(_|$)", re.IGNORECASE)
_BIAS = re.compile(r"(^|_)bias(es)?\d*(_|$)|^b\d*$")
_HEAD_PART = re.compile(
    r"^(\w+_)?heads?(_\w+)?\d*$"
    r"|^(?!pre_)(\w+_)?classifier$"
    r"|^(score|qa_outputs|fc_out|embed_out|output_projection|to_logits|logits|generator|predictions|cls)$"
    r"|^(bbox_predictor|(text|visual|audio)_projection)$",
    re.IGNORECASE,
)
_HEAD_AT_TOP = (
    *("fc", "output", "out", "proj_out", "output_layer", "actor", "critic", "outc", "conv_out", "conv_last"),
    *("final_conv", "to_rgb"),
)


@dataclass(frozen=True)
class Member:
    """One tensor of a model, with its name, role and depth.

    Args:
        name: the name; the first name of a tied tensor.
        names: all names.
        role: one of `ROLES`.
        depth: number of the block, 0 before the first block, n + 1 after the last of n blocks (`depth.py`).
        first_convolution: whether the tensor is the convolution that reads the input (of its tower).
        depthwise: whether the tensor is a depthwise convolution.
        first_matrix: whether the tensor is the linear layer that reads the raw input.
        exempt: whether the model itself exempts the tensor from weight decay (`no_weight_decay` of timm, or the like).
    """

    name: str
    names: tuple[str, ...]
    tensor: nn.Parameter
    role: str
    depth: int
    first_convolution: bool = False
    depthwise: bool = False
    first_matrix: bool = False
    exempt: bool = False

    @property
    def trained(self) -> bool:
        return self.tensor.requires_grad

    @property
    def is_hidden_matrix(self) -> bool:
        """Whether the tensor is for Muon: a hidden matrix, or the kernel of a convolution that mixes channels and does
        not read the input. Embeddings, heads and position tables are matrices only by shape."""
        if self.role == "convolution":
            return not self.first_convolution and not self.depthwise
        return self.role == "matrix" and not self.first_matrix and sum(size > 1 for size in self.tensor.shape) >= 2


@dataclass(frozen=True)
class Anatomy:
    """The tensors of a model in order, the number of blocks on its longest path, and a description of the count."""

    members: tuple[Member, ...]
    blocks: int
    how: str = ""


def role_by_name(name: str) -> str | None:
    """ "embedding", "position" or "head" by a tensor's name, else None: for tensors without their model.

    >>> role_by_name("model.embed_tokens.weight"), role_by_name("lm_head.weight"), role_by_name("layers.0.fc.weight")
    ('embedding', 'head', None)
    """
    parts = name.split(".")
    for place, part in enumerate(parts):
        if _POSITION.search(part) and not _COMPUTES.search(part):
            return "position"
        if _LOOKED_UP.search(part) and not _COMPUTES.search(part):
            return "embedding"
        in_block = any(before.isdigit() for before in parts[1:place])
        if _HEAD_PART.match(part) and not (in_block and parts[place + 1 : place + 2] != ["weight"]):
            return "head"
    if parts[-1] != "weight" and _TOKEN.search(parts[-1]):
        return "embedding"
    if ".".join(parts[:-1]) in _HEAD_AT_TOP:
        return "head"
    return None


def find_roles(model: nn.Module, *, frozen: bool = False) -> Anatomy:
    """Every parameter of `model` once, with its role and depth.

    Args:
        model: any module.
        frozen: whether to count frozen blocks as well, for a model that is unfrozen in stages.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    >>> {m.name: m.role for m in find_roles(model).members if m.name.endswith("weight")}
    {'0.weight': 'matrix', '1.weight': 'norm', '2.weight': 'head'}

    Raises UsageError for a value that is not a module, for a module without parameters, and for uninitialized
    parameters (lazy modules).
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    frozen = flag("find_roles", "frozen", frozen)
    names: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if nn.parameter.is_lazy(tensor):
            raise UsageError(f"'{name}' is lazy and has no shape yet; run one batch through the model first")
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    if not tensors:
        raise UsageError(f"the model ({type(model).__name__}) has no parameters")
    row = tree(model)
    copies = _averaged(model)
    counts = {key for key, tensor in tensors.items() if (tensor.requires_grad or frozen) and key not in copies}
    counts = counts or set(tensors)  # of a model that is frozen as a whole, all
    roles = {key: [_role(model, name, tensors[key]) for name in given] for key, given in names.items()}
    heads = _heads(model, row, names, roles, counts)
    role = {key: _one(roles[key], key in heads) for key in names}
    depths = find_depths(row, role, lambda tensor: id(tensor) in counts)
    readers = _readers(row, role)
    exempt = declarations.exempt(model)
    members = []
    for key, given in names.items():
        member = Member(given[0], tuple(given), tensors[key], role[key], depths.of[key], exempt=key in exempt)
        if member.role == "convolution":
            member = replace(member, first_convolution=key in readers, depthwise=_depthwise(model, member))
        members.append(replace(member, first_matrix=member.role == "matrix" and key in readers))
    if not any(member.is_hidden_matrix and id(member.tensor) in counts for member in members):
        members = [replace(member, first_matrix=False) for member in members]  # a hidden layer that is the only one
    return Anatomy(tuple(members), depths.blocks, depths.how)


def _averaged(model: nn.Module) -> set[int]:
    """The tensors of averaged copies (torch's AveragedModel) inside the model, which no optimizer trains."""
    found: set[int] = set()
    for module in model.modules():
        if type(module).__name__ == "AveragedModel" and module is not model:
            found |= {id(tensor) for tensor in module.parameters()}
    return found


def _readers(row: list[Node], role: dict[int, str], fresh: bool = True, first: bool = True) -> set[int]:
    """The weights that read the raw input: of each tower the first convolution, if it lies outside of blocks or nothing
    comes before it, and the first linear layer, if it lies outside of blocks and nothing comes before it."""
    found: set[int] = set()
    for node in row:
        if isinstance(node, Towers):
            for branch in node.branches:
                found |= _readers(branch, role, fresh, first)
            fresh = first = False
            continue
        for _, tensor in node.parameters:
            kind, wide = role[id(tensor)], sum(size > 1 for size in tensor.shape) > 1
            if kind == "convolution":
                if first and (fresh or not node.is_block):
                    found.add(id(tensor))
                first = False
            elif kind == "matrix" and wide and fresh and first and not node.is_block:
                found.add(id(tensor))
            fresh = fresh and not (wide and kind in ("matrix", "recurrent", "embedding", "tied head"))
    return found


def _depthwise(model: nn.Module, member: Member) -> bool:
    owner = model.get_submodule(member.name.rpartition(".")[0].partition(".parametrizations")[0])
    return member.tensor.shape[1] == 1 and getattr(owner, "groups", 1) > 1


def _one(roles: list[str], is_head: bool) -> str:
    """The role of a tensor that may have several owners."""
    if "embedding" in roles and (is_head or {"matrix", "head"} & set(roles)):
        return "tied head"
    return "head" if is_head else roles[0]


def _role(model: nn.Module, name: str, tensor: torch.Tensor) -> str:
    path, _, local = name.rpartition(".")
    owner = model.get_submodule(path)
    if type(owner).__name__ == "ParametrizationList":  # weight norm and its like: what is parametrised, and its owner
        path, _, rest = path.partition(".parametrizations.") if ".parametrizations." in path else ("", "", path[16:])
        owner, local = model.get_submodule(path), rest
    flat = sum(size > 1 for size in tensor.shape) <= 1
    kind, place = type(owner).__name__, path.rpartition(".")[2]
    if isinstance(owner, _NORMS) or (flat and (_NORM_CLASS.search(kind) or _NORM_NAME.search(place))):
        return "norm"
    if isinstance(owner, (nn.RNNBase, nn.RNNCellBase)):
        return "bias" if _BIAS.search(local) else "recurrent"
    looked_up = isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) or kind.endswith(("Embedding", "Embeddings"))
    if looked_up and local == "weight" and not flat:
        return "position" if _POSITION.search(place) else "embedding"
    if isinstance(owner, nn.modules.conv._ConvNd):
        kernels = owner.in_channels * owner.out_channels // owner.groups * math.prod(owner.kernel_size)
        return "bias" if local == "bias" else "scalar" if tensor.numel() < kernels else "convolution"
    if isinstance(owner, (nn.Linear, nn.Bilinear)):
        return "bias" if local == "bias" else "scalar" if flat and _is_scale(tensor, owner) else "matrix"
    return "bias" if _is_bias_of_experts(owner, local, tensor) else _role_of_raw(kind, local, tensor, flat)


def _is_scale(tensor: torch.Tensor, owner: nn.Module) -> bool:
    """A linear layer may have one output or one input; any other flat tensor of it is a scale (weight norm's)."""
    sizes = (getattr(owner, "in_features", 0), getattr(owner, "out_features", 0))
    return 1 not in sizes


def _is_bias_of_experts(owner: nn.Module, local: str, tensor: torch.Tensor) -> bool:
    """Whether the tensor is `b1` next to a `w1` of [experts, in, out]: a row for each expert, not a matrix."""
    if not re.fullmatch(r"b\d*", local):
        return False
    weight = getattr(owner, f"w{local[1:]}", None)
    return (
        isinstance(weight, torch.Tensor)
        and weight.ndim == tensor.ndim + 1
        and weight.shape[:1] == tensor.shape[:1]
        and tensor.shape[-1] in weight.shape[1:]
    )


def _role_of_raw(kind: str, local: str, tensor: torch.Tensor, flat: bool) -> str:
    """The role of a parameter that a module of the user's own holds: by its name, then by its shape."""
    if tensor.numel() > 1 and _POSITION.search(local):
        return "position"
    if _BIAS.search(local) and (flat or "bias" in local):  # of attention, one row for each head; of experts
        return "bias"
    if (tensor.ndim >= 2 and _TOKEN.search(local)) or (tensor.numel() > 1 and _ONE_TOKEN.search(local)):
        return "embedding"
    if flat or LOGARITHM.search(local):  # a logarithm of rates, as of a state space
        return "scalar"
    return "convolution" if "conv" in kind.lower() and tensor.ndim > 2 else "matrix"


def _heads(
    model: nn.Module, row: list[Node], names: dict[int, list[str]], roles: dict[int, list[str]], counts: set[int]
) -> set[int]:
    """The output layers: those called so, and where none is, the last layer of each tower, if nothing with weights
    comes after it."""
    found = {id(weight) for weight in _declared(model) if id(weight) in names}
    named: dict[str, int] = {}
    found_raw: set[int] = set()  # output layers that are a parameter by itself
    for unit in units(row):
        if unit.is_block:
            continue
        for path, tensor in unit.parameters:
            if _weight_role(roles[id(tensor)]) is None or "pooler" in path:
                continue
            if _is_projection(model, path, names[id(tensor)][0]):
                found_raw.add(id(tensor))
                continue
            container = _head_container(model, path)
            if container is not None:
                named[container] = id(tensor)
    found |= set(named.values()) | found_raw
    return found | _last(row, roles, counts, found)


def _weight_role(roles: list[str]) -> str | None:
    role = "matrix" if "matrix" in roles else roles[0]
    return role if role in ("matrix", "convolution") else None


def _last(row: list[Node], roles: dict[int, list[str]], counts: set[int], found: set[int]) -> set[int]:
    """The last layer of a row, of each tower at its end; none where an output layer is known already."""
    if any(id(tensor) in found for unit in units(row) for _, tensor in unit.parameters):
        row = row[-1:] if row and isinstance(row[-1], Towers) else []
    normed = False  # whether a norm comes after
    for node in reversed(row):
        if isinstance(node, Towers):
            return set().union(*(_last(branch, roles, counts, found) for branch in node.branches))
        live = [(path, tensor) for path, tensor in node.parameters if id(tensor) in counts]
        if node.is_block and live:
            return set()
        layers = [tensor for path, tensor in live if _weight_role(roles[id(tensor)]) and "pooler" not in path]
        if layers:
            is_output = (
                _weight_role(roles[id(layers[-1])]) == "matrix" or not normed
            )  # a kernel and its norm are hidden
            return {id(layers[-1])} if is_output else set()
        if any("recurrent" in roles[id(tensor)] for _, tensor in live):
            return set()
        normed = normed or any("norm" in roles[id(tensor)] for _, tensor in live)
    return set()


def _is_projection(model: nn.Module, path: str, name: str) -> bool:
    """Whether it is the output layer of a tower, held as a parameter (OpenAI's CLIP: `text_projection`)."""
    local = name.rpartition(".")[2]
    return local != "weight" and bool(_HEAD_PART.match(local)) and not isinstance(model.get_submodule(path), nn.Linear)


def _head_container(model: nn.Module, path: str) -> str | None:
    parts = path.split(".")
    for end, part in enumerate(parts, 1):
        if _HEAD_PART.match(part):
            container = ".".join(parts[:end])
            beside = isinstance(model.get_submodule(container), (nn.ModuleList, nn.ModuleDict))  # each of them is one
            return ".".join(parts[: end + beside])
    return path if path in _HEAD_AT_TOP else None


def _declared(model: nn.Module) -> list[nn.Parameter]:
    """The output layer as the model itself names it (Hugging Face)."""
    ask: Callable[[], nn.Module | None] | None = getattr(model, "get_output_embeddings", None)
    if not callable(ask):
        return []
    try:
        layer = ask()
    except (NotImplementedError, AttributeError):
        return []
    weight = getattr(layer, "weight", None)
    return [weight] if isinstance(weight, nn.Parameter) else []
