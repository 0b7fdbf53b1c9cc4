"""Optimizers, schedulers and the Step under the trainers of others: Accelerate, Lightning, the Hugging Face Trainer.

A warning is an error here too, as that a scheduler stepped before its optimizer, but for those in `THEIRS`.
"""

from __future__ import annotations

import importlib
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell as sw
from stepwell.step import Step
from tests.step.small import same
from tests.step.trainers import setting
from tests.step.trainers.setting import OPTIMIZERS, Outcome, Setting

THEIRS = (
    ".*LeafSpec.* is deprecated",  # Lightning and torch
    "Checkpoint directory .* exists and is not empty",  # Lightning, where a run goes on
    "'pin_memory' argument is set as true but no accelerator is found",  # torch
    "GPU available but not used",  # Lightning
    "Using ModelCheckpoint with manual optimization and every_n_train_steps",  # Lightning
)

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(f"ignore:{text}") for text in THEIRS),
    pytest.mark.xdist_group("trainers"),  # importing them takes 6 s: once
]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
EXAMPLE_FILES = ["with_accelerate.py", "with_lightning.py", "with_lightning_two.py", "with_trainer.py"]
CHANCE = 1.386  # nats: the loss of four equally likely classes

# Trainer -> what it multiplies the loss with where an accumulation ends with the data, after one of two micro-batches.
TRAINERS = {"accelerate": 0.5, "lightning": 0.5, "transformers": 1.0}
STOP_AT = 12  # forward passes: in the middle of the second of three epochs, and of an accumulation


@pytest.fixture(autouse=True)
def _what_trainers_leave_behind() -> Iterator[None]:
    """They seed the global generators, and Accelerate's state is global."""
    from accelerate.state import AcceleratorState, GradientState

    with torch.random.fork_rng([]):
        yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def run(trainer: str, wanted: Setting) -> Outcome:
    return importlib.import_module(f"tests.step.trainers.with_{trainer}").run(wanted)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_accumulation_clipping_and_schedule_are_those_of_a_plain_loop(trainer: str, optimizer: str) -> None:
    expected = setting.plain(Setting(optimizer), TRAINERS[trainer])
    outcome = run(trainer, Setting(optimizer))
    assert torch.equal(outcome.weights, expected.weights)
    assert same(outcome.state, expected.state)
    assert outcome.state["param_groups"][0]["lr"] == pytest.approx(0.1 * outcome.state["param_groups"][0]["initial_lr"])
    assert not torch.equal(run(trainer, Setting(optimizer, clip=None)).weights, expected.weights)


def check_that_it_went_on(whole: Outcome, resumed: Outcome) -> None:
    assert torch.equal(whole.weights, resumed.weights)
    assert same(whole.state, resumed.state)
    assert resumed.passes < whole.passes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_run_goes_on_bit_for_bit_from_the_trainers_checkpoint(trainer: str, optimizer: str, tmp_path: Path) -> None:
    whole = run(trainer, Setting(optimizer, random=True, folder=tmp_path / "whole"))
    with pytest.raises(setting.Stopped):
        run(trainer, Setting(optimizer, random=True, folder=tmp_path / "stopped", stop_at=STOP_AT))
    resumed = run(trainer, Setting(optimizer, random=True, folder=tmp_path / "stopped", resume=True))
    check_that_it_went_on(whole, resumed)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_killed_process_goes_on_bit_for_bit_in_another(trainer: str, tmp_path: Path) -> None:
    script = [sys.executable, "-m", f"tests.step.trainers.with_{trainer}", str(tmp_path / "killed"), str(STOP_AT)]
    killed = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    whole = run(trainer, Setting("AdamW int8", random=True, folder=tmp_path / "whole"))
    codes = [slots["exp_avg"].dtype for slots in whole.state["state"].values() if "exp_avg_largest" in slots]
    assert codes == [torch.uint8]  # one layer is large enough for it
    resumed = run(trainer, Setting("AdamW int8", random=True, folder=tmp_path / "killed", resume=True))
    check_that_it_went_on(whole, resumed)


@pytest.mark.parametrize("example", EXAMPLE_FILES)
def test_an_example_learns(example: str) -> None:
    assert float(runpy.run_path(str(EXAMPLES / example))["main"]()) < 0.4 * CHANCE


def stop(now: bool) -> None:
    if now:
        raise setting.Stopped


def averages(step: Any) -> list[torch.Tensor]:
    with step.averaged():
        return [p.detach().clone() for group in step.optimizer.param_groups for p in group["params"]]


def points() -> torch.utils.data.TensorDataset:
    x = torch.randn(104, 2, generator=torch.Generator().manual_seed(0))
    return torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long())


