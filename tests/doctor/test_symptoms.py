"""Descriptions of training problems and the causes that are named first; refusals; the printed and the JSON form."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import time

import pytest

from stepwell.doctor.symptoms import Answer, Cause, ask, known_symptoms
from stepwell.doctor.symptoms.answer import WIDTH
from stepwell.doctor.symptoms.asking import CAUSES, MOST
from stepwell.doctor.symptoms.facts import Facts, rate, times
from stepwell.doctor.symptoms.known import SYMPTOMS
from stepwell.doctor.symptoms.rates import adam_eps, adam_type, follows_gradient, usual
from stepwell.doctor.symptoms.reading import read
from stepwell.doctor.symptoms.record import FAR, TIERS, filled, likely
from stepwell.errors import UsageError
from stepwell.optimizers import TABLE, find

# a description, and its first causes in order
CASES: list[tuple[str, list[str]]] = [
    ("Adam, lr 0.1, batch 8, fp16, loss oscillates", ["lr-too-high", "fp16-overflow", "batch-too-small"]),
    ("Not working. Using Adam lr=0.1, batch=8, mixed precision, loss oscillates",
     ["lr-too-high", "fp16-overflow", "batch-too-small"]),
    ("my loss oscilates, adma with learnign rate of 3e-2, bs=4", ["lr-too-high", "batch-too-small"]),
    ("loss is nan", ["gradients-accumulate", "lr-too-high", "unsafe-function", "fp16-overflow"]),
    ("NaN from the very first step, AdamW lr=3, bf16", ["lr-too-high"]),
    ("loss becomes nan after 2,000 steps, AdamW lr 3e-4, bf16, transformer, no warmup",
     ["targets-masked", "lr-too-high", "warmup-missing", "unsafe-function"]),
    ("LOSS DOES NOT DECREASE, SGD LR=1E-6", ["lr-too-low", "parameters-not-in-optimizer"]),
    ("the loss doesn't go down with AdamW at lr 1e-3", ["parameters-not-in-optimizer", "gradients-accumulate"]),
    ("loss is exactly constant", ["parameters-not-in-optimizer", "graph-cut"]),
    ("the loss stays the same, lr 0", ["lr-too-low", "parameters-not-in-optimizer"]),
    ("LoRA: loss is constant", ["parameters-not-in-optimizer", "graph-cut"]),
    ("works in fp32 but not in fp16", ["scaler-protocol", "fp16-overflow", "scaler-skips-steps"]),
    ("works in fp32 but is nan with fp16, gradient clipping at 1.0", ["scaler-protocol", "fp16-overflow"]),
    ("pure bf16 training reaches a plateau early", ["schedule-cadence", "activation-twice", "no-decay",
                                                    "lr-too-high", "lr-too-low", "bf16-lost-updates"]),
    ("model overfits", ["mode-not-restored", "evaluation-data-differs", "batch-norm-statistics", "overfitting"]),
    ("val loss increases while train loss decreases", ["mode-not-restored", "evaluation-data-differs"]),
    ("overfitting, Adam with weight decay 0.01", ["mode-not-restored", "evaluation-data-differs"]),
    ("loss jumps after resuming from a checkpoint", ["resume-incomplete"]),
    ("validation accuracy differs between train and eval mode", ["mode-not-restored", "batch-norm-statistics"]),
    ("validation loss is noisy, batch size 4, batch norm", ["mode-not-restored", "lr-too-high", "no-decay",
                                                            "batch-norm-statistics", "batch-too-small"]),
    ("ScheduleFree AdamW: validation is worse than training", ["optimizer-not-in-eval-mode"]),
    ("accuracy stays at 10%", ["parameters-not-in-optimizer", "activation-twice"]),
    ("the network always predicts the majority class", ["activation-twice", "parameters-not-in-optimizer",
    "lr-too-high",
                                                       "class-imbalance"]),
    ("loss is 0", ["targets-masked", "target-leak"]),
    ("results are suspiciously good, 100% accuracy", ["target-leak", "class-imbalance"]),
    ("validation loss is lower than train loss, with dropout", []),
    ("mode collapse in my GAN with Adam lr 2e-4", ["gan-update", "lr-too-high", "gan-balance"]),
    ("GAN: loss oscillates, beta1 0.9", ["gan-update", "gradients-accumulate", "lr-too-high"]),
    ("CUDA out of memory at the first step", ["graph-kept", "memory-of-a-batch"]),
    ("memory usage grows during training", ["graph-kept"]),
    ("PPO reward stays flat", ["rl-targets"]),
    ("worked with SGD lr 0.1 but fails with Adam", ["lr-of-another-optimizer", "lr-too-high"]),
    ("switched from Adam to SGD with lr 1e-3, now it is stuck", ["lr-of-another-optimizer", "lr-too-low"]),
    ("loss first drops then rises", ["schedule-cadence", "gradients-accumulate"]),
    ("gradients vanish in a deep LSTM", ["graph-cut", "parameters-not-in-optimizer"]),
    ("gradients explode in an RNN without clipping", ["gradients-accumulate", "lr-too-high"]),
    ("different results on 8 GPUs with DDP", ["sampler-set-epoch", "ranks-differ", "lr-not-scaled-with-batch"]),
    ("loss jumps at the start of every epoch, no shuffling", ["mode-not-restored", "optimizer-rebuilt"]),
    ("forgot optimizer.zero_grad() and the loss explodes", ["gradients-accumulate", "wrong-sign", "lr-too-high"]),
    ("diverges with gradient accumulation over 16 micro-batches", ["accumulation-scale", "gradients-accumulate"]),
    ("the first loss is huge", ["lr-too-high", "first-loss-implausible", "inputs-not-normalized"]),
    ("fine-tuning BERT with AdamW lr 1e-3, it forgets everything", ["pretrained-overwritten", "lr-too-high"]),
    ("L-BFGS does not improve", ["closure-missing", "parameters-not-in-optimizer"]),
    ("Muon: loss plateaus", ["schedule-cadence", "activation-twice"]),
    ("SGD on a transformer, loss decreases too slowly, lr 0.1", ["schedule-cadence", "activation-twice"]),
    ("two runs with the same seed are not reproducible", ["seeds-not-set"]),
    ("gpu utilization is low and the epochs take too long", ["device-waits"]),
    ("the gradient is clipped at every step: clipping always active, Adam lr 1e-3", ["lr-too-high"]),
    ("SGD momentum 0.99 lr 0.5 loss oscillates", ["gradients-accumulate", "lr-too-high", "momentum-too-high"]),
    ("AdamW with weight_decay=20, loss does not decrease", ["weight-decay-too-strong"]),
    ("batch size 32k, training is slow, SGD lr 0.1", ["schedule-cadence", "activation-twice", "lr-too-low",
                                                       "lr-not-scaled-with-batch", "batch-too-large"]),
    ("loss is negative", ["wrong-sign"]),
    ("loss spikes late in training, GPT, AdamW lr 3e-4, clip 1.0", ["lr-too-high", "late-loss-spikes"]),
    ("training converges slowly", ["schedule-cadence", "activation-twice"]),
    ("it simply does not work", ["gradients-accumulate", "parameters-not-in-optimizer"]),
    ("fp16, gradients explode", ["gradients-accumulate", "scaler-protocol", "lr-too-high"]),
    ("in fp16 the loss does not decrease", ["parameters-not-in-optimizer"]),
    ("plateau, MLP, no weight decay, inputs not normalized", []),
    ("constant loss from the first step, weights never update", ["parameters-not-in-optimizer", "graph-cut"]),
    ("nan in the second epoch at step 5000", ["targets-masked", "lr-too-high", "unsafe-function", "fp16-overflow",
                                               "non-finite-data"]),
    ("all predictions are identical: predicts the same for everything", []),
]  # fmt: skip


@pytest.mark.parametrize(("description", "first"), CASES, ids=[text for text, _ in CASES])
def test_the_first_causes_of_a_description(description: str, first: list[str]) -> None:
    names = [cause.name for cause in ask(description).causes]
    assert names[: len(first)] == first
    assert 1 <= len(names) <= MOST
    assert len(names) == len(set(names))


@pytest.mark.parametrize("description", [text for text, _ in CASES])
def test_the_order_is_that_of_the_tiers(description: str) -> None:
    """Where a number is far outside, twice: causes for which a fact speaks, then the others. The optimizer is last."""
    answer = ask(description)
    facts = read(description)
    weights = {record.name: record.weigh(facts) for record in CAUSES}
    far = any(weights[cause.name] >= FAR for cause in answer.causes)
    before = [cause for cause in answer.causes if cause.tier != TIERS[-1]]
    assert list(answer.causes[: len(before)]) == before
    keys = [(far and weights[cause.name] < 2, TIERS.index(cause.tier)) for cause in before]
    assert keys == sorted(keys)


def test_every_cause_is_named_for_some_description() -> None:
    more = (
        "no shuffling, the labels are sorted, val is noisy", "adam eps: reward is flat",
        "training decreases slowly with gradient clipping at 0.1", "loss plateaus after many epochs",
        "test accuracy is too good", "validation is noisy",
        "plateau, SGD lr 0.1, fp32, cosine schedule, batch 256, regression, after 50000 steps",
    )  # fmt: skip
    reached = {cause.name for text in (*(text for text, _ in CASES), *more) for cause in ask(text).causes}
    assert {record.name for record in CAUSES} - reached == set()


def test_the_example_of_the_tool() -> None:
    answer = ask("Adam, lr 0.1, batch 8, fp16, loss oscillates")
    tiers = [cause.tier for cause in answer.causes]
    assert tiers[:3] == ["learning rate", "numerical stability", "batch and data"]
    assert tiers[-1] == "optimizer choice"
    assert tiers.count("optimizer choice") == 1
    assert answer.causes[0].why == "Adam at lr 0.1 is 33 to 1,000 times the usual 1e-4 to 3e-3"
    assert "lr = 3e-4" in answer.causes[0].fix
    assert answer.understood == (
        "loss oscillates or is unstable", "optimizer Adam", "lr 0.1", "batch 8", "precision fp16",
    )  # fmt: skip


def test_enough_causes_and_symptoms() -> None:
    assert len(CAUSES) >= 35
    assert len(SYMPTOMS) >= 25
    assert len({record.name for record in CAUSES}) == len(CAUSES)
    assert {record.tier for record in CAUSES} == set(TIERS)
    assert all(record.fits.keys() <= SYMPTOMS.keys() for record in CAUSES)
    assert all(0 < fit < 1 for record in CAUSES for fit in record.fits.values())


@pytest.mark.parametrize("name", SYMPTOMS)
def test_each_symptom_is_understood_by_its_own_title(name: str) -> None:
    assert SYMPTOMS[name].title in ask(SYMPTOMS[name].title).understood


def test_the_symptoms_can_be_listed() -> None:
    assert "loss is nan or inf" in known_symptoms()


READ: list[tuple[str, dict[str, object]]] = [
    ("lr=3e-4", {"lr": 3e-4}), ("LR: 1E-3", {"lr": 1e-3}), ("learning rate of 1e-2", {"lr": 0.01}),
    ("lr is 10^-3", {"lr": 1e-3}), ("lr 5*10^-4", {"lr": 5e-4}), ("max_lr=.1", {"lr": 0.1}), ("peak lr 0.1.",
    {"lr": 0.1}),
    ("the learning rate is too high", {"lr": None}), ("lr " + "9" * 400, {"lr": None}), ("lr 1e999", {"lr": None}),
    ("bs=512", {"batch": 512}), ("batch size of 8k", {"batch": 8000}), ("batch_size 32", {"batch": 32}),
    ("nan after batch 300", {"batch": None}), ("a batch of 2M tokens", {"batch": None}), ("batch 4.5", {"batch": None}),
    ("64 images per batch", {"batch": 64}), ("batch of 1,024", {"batch": 1024}),
    ("fp16", {"precision": "fp16"}), ("bfloat16", {"precision": "bf16"}), ("AMP", {"precision": "mixed"}),
    ("fine in fp32, broken in bf16", {"precision": "bf16"}), ("works in bf16 but not in fp16", {"precision": "fp16"}),
    ("no fp16, float32 only", {"precision": "fp32"}), ("bf16 mixed precision", {"precision": "bf16"}),
    ("AdamW", {"optimizer": "AdamW"}), ("adam-w", {"optimizer": "AdamW"}), ("rms prop", {"optimizer": "RMSprop"}),
    ("8-bit Adam", {"optimizer": "AdamW8bit"}), ("schedule-free SGD", {"optimizer": "ScheduleFreeSGD"}),
    ("adma", {"optimizer": "Adam"}), ("rmsporp", {"optimizer": "RMSprop"}), ("we adopt a sam policy",
    {"optimizer": None}),
    ("SAM", {"optimizer": "SAM"}), ("worked with SGD but not with Adam", {"optimizer": "Adam"}),
    ("Adam instead of SGD", {"optimizer": "Adam"}), ("switched from Adam to Lion", {"optimizer": "Lion"}),
    ("momentum 0.9, weight decay 1e-4", {"momentum": 0.9, "weight_decay": 1e-4}), ("betas=(0.5, 0.999)",
    {"momentum": 0.5}),
    ("after 2000 steps", {"step": 2000, "moment": "late"}), ("at step 1.5k", {"step": 1500, "moment": "late"}),
    ("from the first step", {"moment": "start"}), ("in the second epoch", {"moment": "epoch"}),
    ("after 300 iterations", {"step": 300, "moment": "early"}), ("after resuming", {"moment": "resume"}),
    ("after 30 epochs", {"moment": "late"}), ("for 30 epochs", {"moment": None}),
    ("vision transformer", {"kind": "vit"}), ("ResNet50 on ImageNet", {"kind": "cnn", "goal": "classification"}),
    ("LoRA fine-tuning of llama", {"kind": "lora"}), ("an LSTM", {"kind": "rnn"}), ("no GAN", {"kind": None}),
    ("without warmup", {"said": {"warmup": False}}), ("with warm-up", {"said": {"warmup": True}}),
    ("I don't use gradient clipping", {"said": {"clip": False}}), ("constant learning rate",
    {"said": {"schedule": False}}),
    ("zero_grad() is missing", {"said": {"zero_grad": False}}), ("batch norm, no dropout", {"said": {"batch_norm": True,
                                                                                               "dropout": False}}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), READ, ids=[text[:40] for text, _ in READ])
def test_settings_are_read(text: str, expected: dict[str, object]) -> None:
    facts = read(text)
    assert {name: getattr(facts, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "symptoms"),
    [
        ("the loss is not nan, but it doesn't decrease", ["stuck"]),
        ("no nan, it oscillates", ["oscillates"]),
        ("training is not stable", ["oscillates"]),
        ("training is stable but stuck", ["stuck"]),
        ("it does not overfit; it diverges", ["diverges"]),
        ("validation loss diverges from train loss", ["overfits"]),
        ("train acc 99%, test acc 60%", ["overfits"]),
        ("loss divreges", ["diverges"]),
        ("grdients vansih", ["vanish"]),
        ("validaton is noisy", ["val_noisy"]),
        ("loss explods", ["diverges"]),
        ("Loss goes to inf", ["nan"]),
        ("loss is stuck at 2.303", ["stuck", "chance"]),
        ("loss is 0.01", []),
        ("accuracy is 0.93", []),
        ("unable to learn anything", ["stuck"]),
        ("train loss is lower than val loss", ["overfits"]),
        ("val loss is lower than train loss", ["val_better"]),
        ("training accuracy is higher than test accuracy", ["overfits"]),
        ("weights are not updating", ["constant"]),
        ("the loss is high and does not change", ["constant"]),
        ("the loss is too high", ["not_working"]),
        ("slow", ["slow"]),
        ("the loss slowly increases", ["diverges"]),
        ("eval results are terrible but training is fine", ["overfits"]),
        ("nan with amp, works without amp", ["nan", "precision_only"]),
        ("the discriminator loss goes to zero", ["gan_collapse"]),
        ("accuracy is always around 50%", ["chance"]),
    ],
)
def test_symptoms_are_read(text: str, symptoms: list[str]) -> None:
    assert list(read(text).symptoms) == symptoms


def test_keywords_override_the_description() -> None:
    text = "SGD, lr 0.1, batch 256, fp16, transformer, loss oscillates after 5000 steps"
    answer = ask(text, optimizer="adam", lr=1e-3, batch_size=4, precision="bf16", task="gan", steps=1)
    assert answer.understood == (
        "loss oscillates or is unstable", "optimizer Adam", "lr 1e-3", "batch 4", "precision bf16", "training: gan",
        "at step 1",
    )  # fmt: skip
    assert "lr 0.1" in ask(text).understood


def test_keywords_alone_are_settings() -> None:
    words = ask("Adam, lr 0.1, batch 8, fp16, loss oscillates")
    keywords = ask("loss oscillates", optimizer="Adam", lr=0.1, batch_size=8, precision="fp16")
    assert keywords == words


@pytest.mark.parametrize(
    ("symptom", "said"),
    [
        ("", "symptom=''; it must describe what happens in words"),
        ("  \n", "it must describe what happens in words"),
        (None, "symptom=None; it must describe"),
        (3, "symptom=3; it must describe"),
        ("hello world", "it must say what goes wrong; the nearest known symptoms: "),
        ("Adam, lr 0.1", "only settings were understood: optimizer 'Adam', lr 0.1"),
        ("validation nois", "'validation is noisy'"),
        ("x" * 5000, "symptom has 5,000 characters"),
    ],
)
def test_a_description_that_is_not_understood_is_refused(symptom: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        ask(symptom)  # type: ignore[arg-type]  # refused at run time
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adamv"}, "unknown optimizer 'adamv': did you mean 'Adam'?"),
        ({"optimizer": 3}, "unknown optimizer 3"),
        ({"lr": -1}, "lr=-1; it must be"), ({"lr": math.nan}, "lr=nan"), ({"lr": math.inf}, "lr=inf"),
        ({"lr": True}, "lr=True"),
        ({"lr": "0.1"}, "lr='0.1'"),
        ({"batch_size": 0}, "batch_size=0; it must be a whole number of at least 1"), ({"batch_size": 1.5},
        "batch_size=1.5"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"), ({"precision": 16}, "unknown precision 16"),
        ({"task": "cooking"}, "unknown task 'cooking'"), ({"task": ""}, "unknown task ''"), ({"task": 1},
        "unknown task 1"),
        ({"steps": -1}, "steps=-1; it must be"), ({"steps": "ten"}, "steps='ten'"),
    ],
)  # fmt: skip
def test_a_setting_that_is_not_allowed_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        ask("loss is nan", **settings)  # type: ignore[arg-type]  # refused at run time
    assert said in str(caught.value)


@pytest.mark.parametrize("description", [text for text, _ in CASES])
def test_the_text_fits_the_terminal_and_the_data_is_json(description: str) -> None:
    answer = ask(description)
    text = answer.text()
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert all(cause.title in " ".join(text.split()) for cause in answer.causes)
    assert json.loads(json.dumps(answer.as_dict())) == answer.as_dict()
    assert all(0 < cause.likely < 1 and cause.why and cause.test and cause.fix for cause in answer.causes)


def test_the_data_has_all_fields() -> None:
    answer = Answer(("loss is nan or inf",), (Cause("a", "wiring", "A", "b", "c", "d", 0.5),), ("e?",))
    assert answer.as_dict() == {
        "understood": ["loss is nan or inf"],
        "causes": [
            {"name": "a", "tier": "wiring", "title": "A", "why": "b", "test": "c", "fix": "d", "likely": 0.5},
        ],
        "unknown": ["e?"],
    }
    assert answer.causes[0].likely_words == "likely"


def test_all_texts_of_all_causes_can_be_written_for_all_facts() -> None:
    for facts in (Facts(), Facts(optimizer="SGD", lr=0.0, momentum=1.5, weight_decay=1.0, batch=1),
                  Facts(optimizer="Lion", lr=1e300), Facts(lr=1e-9), Facts(lr=0.1), Facts(kind="rnn",
                      batch=8192)):  # fmt: skip
        for record in CAUSES:
            for text in (record.why, record.test, record.fix):
                said = filled(text, facts)
                assert said.strip()
                code = [line for line in said.split("\n") if line.startswith("    ")]
                assert all(len(line) <= WIDTH - 9 for line in code), record.name
            assert 0 <= record.weigh(facts) <= FAR


def test_open_questions_leave_out_what_is_known() -> None:
    assert "Which optimizer is used?" in ask("loss decreases too slowly").unknown
    assert "Which optimizer is used?" not in ask("loss decreases too slowly with Adam").unknown
    assert any("peak learning rate" in question for question in ask("loss oscillates").unknown[:2])
    assert not any("peak learning rate" in question for question in ask("loss oscillates, lr 1").unknown)
    assert not any("zero_grad" in question for question in ask("loss oscillates, zero_grad is called").unknown)


def test_facts_weigh_against_a_cause() -> None:
    def chance(text: str, name: str) -> float:
        return {cause.name: cause.likely for cause in ask(text).causes}.get(name, 0.0)

    assert chance("loss oscillates, fp32", "fp16-overflow") == 0
    assert chance("loss oscillates, SGD lr 0.1", "lr-too-high") < chance("loss oscillates, Adam lr 0.1", "lr-too-high")
    assert chance("loss oscillates, batch 256", "batch-too-small") == 0
    assert chance("loss oscillates, batch 4", "batch-too-small") > chance("loss oscillates", "batch-too-small")
    assert chance("diverges, without warmup", "warmup-missing") > chance("diverges, with warmup", "warmup-missing")


@pytest.mark.parametrize("name", TABLE)
def test_each_optimizer_has_a_usual_range(name: str) -> None:
    facts = find(name).facts
    spans = facts.published or {"default": facts.lr["default"]}
    assert {kind: usual(name, kind) for kind in spans} == spans
    assert usual(name) == usual(name, "another kind") == spans["default"]
    assert all(0 < low < high for low, high in spans.values())


def test_families_are_read_from_the_files() -> None:
    assert {name for name in TABLE if follows_gradient(name)} == {"SGD", "ASGD", "ScheduleFreeSGD", "SAM", "ASAM"}
    assert {"Adam", "AdamW4bit", "LAMB", "Sophia", "SOAP"} <= {name for name in TABLE if adam_type(name)}
    assert not {name for name in ("SGD", "Adagrad", "Prodigy", "Lion", "Muon", "LBFGS", "SAM") if adam_type(name)}
    assert {"Adam", "AdamW8bit", "RMSprop", "SOAP"} <= {name for name in TABLE if adam_eps(name)}
    assert not {name for name in ("Adagrad", "AdamAtan2", "Adafactor", "LAMB", "Lion") if adam_eps(name)}
    assert not adam_type(None)
    assert not follows_gradient(None)


def test_the_kind_of_training_moves_the_range() -> None:
    assert "lr-too-high" not in [c.name for c in ask("GCN with Adam lr 0.01: loss decreases too slowly").causes]
    assert ask("fine-tuning with AdamW, lr 1e-3, loss diverges").causes[0].tier == "learning rate"
    assert ask("AdamW, lr 1e-3, loss diverges").causes[0].tier == "wiring"


def test_numbers_in_words() -> None:
    assert [times(value) for value in (33.3, 1000, 4.26, 1e7, math.inf)] == [
        "33",
        "1,000",
        "4.3",
        "1e7",
        "infinitely many",
    ]
    assert [rate(value) for value in (0, 0.1, 3e-4, 0.016, 25.0)] == ["0", "0.1", "3e-4", "0.016", "25"]
    assert likely(0.5, 0) == 0
    assert likely(0.5, 2) == 0.75


def test_neither_torch_nor_numpy_is_loaded() -> None:
    code = (
        "import sys; from stepwell.doctor.symptoms import ask; ask('loss is nan')\n"
        "print(sorted({'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "text", ["loss " * 790, "train " * 600, "1e" * 1900, "a" * 3999, "the first loss " + "x " * 1900,
    "no " * 1300, "(" * 3999,
             "loss is " * 490, "gradients " * 399, "validation " * 360, "\ud800 nan", "0." * 1900]
)  # fmt: skip
def test_strange_texts_take_no_time(text: str) -> None:
    start = time.process_time()
    with contextlib.suppress(UsageError):
        ask(text)
    assert time.process_time() - start < 2
