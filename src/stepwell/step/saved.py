"""How a run is saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stepwell.step import checkpoint, ranks, saving
from stepwell.step.overrides import checked_overrides, say_of_loaded
from stepwell.step.run import Run


class Saved(Run):
    """The checkpoints of a Step."""

    def state_dict(self) -> dict[str, Any]:
        """The complete state of the run except the model's weights, between two accumulations.

        It contains the optimizer's state (by name, if the parameters have names), the numbers of updates and skips, the
        scaler, the averages, the states of clipping, Plateau and estimator, and the random generators: Python's,
        NumPy's, torch's on the CPU and on every GPU, and the given `generators`.

        In a run of several processes `torch.distributed.checkpoint` saves it and loads it in place: every parameter has
        state, also before the first update, and generators are under the name of the rank.

        Raises UsageError within an accumulation (its gradients would be lost) and inside `averaged`.
        """
        if ranks.rank() is not None:
            self._trained.make_state()
        return ranks.named(self._state())

    def _state(self) -> dict[str, Any]:
        self._begin("state_dict")
        self._shares.check_none_in(", and a checkpoint would lose their gradients; save after an update")
        self._settle()
        return saving.state_dict(self._parts())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the result of `state_dict`. An incomplete accumulation is dropped.

        Raises UsageError that names the first parameter that does not fit, or the missing part. Nothing is changed
        then.
        """
        self._repair()
        self._refuse_inside_averaged("load_state_dict")
        self._settle()
        with say_of_loaded(self._bound, {}):
            state = ranks.unnamed(state)
            self._trained.check_has_state(state)
            saving.load_state_dict(self._parts(), state, self._loaded)

    def save(
        self,
        path: str | Path,
        model: torch.nn.Module | None = None,
        *,
        keep: int = 3,
        extra: Any = None,
    ) -> Path:
        """Write a checkpoint of the run: `state_dict()`, the state of the model, and `extra`.

        The checkpoint is written to a temporary file, forced to disk and renamed, so that `path` is always a complete
        file. Earlier checkpoints become `path` with `.1`, `.2`, ... before the suffix. Only files written by this run
        (also before a resume by `load`) are replaced or deleted: numbers of other files are skipped, and a checkpoint
        of another run at `path` is kept under the first free number.

        Inside a loop over `batches` the checkpoint contains the position of the loop. Several processes call `save`
        with the same path: rank 0 writes the checkpoint, and every other rank writes its random generators to `path`
        with `.rank1`, `.rank2`, ... appended. No process waits. If only rank 0 calls `save`, `load` reseeds the others.
        A sharded model (FSDP2, tensor parallelism) has a folder at `path`, which all ranks must write together, and
        which any number of processes can load.

        Args:
            path: such as "runs/a/checkpoint.pt"; missing folders are created.
            model: the module whose weights and buffers are saved; the Step's `model` by default.
            keep: how many checkpoints to keep, the new checkpoint included, at least 1. With 1 there is no earlier
                checkpoint to fall back to if the file is damaged.
            extra: your own values (such as the epoch): numbers, text, tensors, in lists and dicts.

        Raises UsageError if no Step wrote the file at `path`, if another process saves to `path`, within an
        accumulation, inside a pass that cannot be resumed, and if a rank of a sharded model does not save. If the disk
        is full or not writable, the UsageError is also an OSError. Earlier checkpoints are unchanged then.
        """
        return checkpoint.save(self._state, self._files, path, self._trained.model_to_save(model), keep, extra)

    def load(
        self,
        path: str | Path,
        model: torch.nn.Module | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """Load the newest intact checkpoint at `path`, and return its `extra`.

        A truncated or damaged file is skipped with a warning, and the previous checkpoint is loaded. Files are read
        with `weights_only=True`: they cannot run code.

        Hyperparameters are loaded from the checkpoint; one warning lists the values of this optimizer that were
        replaced. The schedule is that of this Step. If its factor at this update differs by a tenth or more from the
        factor in the checkpoint (as in a longer run), one warning says how the hyperparameter jumps.

        Args:
            overrides: values that replace those of the checkpoint in every group, as {"lr": 1e-4, "weight_decay": 0.1}.
                For a scheduled hyperparameter, the value is the base.

        >>> step.save("runs/a/checkpoint.pt")
        >>> step.load("runs/a/checkpoint.pt", overrides={"lr": 1e-4})

        Raises UsageError if there is no checkpoint, and for a checkpoint of another model, naming the first parameter
        that differs. Nothing is changed then.
        """
        self._repair()
        self._refuse_inside_averaged("load")
        self._settle()
        wanted = checked_overrides(self._bound, overrides)
        with say_of_loaded(self._bound, wanted):
            model = self._trained.model_to_save(model)
            return checkpoint.load(self._parts(), self._loaded, self._files, path, model, self._trained.optimizer)
