"""What the checks train: a few optimizers that differ in kind, a small network, and how one sees that it went well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.errors import UsageError
from stepwell.optimizers import find

WORKS, NONE = "works", "-"
STEPS = 6
TOLERANCE = 1e-5  # where sums are added up in another order


@dataclass(frozen=True)
class Subject:
    """An optimizer as a user builds it."""

    label: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    around: str | None = None  # a wrapper
    dtype: torch.dtype = torch.float32
    close: float = TOLERANCE  # of the weights, where they are cut or summed differently

    def make(self, network: nn.Module) -> Any:
        """The optimizer of a network."""
        inside = find(self.name)(network.named_parameters(), **self.options)
        return inside if self.around is None else find(self.around)(inside)

    def torchs(self, network: nn.Module) -> Any:
        """The same optimizer of torch's, or None where it has none."""
        plain = self.around is None and self.dtype == torch.float32 and "state" not in self.options
        return getattr(torch.optim, self.name)(network.parameters(), **self.options) if plain and self.twin else None

    @property
    def twin(self) -> bool:
        return self.name == "AdamW"

    @property
    def takes_closure(self) -> bool:
        """Whether a step evaluates the loss itself."""
        return self.around == "SAM"


SUBJECTS = (
    Subject("AdamW", "AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    Subject("AdamW int8", "AdamW", {"lr": 0.01, "weight_decay": 0.1, "state": "int8"}, close=2e-2),
    Subject("AdamW split", "AdamW", {"lr": 0.01, "weights": "split"}, dtype=torch.bfloat16, close=2e-2),
    Subject("Muon", "Muon", {"lr": 0.01, "ns_dtype": "fp32"}, close=1e-4),
    Subject("SAM(SGD)", "SGD", {"lr": 0.05, "momentum": 0.9}, around="SAM"),
    Subject("Lookahead(AdamW)", "AdamW", {"lr": 0.01}, around="Lookahead"),
)


class Failed(Exception):
    """What a check says where something is not as it should be."""


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """The middle matrix has 4,096 elements, the fewest that are kept in int8."""
    torch.manual_seed(0)
    layers = (nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    return nn.Sequential(*layers).to(dtype)


def batch(number: int, dtype: torch.dtype = torch.float32, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 8, generator=generator).to(dtype)
    return x, torch.randint(4, (size,), generator=generator)


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def step(optimizer: Any, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """One update, by a closure: all optimizers take it."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        return loss

    optimizer.step(closure)


def train(optimizer: Any, model: nn.Module, begin: int = 0, end: int = STEPS) -> None:
    dtype = next(model.parameters()).dtype
    for number in range(begin, end):
        step(optimizer, model, *batch(number, dtype))


def flat(model: nn.Module) -> Tensor:
    """All parameters as one vector, a copy."""
    whole = (p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters())
    return torch.cat([p.detach().reshape(-1).float() for p in whole])


def start(subject: Subject) -> tuple[nn.Module, Any]:
    model = network(subject.dtype)
    return model, subject.make(model)


def plain(subject: Subject, end: int = STEPS) -> Tensor:
    """The weights after an ordinary run."""
    model, optimizer = start(subject)
    train(optimizer, model, 0, end)
    return flat(model)


def expect(found: Any, wanted: Any, what: str) -> None:
    """Raise `Failed` unless the two are equal, bit for bit."""
    is_same = torch.equal(found, wanted) if isinstance(wanted, Tensor) else found == wanted
    if not is_same:
        raise Failed(f"{what}: {_apart(found, wanted)}")


def expect_close(found: Tensor, wanted: Tensor, bound: float, what: str) -> None:
    if not torch.allclose(found, wanted, rtol=bound, atol=bound):
        raise Failed(f"{what}: {_apart(found, wanted)}")


def _apart(found: Any, wanted: Any) -> str:
    if isinstance(wanted, Tensor):
        return f"the weights are up to {float((found - wanted).abs().max()):.0e} apart"
    return f"{found} for {wanted}"


def outcome(check: Callable[[Subject], str | None], subject: Subject) -> str:
    """How a check ended, in the words of the page."""
    with quiet():
        try:
            return check(subject) or WORKS
        except UsageError as error:
            return f"refused: {error}"
        except Failed as error:
            return f"differs: {error}"
        except ImportError as error:
            return NONE if error.name and not error.name.startswith("stepwell") else f"fails: ImportError: {error}"
        except Exception as error:  # what others' code raises is what is asked
            line = " ".join(str(error).split())
            return f"fails: {type(error).__name__}: {line[:200]}"


@contextmanager
def quiet() -> Iterator[None]:
    """One thread, the same seeds, no warnings: the page is the same at every printing."""
    import warnings

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_num_threads(threads)
