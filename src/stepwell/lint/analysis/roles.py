"""What a loop goes over: batches, epochs, counted updates, or whole runs."""

from __future__ import annotations

import ast
import re

from stepwell.lint.analysis.syntax import written
from stepwell.lint.analysis.values import Many, Tensor, Thing, Value

_RUN = re.compile(
    r"(^|_)(fold|folds|run|runs|seed|seeds|trial|trials|rep|reps|repeat|repeats|repetition|experiment|experiments|exp|"
    r"config|configs|grid|lr|lrs|hparams?|task|tasks|domain|split|splits|subject|client|clients|stage|phase_idx|"
    r"round|rounds|optim_name|optimizer_name|n_run|cv)(_|\d|$)",
    re.I,
)
_EPOCH = re.compile(r"epoch|(^|_)ep(_|\d|$)", re.I)
_BATCH = re.compile(
    r"(load|dl$|dataloader|batch|minibatch|train_?data|train_?set|dataset|train_iter|data_iter|_iter$|generator|"
    r"train_gen|queue|prefetch)",
    re.I,
)
_BATCH_TARGET = re.compile(
    r"(^|_|\W)(batch|minibatch|batch_?idx|data|inputs?|images?|imgs?|x_?batch|sample|xb|yb|labels?|targets?)(_|\d|\W|$)",
    re.I,
)
_STEP = re.compile(
    r"(^|_|\W)(step|steps|iter|iters|itr|itrs|iteration|iterations|it|n_iter|max_iter|updates?|t|global_step)(_|\d|\W|$)",
    re.I,
)


def role_of(node: ast.For | ast.AsyncFor | ast.While, over: Value) -> str:
    """ "batch", "epoch", "run", "step", or "" for a loop."""
    if isinstance(node, ast.While):
        text = written(node.test)
        if "batch" in text.lower() and "len(" in text:  # while i + batch_size < len(data)
            return "batch"
        return "epoch" if _EPOCH.search(text) else "step" if _STEP.search(text) or text in ("True", "1") else ""
    target, text = written(node.target), written(node.iter)[:300]
    if isinstance(over, Thing) and over.kind == "loader":
        return "batch"
    if isinstance(over, Tensor) and over.by == "data":
        return "batch"
    ranged = (
        re.match(r"(tqdm\w*[.(]|\w*trange|range|count|itertools\.count|master_bar|progress_bar|track)", text)
        is not None
    )
    if re.match(r"\(?(fold|seed|trial|repeat|run)\w*", target):
        return "run"
    if ".split(" in text or "product(" in text or "KFold" in text:
        return "run"
    if _EPOCH.search(target) and not re.match(r"\(?\s*(batch|i|step)", target):
        return "epoch"
    if _RUN.search(target) and not _BATCH.search(text):
        return "run"
    inside = re.sub(r"\b(tqdm|enumerate|range|len|zip|trange|min|int|list|iter|auto|notebook)\b", "", text)
    if "len(" in text and _BATCH.search(inside):
        return "batch"
    if "range" in text.partition("(")[0] and _EPOCH.search(inside):
        return "epoch"
    if not ("range(" in text or "count(" in text) and (_BATCH.search(inside) or _BATCH_TARGET.search(target)):
        return "batch"
    if isinstance(over, Many) and not over.whole and _BATCH_TARGET.search(target):
        return "batch"
    if ranged and (
        _STEP.search(target) or _STEP.search(inside) or _BATCH.search(inside) or _BATCH_TARGET.search(target)
    ):
        return "step"
    return "epoch" if _EPOCH.search(inside) else ""
