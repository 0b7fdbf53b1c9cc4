"""What a tensor is before it was only viewed, moved or cast, and what layer computed it."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.lint.analysis.values import Tensor, Thing

_SAME = frozenset(
    [
        "[]",
        "view",
        "reshape",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "flatten",
        "to",
        "float",
        "double",
        "half",
        "cuda",
        "cpu",
        "contiguous",
        "t",
        "T",
        "clone",
        "view_as",
        "reshape_as",
        "narrow",
        "movedim",
        "type",
        "type_as",
    ]
)


def source(tensor: Tensor) -> Tensor:
    """The tensor whose values these are."""
    for _ in range(30):
        if tensor.by in _SAME and tensor.parts:
            tensor = tensor.parts[0]
        elif (
            tensor.by == "model"
            and tensor.inner is not None
            and tensor.inner.by in (*_SAME, "model")
            and tensor.inner is not tensor
        ):
            tensor = tensor.inner
        else:
            return tensor
    return tensor


def layer(tensor: Tensor) -> Thing | None:
    """The layer of torch.nn that computed a tensor, where that is all known."""
    one = source(tensor)
    if one.by != "model" or not one.models or one.inner is not None:
        return None
    return last_layer(one.models[0])  # the model that computed it comes first, those of its inputs follow


def last_layer(model: Thing) -> Thing | None:
    for _ in range(10):
        last = model.attributes.get("<last>")
        if not isinstance(last, Thing):
            break
        model = last
    return model if model.local is None and model.cls.startswith("torch.nn.") else None


def graph(tensor: Tensor) -> Iterator[Tensor]:
    """This tensor and all that its graph reaches: what was detached or computed without a graph is left out."""
    todo, seen = [tensor], set()
    while todo:
        one = todo.pop()
        if id(one) not in seen and one.attached is not False:
            seen.add(id(one))
            yield one
            todo += one.parts
