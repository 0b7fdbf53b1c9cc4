"""The printed program in PyTorch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stepwell.advisor.building import PLAIN, options
from stepwell.advisor.code.classes import CLASSES
from stepwell.advisor.code.common import arguments, head, parts, precision, remark, sizes, text
from stepwell.advisor.code.factors import factor
from stepwell.advisor.code.stand_ins import StandIn
from stepwell.errors import UsageError

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe

IN_TORCH = (
    "SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "Rprop", "LBFGS",
    "SparseAdam", "Adafactor", "Muon",
)  # fmt: skip


def program(recipe: Recipe, stand_in: StandIn, total: int) -> str:
    """The program as text. Raises UsageError for an optimizer that PyTorch does not have."""
    name = recipe.optimizer
    if name not in IN_TORCH and name not in CLASSES:
        raise UsageError(f"code: PyTorch has no {name}; use form='stepwell', or with_optimizer('adamw').code('torch')")
    if recipe.value("state") not in (None, "fp32"):
        raise UsageError(
            f"code: PyTorch has no optimizer with {recipe.value('state')} state; use form='stepwell', or give more "
            f"memory"
        )
    if stand_in.pair and name in ("Muon", "LBFGS"):
        raise UsageError(
            f"code: there is no program with {name} for two networks in PyTorch; use form='stepwell' or Adam"
        )
    function = factor(recipe, total)
    body = _pair(recipe, function is not None) if stand_in.pair else _single(recipe, function is not None)
    sections = [parts(stand_in)]
    sections += [CLASSES[name]] if name in CLASSES else []
    sections += [function] if function else []
    sections += [_groups(recipe)] if name not in PLAIN else []
    sections += [body]
    imports = ["from __future__ import annotations", ""]
    imports += ["import math"] if function and "math." in function else []
    imports += ["from collections.abc import Iterator", "", "import torch", "from torch import Tensor, nn",
                "from torch.nn import functional"]  # fmt: skip
    return (
        "\n\n".join([head(recipe, "plain PyTorch"), "\n".join(imports), sizes(recipe, total)])
        + "\n\n\n"
        + "\n\n\n".join(sections)
        + '\n\n\nif __name__ == "__main__":\n    main()\n'
    )


def _groups(recipe: Recipe) -> str:
    """The source of `groups(model)`."""
    decay = recipe.weight_decay if recipe.decay_form != "none" else 0.0
    exempt = set(recipe.value("exempt") or ()) if decay else set()
    layer = recipe.value("layer_decay")
    if recipe.optimizer == "Muon":
        return _MUON
    tests = []
    if exempt & {"norm", "bias", "scalar"}:
        tests.append("tensor.ndim < 2")
    if "embedding" in exempt:
        tests.append("isinstance(module, nn.Embedding)")
    if "position" in exempt:
        tests.append('"pos" in name')
    rule = " or ".join(tests) or "False"
    lines = ["def groups(model: nn.Module) -> list[dict]:"]
    if layer:
        lines += [
            '    """Groups with and without weight decay; the rate falls from part to part, from the head down."""',
            "    found, seen, parts = [], set(), list(model.children()) or [model]  # yours: the blocks, in order",
            "    for depth, part in enumerate(reversed(parts)):",
            f"        lr = {text(recipe.lr)} * {text(layer)} ** depth",
            "        for decayed in (True, False):",
            "            tensors = []",
            "            for module in part.modules():",
            "                for name, tensor in module.named_parameters(recurse=False):",
            f"                    exempt = {rule}",
            "                    if tensor.requires_grad and exempt != decayed and id(tensor) not in seen:",
            "                        seen.add(id(tensor))",
            "                        tensors.append(tensor)",
            "            if tensors:",
            f"                decay = {text(decay)} if decayed else 0.0",
            '                found.append({"params": tensors, "lr": lr, "weight_decay": decay})',
            "    return found",
        ]
    elif not tests:
        lines += [
            '    """One group: every tensor has the same settings."""',
            '    return [{"params": [tensor for tensor in model.parameters() if tensor.requires_grad]}]',
        ]
    else:
        lines += [
            '    """Two groups: with weight decay, and without."""',
            "    decayed, exempted, seen = [], [], set()",
            "    for module in model.modules():",
            "        for name, tensor in module.named_parameters(recurse=False):",
            "            if tensor.requires_grad and id(tensor) not in seen:  # a tied tensor once",
            "                seen.add(id(tensor))",
            f"                exempt = {rule}",
            "                (exempted if exempt else decayed).append(tensor)",
            f"    named = [(decayed, {text(decay)}), (exempted, 0.0)]",
            '    return [{"params": tensors, "weight_decay": decay} for tensors, decay in named if tensors]',
        ]
    return "\n".join(line for line in lines)


_MUON = '''def split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden matrices for Muon, and the rest for AdamW: two dimensions are not enough to tell, so names are asked."""
    hidden, rest, seen = [], [], set()
    for name, module in model.named_modules():
        for tensor in module.parameters(recurse=False):
            if tensor.requires_grad and id(tensor) not in seen:
                seen.add(id(tensor))
                is_hidden = tensor.ndim == 2 and not isinstance(module, nn.Embedding) and "head" not in name
                (hidden if is_hidden else rest).append(tensor)
    return hidden, rest'''


def _made(recipe: Recipe, model: str) -> str:
    decay = recipe.weight_decay if recipe.decay_form != "none" else 0.0
    name = recipe.optimizer
    given: dict[str, Any] = {"lr": recipe.lr, **options(recipe)}
    for extra in ("variant", "scale_parameter", "relative_step"):
        given.pop(extra, None)
    if name not in PLAIN:
        given["weight_decay"] = decay
    if name == "LARS":
        given.pop("eps", None)
    whose = "torch.optim." if name in IN_TORCH else ""
    params = f"{model}.parameters()" if name in PLAIN else f"groups({model})"
    return f"{whose}{name}({params}, {arguments(given)})"


def _optimizers(recipe: Recipe, model: str, suffix: str = "") -> list[str]:
    """The lines that make the optimizers over a model."""
    if recipe.optimizer != "Muon":
        return [f"    optimizer{suffix} = {_made(recipe, model)}{remark(recipe)}"]
    given = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, **options(recipe)}
    inner = min(recipe.lr, 3e-4) if given["adjust_lr_fn"] is None else recipe.lr
    return [
        f"    hidden, rest = split({model})",
        f"    optimizer{suffix} = torch.optim.Muon(hidden, {arguments(given)})",
        f"    adamw{suffix} = torch.optim.AdamW(rest, lr={text(inner)}, betas=(0.9, 0.95), weight_decay=0.0)",
    ]


def _single(recipe: Recipe, scheduled: bool) -> str:
    clip, ema, passes = recipe.value("clip_norm"), recipe.value("ema"), int(recipe.value("accumulate") or 1)
    muon = recipe.optimizer == "Muon"
    lines = [
        "def main() -> None:",
        "    torch.manual_seed(0)",
        '    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")',
        "    model = build().to(device).train()",
        *_optimizers(recipe, "model"),
    ]
    if scheduled:
        lines += ["    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)"]
        lines += ["    scheduler_adamw = torch.optim.lr_scheduler.LambdaLR(adamw, factor)"] if muon else []
    if ema:
        lines += [
            f"    average = torch.optim.swa_utils.get_ema_multi_avg_fn({text(ema)})",
            "    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)",
        ]
    lines += [
        "    for number, batch in enumerate(batches(), start=1):  # one pass over the data; an epoch",
        "        batch = tuple(part.to(device) for part in batch)",
    ]
    if recipe.optimizer == "LBFGS":
        lines += [
            "",
            "        def closure(batch: tuple[Tensor, ...] = batch) -> Tensor:",
            "            optimizer.zero_grad()",
            "            loss = loss_of(model, batch)",
            "            loss.backward()",
            "            return loss",
            "",
            "        loss = optimizer.step(closure)",
            '        print(f"update {number}: loss {loss.item():.4g}")',
        ]
        return "\n".join(lines)
    if precision(recipe):
        lines += [
            '        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):',
            "            loss = loss_of(model, batch)",
        ]
    else:
        lines += ["        loss = loss_of(model, batch)"]
    lines += ["        (loss / ACCUMULATE).backward()" if passes > 1 else "        loss.backward()"]
    if passes > 1:
        lines += ["        if number % ACCUMULATE:", "            continue"]
    if clip:
        lines += [f"        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={text(clip)})"]
    lines += ["        optimizer.step()"] + (["        adamw.step()"] if muon else [])
    if scheduled:
        lines += ["        scheduler.step()  # once per update"] + (["        scheduler_adamw.step()"] if muon else [])
    lines += ["        optimizer.zero_grad()"] + (["        adamw.zero_grad()"] if muon else [])
    lines += ["        averaged.update_parameters(model)"] if ema else []
    lines += ["        print(f\"update {number}: lr {optimizer.param_groups[0]['lr']:.3g}\")"]
    if recipe.schedule == "plateau":
        at = lines.index("    for number, batch in enumerate(batches(), start=1):  # one pass over the data; an epoch")
        lines.insert(at, "    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=10)")
        lines += [
            "    model.eval()",
            "    with torch.no_grad():",
            "        metric = sum(loss_of(model, tuple(part.to(device) for part in batch)).item() for batch in "
            "batches())",
            "    model.train()",
            "    plateau.step(metric)  # once per epoch, the loss on data that are held out",
        ]
    return "\n".join(lines)


def _pair(recipe: Recipe, scheduled: bool) -> str:
    clip = recipe.value("clip_norm")
    lines = [
        "def main() -> None:",
        "    torch.manual_seed(0)",
        '    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")',
        "    generator, discriminator = (network.to(device).train() for network in build())",
        f"    optimizer_g = {_made(recipe, 'generator')}",
        f"    optimizer_d = {_made(recipe, 'discriminator')}",
    ]
    if scheduled:
        lines += [
            "    scheduler_g = torch.optim.lr_scheduler.LambdaLR(optimizer_g, factor)",
            "    scheduler_d = torch.optim.lr_scheduler.LambdaLR(optimizer_d, factor)",
        ]
    lines += [
        "    for number, real in enumerate(batches(), start=1):  # one pass over the data; an epoch",
        "        real = real.to(device)",
    ]
    for letter, network, loss in (
        ("d", "discriminator", "loss_of_discriminator(discriminator, real, made.detach())"),
        ("g", "generator", "loss_of_generator(discriminator, made)"),
    ):
        lines += [
            "        made = generator(torch.randn(len(real), 16, device=device))",
            f"        optimizer_{letter}.zero_grad()",
            f"        {loss}.backward()",
        ]
        if clip:
            lines += [f"        torch.nn.utils.clip_grad_norm_({network}.parameters(), max_norm={text(clip)})"]
        lines += [f"        optimizer_{letter}.step()"]
    if scheduled:
        lines += ["        scheduler_g.step()  # once per update", "        scheduler_d.step()"]
    lines += ["        print(f\"update {number}: lr {optimizer_g.param_groups[0]['lr']:.3g}\")"]
    return "\n".join(lines)
