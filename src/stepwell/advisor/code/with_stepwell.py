"""The printed program in stepwell."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from stepwell.advisor.building import PLAIN, options
from stepwell.advisor.code.common import arguments, head, parts, precision, sizes, text
from stepwell.advisor.code.stand_ins import StandIn
from stepwell.advisor.schedules_of import expression
from stepwell.errors import UsageError

if TYPE_CHECKING:
    from stepwell.advisor.recipe import Recipe


def program(recipe: Recipe, stand_in: StandIn, total: int) -> str:
    """The program as text."""
    if stand_in.pair and recipe.optimizer == "LBFGS":
        raise UsageError("code: there is no program with LBFGS for two networks; use with_optimizer('adam')")
    schedule = expression(recipe, total)
    names = (
        sorted(word for word in _SCHEDULES if re.search(rf"\b{word}\(", schedule)) if schedule != "constant()" else []
    )
    grouped = recipe.optimizer not in (*PLAIN, "Muon")
    imports = [
        "from __future__ import annotations",
        "",
        "from collections.abc import Iterator",
        "",
        "import torch",
        "from torch import Tensor, nn",
        "from torch.nn import functional",
        *(["from torch.nn.attention import SDPBackend, sdpa_kernel"] if recipe.optimizer == "Sophia" else []),
        "",
        "import stepwell as sw",
    ]
    imports += ["from stepwell.groups import by_role"] if grouped else []
    imports += [f"from stepwell.schedules import {', '.join(names)}"] if names else []
    body = _pair(recipe, schedule) if stand_in.pair else _single(recipe, schedule)
    return (
        "\n\n".join([head(recipe, "stepwell"), "\n".join(imports), sizes(recipe, total)])
        + f'\n\n\n{parts(stand_in)}\n\n\n{body}\n\n\nif __name__ == "__main__":\n    main()\n'
    )


_SCHEDULES = (
    "warmup", "cosine", "linear", "multi_step", "polynomial", "constant", "exponential_to", "trapezoid", "one_cycle",
    "cooldown", "inverse_square_root",
)  # fmt: skip


def _made(recipe: Recipe, model: str) -> str:
    """The lines that make the optimizer over a model."""
    decay = recipe.weight_decay if recipe.decay_form != "none" else 0.0
    exempt = tuple(recipe.value("exempt") or ()) if decay else ()
    given: dict[str, Any] = options(recipe)
    if recipe.value("state") not in (None, "fp32"):
        given["state"] = recipe.value("state")
    rest = f", {arguments(given)}" if given else ""
    if recipe.optimizer in PLAIN:
        return f"sw.{recipe.optimizer}({model}, lr={text(recipe.lr)}{rest})"
    if recipe.optimizer == "Muon":
        inner = min(recipe.lr, 3e-4) if given.get("adjust_lr_fn") is None else recipe.lr
        return f"sw.Muon({model}, lr={text(recipe.lr)}, weight_decay={text(decay)}, adamw_lr={text(inner)}{rest})"
    layer = recipe.value("layer_decay")
    groups = f"by_role({model}, lr={text(recipe.lr)}, weight_decay={text(decay)}, no_decay={text(exempt)}"
    groups += f", layer_decay={text(layer)})" if layer else ")"
    rates = f"lr={text(recipe.lr)}, weight_decay={text(decay)}{rest}"
    return f"sw.{recipe.optimizer}(\n        {groups},\n        {rates},\n    )"


def _step(recipe: Recipe, optimizer: str, schedule: str, model: str) -> str:
    clip, ema = recipe.value("clip_norm"), recipe.value("ema")
    passes = int(recipe.value("accumulate") or 1)
    given = [optimizer, "None" if schedule == "constant()" else schedule]
    given += [f"clip_norm={text(clip)}"] if clip else []
    given += ["accumulate=ACCUMULATE"] if passes > 1 else []
    given += [f"ema={text(ema)}"] if ema and model != "discriminator" else []
    given += ["plateau=sw.Plateau(0.5, patience=10)"] if recipe.schedule == "plateau" else []
    given += ["estimator=sw.Hutchinson()"] if recipe.optimizer == "Sophia" else []
    given += ["total_steps=STEPS"] if schedule != "constant()" else []
    given += [f"model={model}"]
    inside = "\n        ".join(f"{item}," for item in given)
    return f"sw.Step(\n        {inside}\n    )"


def _single(recipe: Recipe, schedule: str) -> str:
    lines = [
        "def main() -> None:",
        "    torch.manual_seed(0)",
        '    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")',
        "    model = build().to(device).train()",
        f"    optimizer = {_made(recipe, 'model')}",
        f"    step = {_step(recipe, 'optimizer', schedule, 'model')}",
    ]
    modes = recipe.optimizer.startswith("ScheduleFree")
    lines += ["    optimizer.train()  # and optimizer.eval() before an evaluation"] if modes else []
    lines += [
        "    for batch in step.batches(batches()):  # one pass over the data; an epoch",
        "        batch = tuple(part.to(device) for part in batch)",
    ]
    if recipe.optimizer == "LBFGS":
        lines += ["        done = step.closure(lambda batch=batch: loss_of(model, batch))"]
    elif recipe.optimizer == "Sophia":
        lines += [
            "        with sdpa_kernel(SDPBackend.MATH):  # the only attention with a second derivative",
            "            loss = loss_of(model, batch)",
            "        done = step(loss)",
        ]
    elif precision(recipe):
        lines += [
            '        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):',
            "            loss = loss_of(model, batch)",
            "        done = step(loss)",
        ]
    else:
        lines += ["        loss = loss_of(model, batch)", "        done = step(loss)"]
    lines += ["        if done.updated:", '            print(f"update {step.number}: lr {done.lr:.3g}")']
    if recipe.schedule == "plateau":
        lines += [
            "    model.eval()",
            "    with torch.no_grad():",
            "        metric = sum(loss_of(model, tuple(part.to(device) for part in batch)).item() for batch in "
            "batches())",
            "    model.train()",
            "    step.observe(metric)  # once per epoch, the loss on data that are held out",
        ]
    return "\n".join(lines)


def _pair(recipe: Recipe, schedule: str) -> str:
    return "\n".join(
        [
            "def main() -> None:",
            "    torch.manual_seed(0)",
            '    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")',
            "    generator, discriminator = (network.to(device).train() for network in build())",
            f"    optimizer_g = {_made(recipe, 'generator')}",
            f"    optimizer_d = {_made(recipe, 'discriminator')}",
            f"    step_g = {_step(recipe, 'optimizer_g', schedule, 'generator')}",
            f"    step_d = {_step(recipe, 'optimizer_d', schedule, 'discriminator')}",
            "    for real in batches():  # one pass over the data; an epoch",
            "        real = real.to(device)",
            "        made = generator(torch.randn(len(real), 16, device=device))",
            "        step_d(loss_of_discriminator(discriminator, real, made.detach()))",
            "        made = generator(torch.randn(len(real), 16, device=device))",
            "        done = step_g(loss_of_generator(discriminator, made))",
            "        if done.updated:",
            '            print(f"update {step_g.number}: lr {done.lr:.3g}")',
        ]
    )
