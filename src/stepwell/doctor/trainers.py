"""The doctor inside trainers: callbacks for Lightning and for the Trainer of Hugging Face.

trainer = lightning.Trainer(callbacks=[LightningDoctor()])
callback = watch_trainer(trainer)  # a transformers.Trainer, before trainer.train()
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from stepwell.doctor.doctor import Doctor
from stepwell.errors import UsageError


def LightningDoctor(**options: Any) -> Any:
    """A callback for `Trainer(callbacks=[...])`. `options` are those of `Doctor`; `monitor` names the logged metric of
    the validation (lower is better), by default "val_loss"."""
    base: Any = _callback()
    monitor = options.pop("monitor", "val_loss")

    class Watching(base):
        doctor: Doctor | None = None

        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.doctor = Doctor(module, list(trainer.optimizers), **options)

        def on_before_backward(self, trainer: Any, module: Any, loss: Any) -> None:
            if self.doctor is not None:
                self.doctor._tell(loss, "Lightning")

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            value = trainer.callback_metrics.get(monitor)
            if self.doctor is not None and value is not None and not trainer.sanity_checking:
                self.doctor.val(float(value))

        def on_train_end(self, trainer: Any, module: Any) -> None:
            if self.doctor is not None:
                self.doctor.close()

        def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
            self.on_train_end(trainer, module)

    return Watching()


def _callback() -> Any:
    """The base of callbacks of the Lightning that is installed."""
    for name in ("lightning.pytorch.callbacks", "pytorch_lightning.callbacks"):
        try:
            return import_module(name).Callback
        except ImportError:
            continue
    raise UsageError("LightningDoctor needs the package 'lightning', which is not installed: pip install lightning")


def watch_trainer(trainer: Any, **options: Any) -> Any:
    """Adds a doctor to a `transformers.Trainer` before its train(). Returns the callback, whose `doctor` has findings.

    Raises UsageError for an object without compute_loss and add_callback.
    """
    if not (hasattr(trainer, "compute_loss") and hasattr(trainer, "add_callback")):
        raise UsageError("watch_trainer: this is no transformers.Trainer: it has no compute_loss and add_callback")
    from transformers import TrainerCallback

    inner = trainer.compute_loss

    class Watching(TrainerCallback):
        doctor: Doctor | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            optimizer = getattr(given["optimizer"], "optimizer", given["optimizer"])  # that of Accelerate wraps it
            self.doctor = Doctor(given["model"], optimizer, **options)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **given: Any) -> None:
            if self.doctor is not None and metrics and "eval_loss" in metrics:
                self.doctor.val(metrics["eval_loss"])

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if self.doctor is not None:
                self.doctor.close()
            trainer.compute_loss = inner

    callback = Watching()

    def compute_loss(model: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner(model, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if callback.doctor is not None and loss.requires_grad:
            callback.doctor._tell(loss, "Trainer")
        return result

    trainer.compute_loss = compute_loss
    trainer.add_callback(callback)
    return callback
