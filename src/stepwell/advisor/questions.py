"""The questions of `stepwell advise`: what a flag did not say and the model does not show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.errors import UsageError, printable


@dataclass(frozen=True)
class Question:
    """One question: the argument of `advise` that the answer sets, the text, and the choices with what they mean.

    Without choices the answer is a number or a text, which `read` turns into the value.
    """

    name: str
    text: str
    choices: tuple[tuple[str, dict[str, Any]], ...] = ()
    read: Callable[[str], Any] = str


def _count(said: str) -> float:
    try:
        value = float(said.replace(",", "").replace("_", ""))
    except ValueError:
        raise UsageError(
            f"{printable(said)!r} is no number; give one as 256, or press Enter if it is not known"
        ) from None
    if not 0 < value < float("inf"):
        raise UsageError(f"{printable(said)!r} is out of range; give a number above 0, or press Enter")
    return value


KINDS = (
    ("convolutional network for images", {"family": "cnn_classification"}),
    ("vision transformer", {"family": "vit_supervised"}),
    ("language model", {"family": "lm_pretraining"}),
    ("fine-tuning of a language model", {"family": "fine_tuning"}),
    ("detection or segmentation", {"family": "detection_segmentation"}),
    ("self-supervised vision", {"family": "ssl_vision"}),
    ("image and text", {"family": "contrastive_multimodal"}),
    ("GAN", {"family": "gan"}),
    ("diffusion", {"family": "diffusion"}),
    ("reinforcement learning", {"family": "rl"}),
    ("speech or audio", {"family": "speech_audio"}),
    ("translation", {"family": "translation"}),
    ("recurrent language model", {"family": "rnn_lm"}),
    ("graph network", {"family": "gnn"}),
    ("recommendation", {"family": "recsys"}),
    ("tables or time series", {"family": "tabular_timeseries"}),
    ("image restoration", {"family": "image_restoration"}),
    ("inverse problem (NeRF, PINN)", {"family": "scientific_inverse"}),
)
QUESTIONS = (
    Question("family", "What kind of model is trained?", KINDS),
    Question("regime", "From scratch, or from pretrained weights?", (
        ("from scratch", {"regime": "from_scratch"}),
        ("fine-tuning", {"regime": "fine_tune"}),
        ("a linear probe on frozen features", {"regime": "linear_probe"}),
    )),
    Question("batch_size", "Batch size of one update, over all devices?", read=_count),
    Question("steps", "Updates of the run?", read=_count),
    Question("devices", "How many devices?", read=lambda said: int(_count(said))),
    Question("priority", "What matters more?", (
        ("a fast start", {"priority": "fast"}), ("the best end", {"priority": "best"}), ("both", {}),
    )),
    Question("weight_decay", "Is regularization by weight decay "
                             "wanted?", (("yes, as published", {}), ("no", {"weight_decay": 0.0}))),
    Question("tuning", "How much time is there to tune?", (
        ("none", {"tuning": "none"}), ("little", {"tuning": "little"}), ("much", {"tuning": "much"}),
    )),
    Question("memory", "Memory of one device, in GiB?", read=_count),
)  # fmt: skip


def open_questions(given: Mapping[str, Any]) -> list[Question]:
    """The questions whose answers are not given yet."""
    known = {name for name, value in given.items() if value is not None}
    if known & {"model", "task", "dataset"}:
        known |= {"family"}
    if known & {"epochs", "tokens"}:
        known |= {"steps"}
    if given.get("family") == "rl":
        known |= {"regime"}
    return [question for question in QUESTIONS if question.name not in known]


def ask(given: dict[str, Any], read: Callable[[str], str], write: Callable[[str], None]) -> dict[str, Any]:
    """The arguments with the answers. `read` takes a prompt and returns a line; an empty line leaves a question "
    "open."""
    found = dict(given)
    for question in QUESTIONS:
        if question not in open_questions(found):
            continue
        for number, (said, _) in enumerate(question.choices, start=1):
            write(f"  {number:2} {said}")
        while True:
            said = read(f"{question.text} [Enter: not known] ").strip()
            try:
                found |= _answer(question, said)
                break
            except UsageError as error:
                write(str(error))
    return found


def _answer(question: Question, said: str) -> dict[str, Any]:
    if not said:
        return {}
    if not question.choices:
        return {question.name: question.read(said)}
    for number, (text, values) in enumerate(question.choices, start=1):
        if said == str(number) or (text.startswith(said.lower()) and len(said) > 1):
            return values
    raise UsageError(f"{printable(said)!r} is not one of the choices; give a number from 1 to {len(question.choices)}")
