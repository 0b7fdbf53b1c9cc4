"""What each parameter of a model is for, found by the type of its module and by its shape."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from stepwell.anatomy.depth import Unit, units
from stepwell.errors import UsageError

ROLES = {
    "matrix": "weight of a hidden linear layer, or a stack of them",
    "convolution": "kernel of a convolution",
    "embedding": "rows that are looked up, and learned tokens (class, mask)",
    "tied head": "an embedding that is the output layer too",
    "head": "weight of the output layer",
    "norm": "scale and shift of a normalisation",
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
    r"(^|_)(token|tokens|cls|embed|embedding|embeddings|query|queries|prompt|registers?|latents?|probe)(_|$)",
    re.IGNORECASE,
)
# In a name, without its module: what is made of rows, and what computes though its name speaks of rows or positions
# (`attention.self.query`, `pos_key_proj`, `rel_attn`).
_LOOKED_UP = re.compile(r"(^|_)(emb|embed|embedding|embeddings|wte)(_|$)|^(tok|tokens?|tok_embeddings?|shared)$", re.I)
_COMPUTES = re.compile(r"(proj|project|projection|projector|linear|conv\d*d?|attn|attention|mlp|mixer)$|^linear_", re.I)
_ONE_TOKEN = re.compile(r"token|(^|_)(cls|class|mask|masked|spec)_emb|(^|_)probe$", re.IGNORECASE)  # one row of one
LOGARITHM = re.compile(r"(^|_)log(_|$)", re.IGNORECASE)
_FINAL = re.compile(r"(^|_)(final|ln_f|norm_f)(_|$)", re.IGNORECASE)
_BIAS = re.compile(r"(^|_)bias(es)?\d*(_|$)|^b\d*$")
_HEAD_PART = re.compile(
    r"^(\w+_)?heads?(_\w+)?\d*$"
    r"|^(?!pre_)(\w+_)?classifier$"
    r"|^(score|qa_outputs|fc_out|embed_out|output_projection|to_logits|logits|generator|predictions|cls)$"
    r"|^(bbox_predictor|(text|visual|audio)_projection)$",
    re.IGNORECASE,
)
_HEAD_AT_TOP = ("fc", "output", "out", "proj_out", "output_layer")


@dataclass(frozen=True)
class Member:
    """One tensor of a model and what is known about it.

    Args:
        name: its name; the first one if it is tied.
        names: all its names.
        role: one of `ROLES`.
        depth: number of its block, 0 before the first, one more than there are after the last (`depth.py`).
        first_convolution: whether it is the convolution that reads the input.
        depthwise: whether it is a convolution of single channels.
    """

    name: str
    names: tuple[str, ...]
    tensor: nn.Parameter
    role: str
    depth: int
    first_convolution: bool = False
    depthwise: bool = False

    @property
    def trained(self) -> bool:
        return self.tensor.requires_grad

    @property
    def is_hidden_matrix(self) -> bool:
        """Whether it is what Muon is for: a hidden matrix, or the kernel of a convolution that mixes channels and does
        not read the input. Embeddings, heads and tables of positions are matrices by shape only."""
        if self.role == "convolution":
            return not self.first_convolution and not self.depthwise
        return self.role == "matrix" and sum(size > 1 for size in self.tensor.shape) >= 2


@dataclass(frozen=True)
class Anatomy:
    """The tensors of a model in order, and how many blocks it has."""

    members: tuple[Member, ...]
    blocks: int


def role_by_name(name: str) -> str | None:
    """ "embedding", "position" or "head" where a tensor's name says so, else None: for tensors without their model.

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


