"""The advisor holds its ground: every row of the seeds (rationalizations, red flags, pitfalls) with its answer.

Each answer says what the choice costs, the smallest fix, and both sides of the evidence; the recipe stays the best one
within the constraint.
"""

from __future__ import annotations

from typing import Any

import pytest

import stepwell as sw
from stepwell.advisor.objections.sayings import SAYINGS

CNN: dict[str, Any] = {"model": "ResNet-50", "dataset": "ImageNet-1k", "batch_size": 256, "epochs": 90}
BERT: dict[str, Any] = {"model": "BERT", "task": "masked_lm", "batch_size": 2048, "steps": 100_000}

# the table of rationalizations: what is said, for which training, the objection, words of the answer
RATIONALIZATIONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("Adam is the modern standard, use it", CNN, "modern-standard", "SGD(lr=0.1"),
    ("AdamW and Adam are basically the same", BERT, "adam-is-adamw", "weight_decay is not 0"),
    ("Just use default hyperparameters", CNN, "defaults", "tune lr"),
    ("User requested Adam, so use Adam", BERT, "requested", "AdamW(lr=0.0005"),
    ("SGD is old-fashioned, Adam is better", CNN, "sgd-is-old", "SGD(lr=0.1"),
    ("Optimizer doesn't matter much", BERT, "does-not-matter", "2402.19449"),
    ("Same LR works for different optimizers", CNN, "same-rate", "10 to 100 times"),
    ("This worked in a paper, so it's optimal", CNN, "paper", "scale the rate to your batch"),
    ("Adam is easier to tune, recommend it", CNN, "easier", "1910.05446"),
    ("User's training failed with SGD, so SGD doesn't work", CNN, "sgd-failed", "search the rate with SGD first"),
    ("Let's try all optimizers and see", CNN, "try-all", "its own search"),
    ("Weight decay is weight decay", BERT, "weight-decay-is-weight-decay", "never copied between forms"),
    ("Nesterov doesn't matter", CNN, "nesterov", "heavy-ball for ResNet-50"),
    ("Just use what's popular", CNN, "popular", "popular for which task"),
    ("Optimizer isn't the problem", CNN, "not-the-optimizer", "rate comes first"),
    ("User said fast training, so Adam", CNN, "fast", "not fast to the goal"),
    ("BERT uses AdamW, so always use it", CNN, "bert-uses-it", "SGD(lr=0.1"),
    ("Copy hyperparameters from successful project", CNN, "copied", "scale it"),
    ("Learning rate is more important than optimizer", CNN, "not-the-optimizer", "rate comes first"),
    ("Users don't care about Adam vs AdamW", BERT, "nobody-cares", "one word"),
    ("User explicitly requested X, so use X", CNN, "requested", "would be advised without"),
    ("Time pressure, just give quick answer", CNN, "urgent", "SGD(lr=0.1"),
    ("Popular framework does Y, so Y is best", CNN, "framework", "serves all its models"),
    ("Paper did Z, so Z is optimal", CNN, "paper", "belong to its batch size"),
    ("It's working so don't change it", CNN, "works-already", "change nothing"),
    ("I want to use Adam with weight_decay, can't change to AdamW", BERT, "adam-kept", "Adam -> AdamW"),
    ("But timm does X differently", CNN, "framework", "SGD(lr=0.1"),
    ("Too complicated, simplify it", CNN, "too-complicated", "three things"),
]


@pytest.mark.parametrize(
    ("saying", "given", "name", "words"), RATIONALIZATIONS, ids=[row[0] for row in RATIONALIZATIONS]
)
def test_rationalizations(saying: str, given: dict[str, Any], name: str, words: str) -> None:
    recipe = sw.advise(**given, saying=saying)
    found = {objection.name: objection for objection in recipe.objections}
    assert name in found, f"answered {list(found)}"
    objection = found[name]
    assert words in f"{objection.cost} {objection.fix} {objection.evidence_for} {objection.evidence_against}"
    assert objection.evidence_for
    assert objection.evidence_against, "both sides"
    assert objection.fix in " ".join(recipe.explain().split()) or objection.fix.split()[0] in recipe.explain()
    # a remark changes nothing in the recipe
    assert recipe.choices == sw.advise(**given).choices


def by_name(recipe: sw.Recipe) -> dict[str, Any]:
    return {objection.name: objection for objection in recipe.objections}


# --- red flags: critical, major, medium, lower -------------------------------------------------------------------


