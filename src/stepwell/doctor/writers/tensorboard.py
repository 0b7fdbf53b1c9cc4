"""TensorBoard: scalars and texts of torch's SummaryWriter."""

from __future__ import annotations

from typing import Any

from stepwell.doctor.writers.writer import PREFIX, Level, package, prefixed


class TensorBoard:
    """Writes to a `torch.utils.tensorboard.SummaryWriter`, the user's or a new one.

    Args:
        writer: the user's SummaryWriter, which is never closed here; None opens one in torch's default folder, `runs/`.

    Raises MissingExtra if `writer` is None and tensorboard is not installed.
    """

    def __init__(self, writer: Any = None) -> None:
        self._own = writer is None
        if writer is None:
            package("tensorboard", "tensorboard", installs="tensorboard")
            writer = package("torch.utils.tensorboard", "tensorboard").SummaryWriter()
        self._writer = writer

    def step(self, step: int, values: dict[str, float]) -> None:
        for name, value in prefixed(values).items():
            self._writer.add_scalar(name, value, global_step=step)

    def finding(self, step: int, text: str, level: Level) -> None:
        # Markdown joins lines that are not indented by four: a block of code keeps them
        block = "\n".join(f"    {line}" for line in text.splitlines())
        self._writer.add_text(f"{PREFIX}findings", f"**{level}**\n\n{block}", global_step=step)
        self._writer.flush()

    def close(self) -> None:
        if self._own:
            self._writer.close()
        else:
            self._writer.flush()