def test_the_step_of_the_example_goes_on_from_lightnings_checkpoint(tmp_path: Path) -> None:
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    example = runpy.run_path(str(EXAMPLES / "with_lightning.py"))["Quadrants"]

    def fit(folder: str, stop_at: int | None = None, path: str | None = None) -> Any:
        torch.manual_seed(0 if path is None else 1)
        model = example()
        if stop_at is not None:
            model.on_train_batch_start = lambda batch, index: stop(model.step.number == stop_at)
        trainer = lightning.Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            callbacks=[ModelCheckpoint(tmp_path / folder, save_last=True)],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # In order: the Step sets the global generators, but Lightning has drawn the first order of a run before that.
        trainer.fit(model, torch.utils.data.DataLoader(points(), 16), ckpt_path=path)
        return model

    whole = fit("whole")
    with pytest.raises(setting.Stopped):
        fit("stopped", stop_at=10)
    resumed = fit("stopped", path="last")
    assert (len(whole.losses), len(resumed.losses)) == (21, 14)
    assert whole.step.number == resumed.step.number == resumed.trainer.global_step == 21
    assert same(list(whole.state_dict().values()), list(resumed.state_dict().values()))
    assert same(averages(whole.step), averages(resumed.step))


@pytest.mark.parametrize("hooked", ["none", "one", "both"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_lightning_counts_the_updates_of_two_steps_once(hooked: str, wrapped: bool, tmp_path: Path) -> None:
    """Whether its counter is told by hand, as for one optimizer, for both or for none: `max_steps` counts updates."""
    import pytorch_lightning as lightning
    from pytorch_lightning.callbacks import ModelCheckpoint

    class Two(runpy.run_path(str(EXAMPLES / "with_lightning_two.py"))["Gan"]):  # type: ignore[misc]
        def on_fit_start(self) -> None:
            optimizers = self.optimizers(use_pl_optimizer=wrapped)
            self.steps = [Step(one, ema=0.9) for one in optimizers]
            counted = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
            for step in self.steps[: {"none": 0, "one": 1, "both": 2}[hooked]]:
                step.optimizer.register_step_pre_hook(lambda *_: counted.increment_ready())
                step.optimizer.register_step_post_hook(lambda *_: counted.increment_completed())

    model = Two()
    trainer = lightning.Trainer(
        max_steps=10,
        accelerator="cpu",
        logger=False,
        callbacks=[ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = torch.utils.data.TensorDataset(torch.randn(512, 2))
    trainer.fit(model, torch.utils.data.DataLoader(data, 8))
    assert trainer.global_step == 10
    assert [step.number for step in model.steps] == [5, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=0-step=4.ckpt", "epoch=0-step=8.ckpt"]


def test_a_step_goes_on_from_accelerates_checkpoint(tmp_path: Path) -> None:
    from accelerate import Accelerator

    def train(epochs: range) -> tuple[torch.nn.Module, Step]:
        accelerator = Accelerator(cpu=True)
        network = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Dropout(0.2), torch.nn.Linear(32, 4))
        optimizer = sw.Lion(network.named_parameters(), lr=1e-3, state="bf16")
        loader = torch.utils.data.DataLoader(points(), 16, shuffle=True)
        network, loader = accelerator.prepare(network, loader)
        schedule = sw.warmup(0.1).then(sw.cosine())
        step = Step(optimizer, schedule, accumulate=2, ema=0.9, total_steps=12, model=network)
        accelerator.register_for_checkpointing(step)
        if epochs.start:
            accelerator.load_state(str(tmp_path / str(epochs.start)))
        for epoch in epochs:
            for x, y in step.batches(loader):
                step(torch.nn.functional.cross_entropy(network(x), y))
            accelerator.save_state(str(tmp_path / str(epoch + 1)))
        return network, step

    torch.manual_seed(0)
    whole, step = train(range(3))
    resumed, step_resumed = train(range(1, 3))
    assert step.number == step_resumed.number == 12
    assert same(whole.state_dict(), resumed.state_dict())
    assert same(averages(step), averages(step_resumed))


def test_a_pass_over_accelerates_loader_goes_on_in_its_middle(tmp_path: Path) -> None:
    from accelerate import Accelerator

    def train(stop: int | None, resume: bool) -> list[Any]:
        network = torch.nn.Linear(2, 4)
        step = Step(sw.SGD(network.parameters(), lr=0.0), model=network)
        loader = Accelerator(cpu=True).prepare(torch.utils.data.DataLoader(points(), 16, shuffle=True))
        order: list[Any] = []
        if resume:
            step.load(tmp_path / "middle.pt")
        for epoch in range(step.passes, 2):
            loader.set_epoch(epoch)
            for x, y in step.batches(loader):
                order.append(x[0, 0].item())
                step(torch.nn.functional.cross_entropy(network(x), y))
                if len(order) == stop:
                    step.save(tmp_path / "middle.pt")
                    return order
        return order

    torch.manual_seed(0)
    whole = train(None, False)
    for stop in (1, len(whole) // 2 - 1, len(whole) // 2 + 2):
        torch.manual_seed(0)
        seen = train(stop, False)
        torch.manual_seed(1)
        assert seen + train(None, True) == whole, stop