def test_adam_with_weight_decay() -> None:  # critical 1; pitfall 1
    recipe = sw.advise(**BERT, optimizer="adam", weight_decay=0.01)
    objection = by_name(recipe)["adam-with-decay"]
    assert objection.severity == "costly"
    assert "Adam -> AdamW" in objection.fix
    assert "weight_decay=0" in objection.fix
    assert "graph networks" in objection.evidence_against
    assert (recipe.optimizer, recipe.weight_decay, recipe.decay_form) == ("Adam", 0.01, "l2")


def test_adam_with_decay_on_a_graph_is_the_published_recipe() -> None:
    recipe = sw.advise("GCN", dataset="Cora", optimizer="adam", weight_decay=5e-4)
    assert by_name(recipe)["adam-with-decay"].severity == "answer"


def test_the_rate_of_sgd_for_adam() -> None:  # critical 2; pitfall 2
    recipe = sw.advise(**BERT, optimizer="adam", lr=0.1)
    objection = by_name(recipe)["rate-too-high"]
    assert objection.severity == "wrong"
    assert "10 to 100 times" in objection.cost
    assert recipe.lr == 0.1  # kept, and its cost is said
    assert recipe.objections[0].severity == "wrong"


def test_the_rate_of_adam_for_sgd() -> None:  # critical 2; pitfall 2
    recipe = sw.advise(**CNN, optimizer="sgd", lr=1e-3)
    assert "10 to 100 times too low" in by_name(recipe)["rate-too-low"].cost
    assert "lr=0.1" in by_name(recipe)["rate-too-low"].fix


def test_adam_for_transformers() -> None:  # critical 3
    objection = by_name(sw.advise(**BERT, optimizer="adam"))["adam-on-transformer"]
    assert "AdamW with weight_decay=0.01" in objection.fix
    assert "GPT-3" in objection.evidence_against


def test_sgd_without_nesterov() -> None:  # critical 4; pitfall 3: the seeds say always, the evidence does not
    recipe = sw.advise(**CNN, nesterov=False)
    objection = by_name(recipe)["no-nesterov"]
    assert objection.severity == "answer"
    assert "nesterov=True" in objection.fix
    assert "heavy-ball for ResNet-50" in objection.evidence_against


def test_one_optimizer_for_all_tasks() -> None:  # major 1; pitfall 6
    objection = by_name(sw.advise(**CNN, saying="I always use AdamW for everything"))["one-for-all"]
    assert "no optimizer is published for all families" in objection.cost
    kinds = {
        sw.advise(**row).optimizer
        for row in (CNN, BERT, {"family": "gan"}, {"model": "EfficientNet", "batch_size": 256})
    }
    assert len(kinds) == 4


def test_adam_and_adamw_are_not_the_same() -> None:  # major 2
    assert "adam-is-adamw" in by_name(sw.advise(**BERT, saying="Adam and AdamW are the same"))


def test_an_optimizer_that_does_not_work_without_tuning() -> None:  # major 3
    objection = by_name(sw.advise(**CNN, saying="the optimizer does not work"))["does-not-work"]
    assert "rate first" in objection.fix


def test_comparing_without_tuning() -> None:  # major 4; pitfall 4
    objection = by_name(sw.advise(**CNN, saying="Adam beats SGD at lr 0.001"))["unfair-comparison"]
    assert "same budget" in objection.fix


def test_nothing_is_asked_about_the_model() -> None:  # medium 1
    objection = by_name(sw.advise(family="gan", saying="which optimizer should I use?"))["no-question"]
    assert "asked" in objection.cost
    with pytest.raises(sw.UsageError, match="unknown task"):
        sw.advise(task="something")


def test_defaults_without_a_look_at_the_task() -> None:  # medium 2
    assert "tune lr" in by_name(sw.advise(**CNN, saying="out of the box settings"))["defaults"].fix


def test_a_rate_always_has_a_range() -> None:  # medium 3
    for given in (CNN, BERT, {"family": "rl"}):
        low, high = sw.advise(**given).lr_range
        assert low < sw.advise(**given).lr < high
    assert "between" in by_name(sw.advise(**CNN, saying="what lr range?"))["no-range"].fix


def test_the_batch_size_is_not_ignored() -> None:  # medium 4
    small, large = (sw.advise(**{**CNN, "batch_size": size}).lr for size in (128, 1024))
    assert large == pytest.approx(8 * small, rel=0.3)
    assert "batch-ignored" in by_name(sw.advise(**CNN, saying="the batch size is 8"))


def test_weight_decay_practices() -> None:  # lower 1
    objection = by_name(sw.advise(**BERT, saying="how much weight decay?"))["decay-practices"]
    assert "0.01 here, as decoupled" in objection.fix


