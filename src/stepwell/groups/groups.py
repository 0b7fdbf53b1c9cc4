"""Parameter groups, with a table of their contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stepwell.anatomy import Member
from stepwell.errors import UsageError, nearest, shown

# Roles that weight decay leaves alone unless told otherwise. There is no single convention: nanoGPT decays embeddings,
# OLMo exempts only them, vision transformers exempt tables of positions. Shrinking what norms, biases and scales say
# has no use, and decay pulls rare rows of an embedding to zero between the few gradients that they get. A tied head
# gets a gradient in every row at every step, so it is decayed.


class Groups(list[dict[str, Any]]):
    """Parameter groups for any `torch.optim` optimizer; they print as a table.

    Each is a dict with `params`, `param_names`, `name`, and the hyperparameters that differ from the optimizer's
    defaults. `print(groups)` shows the hyperparameters of each tensor, and the tensors in no group.

    Iteration gives copies, because torch.optim writes its defaults into the dicts. So the same groups can be passed to
    a second optimizer, and still print the values that were set. `groups[0]["lr"] = 1e-3` changes the group.

    >>> optimizer = torch.optim.AdamW(by_role(model, lr=3e-4, weight_decay=0.1))

    Attributes:
        members: every tensor of the model, with role and depth, including tensors in no group.
        notes: sentences about tensors that are frozen, tied or matched twice.
        optimizers: for each group, the name of its optimizer, or None.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        members: Sequence[Member],
        notes: Sequence[str] = (),
        optimizers: Sequence[str | None] | None = None,
    ) -> None:
        super().__init__(groups)
        self.members = tuple(members)
        self.notes = tuple(notes)
        self.optimizers = tuple(optimizers) if optimizers is not None else (None,) * len(self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dict(group) for group in super().__iter__())

    def of(self, optimizer: str) -> Groups:
        """The groups for one optimizer.

        >>> groups = muon(model)
        >>> inner = AdamW(groups.of("adamw"))

        Raises UsageError if there is no group for this optimizer.
        """
        wanted = optimizer if isinstance(optimizer, str) else ""
        chosen = [index for index, name in enumerate(self.optimizers) if name == wanted]
        if not chosen:
            known = {name for name in self.optimizers if name}
            if not known:
                raise UsageError(
                    f"of({shown(optimizer)}): these groups are for a single optimizer; pass the groups to it directly"
                )
            raise UsageError(f"of({shown(optimizer)}): no group has this optimizer: {nearest(optimizer, known)}")
        return Groups([self[i] for i in chosen], self.members, self.notes, [self.optimizers[i] for i in chosen])

    def table(self, *, optimizer: Any = None, state: str = "fp32", width: int | None = None) -> str:
        """The groups as a table, one line each, then the notes.

        Args:
            optimizer: a name or a class, to include the bytes of its state.
            state: the format of that state.
            width: the maximal line length in characters; long names are shortened.
        """
        from stepwell.groups.show import table

        return table(self, optimizer=optimizer, state=state, width=width)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        """One line: a list would print every tensor."""
        tensors = [tensor for group in self for tensor in group["params"]]
        counted = " and ".join(
            f"{count:,} {what}{'' if count == 1 else 's'}"
            for count, what in ((len(self), "group"), (len(tensors), "tensor"))
        )
        elements = sum(tensor.numel() for tensor in tensors)
        return f"<Groups: {counted}, {elements:,} elements; print() shows them as a table>"

    def _repr_html_(self) -> str:
        """The table, in notebooks."""
        from stepwell.groups.show import html

        return html(self)