def find_roles(model: nn.Module) -> Anatomy:
    """Every parameter of `model` once, with its role and depth.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    >>> {m.name: m.role for m in find_roles(model).members if m.name.endswith("weight")}
    {'0.weight': 'matrix', '1.weight': 'norm', '2.weight': 'head'}

    Raises UsageError for what is no module, has no parameters, or has some without a shape yet (lazy modules).
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"groups are made from a model (torch.nn.Module), not from a {type(model).__name__}")
    names: dict[int, list[str]] = {}
    tensors: dict[int, nn.Parameter] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        if nn.parameter.is_lazy(tensor):
            raise UsageError(f"'{name}' has no shape yet: it is lazy; run one batch through the model first")
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    if not tensors:
        raise UsageError(f"the model ({type(model).__name__}) has no parameters")
    pieces = units(model)
    roles = {key: [_role(model, name, tensors[key]) for name in given] for key, given in names.items()}
    heads = _heads(model, pieces, names, roles)
    members = []
    depths = _depths(pieces, {key: _one(roles[key], key in heads) for key in names})
    first = fresh = True  # whether no convolution came so far, and nothing at all that could read the input
    for key, given in names.items():
        member = Member(given[0], tuple(given), tensors[key], _one(roles[key], key in heads), depths.of[key])
        if member.role == "convolution":
            reads = first and (fresh or depths.outside[key])
            member = replace(member, first_convolution=reads, depthwise=_depthwise(model, member))
            first = False
        reader = member.role in ("matrix", "recurrent", "embedding", "tied head")
        fresh = fresh and not (reader and sum(size > 1 for size in member.tensor.shape) > 1)
        members.append(member)
    return Anatomy(tuple(members), depths.blocks)


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
    """Whether it is `b1` beside a `w1` of [experts, in, out]: a row for each expert, and no matrix."""
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


def _heads(model: nn.Module, pieces: list[Unit], names: dict[int, list[str]], roles: dict[int, list[str]]) -> set[int]:
    """The output layers: those called so, else the last linear layer if nothing with weights comes after it."""
    found = {id(weight) for weight in _declared(model) if id(weight) in names}
    blocks = [i for i, piece in enumerate(pieces) if piece.is_block]
    last_block = blocks[-1] if blocks else -1
    named: dict[str, int] = {}
    found_raw: set[int] = set()  # output layers that are a parameter by itself
    last: tuple[int, str] | None = None
    for index, piece in enumerate(pieces):
        if piece.is_block:
            continue
        for tensor in piece.parameters:
            role = roles[id(tensor)][-1] if "matrix" in roles[id(tensor)] else roles[id(tensor)][0]
            if role not in ("matrix", "convolution") or "pooler" in piece.path:
                continue
            if _is_projection(model, piece.path, names[id(tensor)][0]):
                found_raw.add(id(tensor))
                continue
            container = _head_container(model, piece.path)
            if container is not None:
                named[container] = id(tensor)
            last = (id(tensor), role) if index > last_block else None
    found |= set(named.values()) | found_raw
    if not found and last is not None and last[1] == "matrix":
        found = {last[0]}
    return found


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


@dataclass(frozen=True)
class _Depths:
    of: dict[int, int]
    outside: dict[int, bool]  # whether it lies outside of blocks
    blocks: int


def _depths(pieces: list[Unit], role: dict[int, str]) -> _Depths:
    of: dict[int, int] = {}
    outside: dict[int, bool] = {}
    counted = [piece.is_block for piece in pieces]
    if not any(counted):  # no blocks: layers with weights count
        weights = ("matrix", "convolution", "recurrent")
        counted = [any(role[id(t)] in weights for t in piece.parameters) for piece in pieces]
        between = 0  # what follows a layer, its norm, belongs to it
    else:
        between = 1
    count = sum(counted)
    at = 0
    for piece, counts in zip(pieces, counted, strict=True):
        at += counts
        depth = at if counts or at == 0 else at + between
        for tensor in piece.parameters:
            of.setdefault(id(tensor), depth)
            outside.setdefault(id(tensor), not piece.is_block)
    for piece in pieces:
        is_head = any(role[id(tensor)] == "head" for tensor in piece.parameters)
        for tensor in piece.parameters:
            if not outside[id(tensor)]:
                continue
            if is_head and role[id(tensor)] in ("head", "bias"):  # its bias goes with it
                of[id(tensor)] = count + 1
            elif role[id(tensor)] in ("embedding", "tied head", "position"):
                of[id(tensor)] = 0
            elif role[id(tensor)] == "norm":  # some libraries make them out of order
                name = piece.path.rpartition(".")[2]
                if "embedding" in name:
                    of[id(tensor)] = 0
                elif of[id(tensor)] == 0 and _FINAL.search(name):
                    of[id(tensor)] = count + 1
    return _Depths(of, outside, count)