def test_cargo_cult_of_betas() -> None:  # lower 2
    objection = by_name(sw.advise(**BERT, saying="use beta2 0.95"))["beta-cargo"]
    assert "half-life" in objection.cost
    assert "0.9, 0.98" in objection.fix


def test_fast_start_or_best_end() -> None:  # lower 3
    objection = by_name(sw.advise(**CNN, saying="final accuracy matters"))["fast-or-best"]
    assert 'priority="best"' in objection.fix


# --- pitfalls that are not red flags above -----------------------------------------------------------------------


def test_bias_correction_in_an_own_adam() -> None:  # pitfall 5
    objection = by_name(sw.advise(**BERT, saying="I implement Adam without bias correction"))["bias-correction"]
    assert "1 - beta1^t" in objection.fix


def test_more_devices() -> None:  # pitfall 7, without its mistake: AdamW's rate is not scaled in proportion
    recipe = sw.advise(
        "ViT-B/16", task="image_classification", batch_size=2048, devices=64, optimizer="adamw", lr=0.064
    )
    objection = by_name(recipe)["linear-scaling-for-adam"]
    assert objection.severity == "wrong"
    assert "square root" in objection.fix
    assert "distributed" in by_name(sw.advise(**CNN, saying="we moved to 64 GPUs"))


def test_optimizer_state_when_fine_tuning() -> None:  # pitfall 8
    objection = by_name(sw.advise(**BERT, saying="do I load the optimizer state from the checkpoint?"))[
        "optimizer-state"
    ]
    assert "fresh optimizer" in objection.fix
    assert "resume: load it" in objection.fix


def test_decay_on_biases() -> None:  # pitfall 9
    objection = by_name(sw.advise(**BERT, saying="weight decay on bias terms"))["decay-on-bias"]
    assert "no single convention" in objection.evidence_against
    assert "bias" in (sw.advise(**BERT).value("exempt") or [])


def test_gradient_norms() -> None:  # pitfall 10
    objection = by_name(sw.advise(**BERT, saying="gradients explode"))["gradient-norms"]
    assert "grad_norm" in objection.fix


# --- constraints of the seeds, and others ------------------------------------------------------------------------


def test_several_problems_are_fixed_in_order() -> None:
    objection = by_name(sw.advise(**CNN, saying="not working, loss oscillates with mixed precision"))["does-not-work"]
    assert "rate, stability, batch size, gradients, optimizer last" in objection.cost
    assert "no cure" in objection.evidence_against


def test_another_optimizer_than_published_is_kept_and_costs() -> None:
    recipe = sw.advise(**CNN, optimizer="adam")
    objection = by_name(recipe)["other-optimizer"]
    assert recipe.optimizer == "Adam"
    assert "SGD(lr=0.1" in objection.fix
    assert "adaptive methods never underperform" in objection.evidence_against


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"model": "LSTM", "family": "rnn_lm", "clip_norm": 0}, "unclipped-lstm"),
        ({"model": "EfficientNet-B0", "batch_size": 256, "eps": 1e-8}, "eps-of-mobilenet"),
        ({"model": "GPT-2 124M", "batch_size": 512, "betas": (0.9, 0.999)}, "beta2-of-language-models"),
        ({**CNN, "optimizer": "lars"}, "layerwise-at-small-batch"),
    ],
)
def test_other_constraints(given: dict[str, Any], name: str) -> None:
    recipe = sw.advise(**given)
    assert name in by_name(recipe)
    assert name not in by_name(sw.advise(**{key: value for key, value in given.items() if key not in (
        "clip_norm", "eps", "betas", "optimizer")}))  # fmt: skip


def test_a_remark_that_is_not_understood_is_said() -> None:
    assert "not-understood" in by_name(sw.advise(**CNN, saying="colorless green ideas"))


def test_nothing_asked_nothing_objected() -> None:
    for given in (CNN, BERT, {"family": "gan"}, {"model": "GCN", "dataset": "Cora"}):
        assert sw.advise(**given).objections == ()


def test_what_is_advised_is_not_objected_to() -> None:
    for given in (
        CNN,
        BERT,
        {"model": "LSTM", "family": "rnn_lm"},
        {"model": "DLRM", "task": "ctr", "batch_size": 32768},
    ):
        free = sw.advise(**given)
        same = sw.advise(**given, optimizer=free.optimizer, lr=free.lr, weight_decay=free.weight_decay)
        assert [objection.name for objection in same.objections if objection.severity != "answer"] == []


def test_every_saying_has_two_sides_and_no_open_braces() -> None:
    for row in SAYINGS:
        assert row.cost
        assert row.fix
        assert row.evidence
        assert row.but
    assert len({row.name for row in SAYINGS}) == len(SAYINGS)
