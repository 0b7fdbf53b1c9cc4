"""From a model to the groups of an optimizer: by role, by layer, by pattern, and Muon's split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from stepwell.anatomy import ROLES, Anatomy, Member, find_roles
from stepwell.arguments import flag, items, mapping, text
from stepwell.errors import UsageError, unknown

# Roles that weight decay leaves alone unless told otherwise. There is no single convention: nanoGPT decays embeddings,
# OLMo exempts only them, vision transformers exempt tables of positions. Shrinking what norms, biases and scales say
# has no use, and decay pulls rare rows of an embedding to zero between the few gradients that they get. A tied head
# gets a gradient in every row at every step, so it is decayed.
from stepwell.groups.groups import Groups
from stepwell.groups.patterns import Pattern, pick
from stepwell.groups.settings import SHOWN, Label, Settings, check_keys, counted, listed

NO_DECAY = ("norm", "bias", "scalar", "embedding", "position")

_PATTERNS = "a dict from patterns to hyperparameters, as {'head': 10.0} or {'*.bias': {'weight_decay': 0}}"
_ROLES = 1000  # an iterator of more is taken for one that never ends


def by_role(
    model: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    no_decay: Iterable[str] = NO_DECAY,
    roles: Mapping[str, Mapping[str, Any]] | None = None,
    patterns: Mapping[Pattern, Mapping[str, Any] | float] | None = None,
    layer_decay: float | None = None,
    merge: bool = True,
    keep_frozen: bool = False,
) -> Groups:
    """Groups by the role of each tensor: no decay on norms and biases, and optionally another learning rate for
    embeddings.

    Args:
        model: the module whose parameters are grouped, each once; tied parameters under their first name.
        lr: the learning rate; None uses the optimizer's default.
        weight_decay: the weight decay; None uses the optimizer's default.
        no_decay: roles (see `ROLES`) with a weight_decay of 0. If not empty, parameters that the model itself exempts
            from decay get 0 as well, see `by_layer`.
        roles: hyperparameters by role, as {"embedding": {"lr": 1e-2}}; they override lr, weight_decay and no_decay.
        patterns: hyperparameters by pattern, see `by_pattern`; they override all others.
        layer_decay: multiplies lr per block from the top, in (0, 1], see `by_layer`.
        merge: whether tensors with equal hyperparameters share one group; if False, each role has its own group.
        keep_frozen: whether to include parameters with requires_grad=False, for models that are unfrozen in stages. An
            optimizer skips them until they get a gradient.

    >>> groups = by_role(model, lr=3e-4, weight_decay=0.1, roles={"embedding": {"lr": 3e-3}})

    Raises UsageError for an unknown role, a pattern without a match, or a model without trainable parameters.
    """
    return _by_role("by_role", model, lr, weight_decay, no_decay, roles, patterns, layer_decay, merge, keep_frozen)


def _by_role(
    owner: str,
    model: nn.Module,
    lr: float | None,
    weight_decay: float | None,
    no_decay: Iterable[str],
    roles: Mapping[str, Mapping[str, Any]] | None,
    patterns: Mapping[Pattern, Mapping[str, Any] | float] | None,
    layer_decay: float | None,
    merge: bool,
    keep_frozen: bool,
) -> Groups:
    merge, keep_frozen = flag(owner, "merge", merge), flag(owner, "keep_frozen", keep_frozen)
    no_decay, roles = _checked_roles(owner, no_decay, roles)
    patterns = {} if patterns is None else mapping(owner, "patterns", patterns, _PATTERNS)
    anatomy = find_roles(_checked_model(owner, model), frozen=keep_frozen)
    settings = Settings(anatomy, lr, weight_decay, no_decay, roles, patterns, layer_decay, owner)
    return _assemble(anatomy, settings, merge=merge, keep_frozen=keep_frozen)


def by_layer(
    model: nn.Module,
    *,
    lr: float,
    decay: float = 0.75,
    weight_decay: float | None = None,
    no_decay: Iterable[str] = NO_DECAY,
    roles: Mapping[str, Mapping[str, Any]] | None = None,
    patterns: Mapping[Pattern, Mapping[str, Any] | float] | None = None,
    merge: bool = True,
    keep_frozen: bool = False,
) -> Groups:
    """Groups for fine-tuning: lower layers have smaller learning rates.

        lr(depth) = lr * decay ^ (blocks + 1 - depth)

    Depth counts blocks, not tensors: 0 are the layers before the first block (embeddings, stem), 1 to n are the blocks,
    and n + 1 are the layers after the blocks (last norm, head), whose rate is lr. A block is a repeated module, usually
    one residual unit. Blocks are numbered through all stages, and a downsampling layer belongs to the next block. The
    notes under `print(groups)` say what was counted. In a model without repeated modules, layers with weights are
    counted.

    Parallel towers (image and text, a network and its momentum copy, an actor and its critic) each have the rates that
    they would have alone. Two parts are parallel if both have their own input, or if their sizes do not fit in
    sequence. An encoder and its decoder count as one sequence, the encoder first. Frozen blocks do not count, unless
    `keep_frozen` is given. Declarations of the model are used: `group_matcher` (timm) and `_no_split_modules`
    (transformers) for blocks; `no_weight_decay`, `no_weight_decay_keywords` (timm) and the parameter attribute
    `_no_weight_decay` (Mamba) for decay, together with `no_decay` unless `no_decay` is empty.

    Args:
        model: as for `by_role`.
        lr: the learning rate of the head.
        decay: the ratio of the rates of a block and the next block, in (0, 1]; 0.65 to 0.9 are usual, smaller for small
            models.
        weight_decay, no_decay, roles, patterns, merge, keep_frozen: as for `by_role`; a rate given in `roles` or
            `patterns` is multiplied as well.

    Source: Clark et al., "ELECTRA", 2003.10555, appendix; Bao et al., "BEiT", 2106.08254, section 3.

    >>> optimizer = AdamW(by_layer(model, lr=1e-3, decay=0.65, weight_decay=0.05))
    """
    return _by_role("by_layer", model, lr, weight_decay, no_decay, roles, patterns, decay, merge, keep_frozen)


def by_pattern(
    model: nn.Module,
    patterns: Mapping[Pattern, Mapping[str, Any] | float],
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    no_decay: Iterable[str] = (),
    merge: bool = True,
    keep_frozen: bool = False,
) -> Groups:
    """Groups by name, for discriminative learning rates, as a 10 times larger rate for a new head.

    Args:
        model: as for `by_role`.
        patterns: pattern -> hyperparameters, or a number that multiplies lr. A pattern is a glob over the whole
            name ("*.bias"), the name of a module or parameter ("backbone.layer4"), or a compiled regular expression.
            The first match wins; parameters without a match get lr and weight_decay.
        lr, weight_decay: for parameters without a match, and defaults of the patterns.
        no_decay: roles without decay, as for `by_role`; empty by default.
        merge, keep_frozen: as for `by_role`.

    >>> groups = by_pattern(model, {"head": 10.0, "backbone.layer1": {"lr": 1e-5}}, lr=1e-3)

    Raises UsageError for a pattern that matches no parameter, with the nearest names. A pattern whose parameters are
    all frozen or matched by earlier patterns is not an error; `print(groups)` notes it.
    """
    if not mapping("by_pattern", "patterns", patterns, _PATTERNS):
        raise UsageError("by_pattern: patterns is empty; use by_role, or give a pattern, as in {'head': 10.0}")
    return _by_role("by_pattern", model, lr, weight_decay, no_decay, None, patterns, None, merge, keep_frozen)


def muon(
    model: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    adamw: Mapping[str, Any] | None = None,
    no_decay: Iterable[str] = NO_DECAY,
    convolutions: bool = True,
    also: Iterable[Pattern] = (),
    keep_out: Iterable[Pattern] = (),
    mark: str | None = None,
    keep_frozen: bool = False,
) -> Groups:
    """Muon's split: hidden matrices and convolution kernels for Muon, everything else for AdamW.

    The split is by role, never by the number of dimensions: embeddings, heads and position tables are
    matrices as well, and orthogonalizing their updates is silently wrong. AdamW gets:

    - embeddings, learned tokens, codebooks (`codevectors`) and position tables: rows that are looked up;
    - output layers, linear or convolutional: layers named so; otherwise the last layer of each tower, if no block and
    (after a
      convolution) no norm follows it: the last convolution of a U-Net, a DCGAN or the decoder of an EnCodec, the last
      layers of actor and critic, the heads of both towers;
    - the layer that reads the raw input, in each tower: the first convolution, or the first linear layer, if it is
    outside
      of blocks and after no embedding. A linear layer counts as hidden if no other matrix is left;
    - depthwise convolutions (not a matrix: each channel has its own filter), recurrent weights (several gates stacked
    in
      one tensor), norms, biases, scalars, and logarithms of rates (`A_log`).

    Muon gets all other matrices, including routers and stacks of experts (as in Liu et al. 2502.16982), projections
    between towers, and the means and variances of a VAE. `also` and `keep_out` override the split. `stepwell.Muon` does
    not split these groups again.

    Args:
        model: as for `by_role`.
        lr, weight_decay: values for Muon's group.
        adamw: hyperparameters of AdamW's groups, as {"lr": 3e-4, "weight_decay": 0.1, "betas": (0.9, 0.95)}.
        no_decay: roles without decay in AdamW's groups.
        convolutions: whether Muon gets convolution kernels; torch.optim.Muon accepts only matrices.
        also: patterns of tensors that Muon gets in spite of their role; they must be matrices by shape.
        keep_out: patterns of tensors that Muon does not get.
        mark: a key that is set to True in Muon's groups and to False in the others, as "use_muon", for optimizers
            that accept both.
        keep_frozen: as for `by_role`.

    Source: Jordan et al., "Muon", 2024; the split as in its README, and Liu et al. 2502.16982.

    >>> groups = muon(model, lr=0.02, adamw={"lr": 3e-4})
    >>> optimizers = Muon(groups.of("muon")), AdamW(groups.of("adamw"))

    Raises UsageError if Muon gets no tensor, or if a pattern has no match.
    """
    no_decay, _ = _checked_roles("muon", no_decay, None)
    convolutions, keep_frozen = flag("muon", "convolutions", convolutions), flag("muon", "keep_frozen", keep_frozen)
    mark = None if mark is None else text("muon", "mark", mark, "a str, the key that is set in each group")
    anatomy = find_roles(_checked_model("muon", model))
    forced = {id(member.tensor): member for member in pick(also, anatomy.members, "muon: also")}
    barred = {id(member.tensor): member for member in pick(keep_out, anatomy.members, "muon: keep_out")}
    for key, member in forced.items():
        if key in barred:
            raise UsageError(f"muon: '{member.name}' matches both also and keep_out; it must match at most one")
        if sum(size > 1 for size in member.tensor.shape) < 2:
            raise UsageError(
                f"muon: '{member.name}' of shape {list(member.tensor.shape)} is not a matrix, "
                "so it cannot be orthogonalized; remove it from also"
            )

    def goes(member: Member) -> bool:
        if id(member.tensor) in forced or id(member.tensor) in barred:
            return id(member.tensor) in forced
        return member.is_hidden_matrix and (convolutions or member.role != "convolution")

    other = {} if adamw is None else mapping("muon", "adamw", adamw, "a dict of hyperparameters, as {'lr': 3e-4}")
    check_keys("muon: adamw", other)
    other_lr, other_decay = other.pop("lr", None), other.pop("weight_decay", None)
    mine = Settings(anatomy, lr, weight_decay, (), {}, {}, None, "muon")
    rest = Settings(anatomy, other_lr, other_decay, no_decay, {}, {}, None, "muon")

    def settings(member: Member) -> tuple[Label, dict[str, Any]]:
        to_muon = goes(member)
        label, values = (mine if to_muon else rest)(member)
        if not to_muon:
            values = {**other, **values}
        if mark is not None:
            values[mark] = to_muon
        return Label("muon" if to_muon else "adamw", label.prefix), values

    settings_notes = [
        f"{what}, by request: {listed([m.name for m in chosen.values()])}"
        for what, chosen in (("for Muon", forced), ("kept from Muon", barred))
        if chosen
    ]
    groups = _assemble(anatomy, settings, keep_frozen=keep_frozen, notes=settings_notes)
    if "muon" not in groups.optimizers:
        raise UsageError(
            f"muon: {type(model).__name__} has no trainable hidden matrix or convolution kernel for Muon; "
            "use another optimizer, or name tensors with also=[...]"
        )
    return groups


def freeze(model: nn.Module, *patterns: Pattern, back: bool = False) -> list[str]:
    """Freeze the parameters that match (`requires_grad = False`, gradients set to None); returns their names.

    Args:
        model: the module; it is changed in place.
        patterns: as for `by_pattern`. None matches all parameters.
        back: whether to unfreeze instead.

    Norms with running statistics still update them in training mode; call `.eval()` on those modules as well.

    >>> names = freeze(model, "backbone")
    >>> freeze(model, "head.bias", back=True)
    ['head.bias']

    Raises UsageError for a pattern without a match, before anything is changed.
    """
    back = flag("freeze", "back", back)
    members = find_roles(_checked_model("freeze", model)).members
    chosen = pick(patterns, members, "freeze") if patterns else list(members)
    for member in chosen:
        if back and not (member.tensor.is_floating_point() or member.tensor.is_complex()):
            raise UsageError(f"freeze: '{member.name}' is {member.tensor.dtype} and cannot be trained; keep it frozen")
    for member in chosen:
        member.tensor.requires_grad_(back)
        if not back:
            member.tensor.grad = None
    return [member.name for member in chosen]


# How it is done


def _assemble(
    anatomy: Anatomy,
    settings: Callable[[Member], tuple[Label, dict[str, Any]]],
    *,
    merge: bool = True,
    keep_frozen: bool = False,
    notes: Sequence[str] = (),
) -> Groups:
    usable = [m for m in anatomy.members if m.tensor.is_floating_point() or m.tensor.is_complex()]
    frozen = [m for m in anatomy.members if not m.trained]
    taken = usable if keep_frozen else [m for m in usable if m.trained]
    if not taken:
        raise UsageError(
            f"all {len(anatomy.members)} parameters of the model are frozen (requires_grad is False), "
            "so there is no parameter to train; unfreeze some, or pass keep_frozen=True"
        )
    found: dict[Any, tuple[Label, dict[str, Any], list[Member]]] = {}
    for member in taken:
        label, values = settings(member)
        kept_apart = "" if merge else member.role
        key = (label, kept_apart, tuple(sorted((name, repr(value)) for name, value in values.items())))
        found.setdefault(key, (label, values, []))[2].append(member)
    if any(label.prefix.startswith("layer ") for label, _, _ in found.values()):
        found = dict(sorted(found.items(), key=lambda item: item[1][2][0].depth))
    found = dict(sorted(found.items(), key=lambda item: item[1][0].optimizer != "muon"))
    groups, optimizers = [], []
    for label, values, members in found.values():
        roles = "+".join(role for role in ROLES if any(m.role == role for m in members))
        prefix = ", ".join(part for part in (label.optimizer, label.prefix) if part)
        groups.append(
            {
                "params": [m.tensor for m in members],
                "param_names": [m.name for m in members],
                "name": f"{prefix}: {roles}" if prefix else roles,
                **values,
            }
        )
        optimizers.append(label.optimizer)
    said = list(notes)
    if isinstance(settings, Settings):
        said += settings.notes(taken)
    tied = [m for m in taken if len(m.names) > 1]
    if tied:
        said.append("tied, one tensor: " + "; ".join(" = ".join(m.names) for m in tied[:SHOWN]))
    if frozen and keep_frozen:
        said.append(f"frozen, and kept in the groups: {counted(frozen)}: {listed([m.name for m in frozen])}")
    elif frozen:
        said.append(f"frozen, in no group: {counted(frozen)}: {listed([m.name for m in frozen])}")
    return Groups(groups, anatomy.members, said, optimizers)


def _checked_roles(
    owner: str, no_decay: Iterable[str], roles: Mapping[str, Mapping[str, Any]] | None
) -> tuple[tuple[str, ...], Mapping[str, Mapping[str, Any]]]:
    exempt = _roles_of(owner, no_decay)
    by_role = "hyperparameters by role, as {'embedding': {'lr': 1e-3}}"
    given = {} if roles is None else mapping(owner, "roles", roles, by_role)
    for role in given:
        if not isinstance(role, str) or role not in ROLES:
            raise unknown("role", role, ROLES)
    a_dict = "a dict of hyperparameters, as {'lr': 1e-3}"
    return exempt, {role: mapping(owner, f"roles[{role!r}]", one, a_dict) for role, one in given.items()}


def _roles_of(owner: str, no_decay: Any) -> tuple[str, ...]:
    found = []
    for role in items(owner, "no_decay", no_decay, "a list of roles, as ('norm', 'bias')", most=_ROLES):
        if not isinstance(role, str) or role not in ROLES:
            raise unknown("role", role, ROLES)
        found.append(role)
    return tuple(found)


def _checked_model(owner: str, model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UsageError(f"{owner}: model is a {type(model).__name__}; it must be a torch.nn.Module")
    return model
