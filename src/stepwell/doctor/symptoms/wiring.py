"""Causes, tier 1: bugs in the training loop. They explain the symptoms of every later tier, and cost a minute each."""

from __future__ import annotations

from stepwell.doctor.symptoms.facts import HALF, Facts
from stepwell.doctor.symptoms.record import AGAINST, EXCLUDED, NEUTRAL, SPEAKS, Record

TIER = "wiring"


def _gradients_accumulate(facts: Facts) -> float:
    if facts.no("zero_grad"):
        return SPEAKS
    return AGAINST if facts.yes("zero_grad") or facts.moment in ("late", "resume") else NEUTRAL


def _not_in_optimizer(facts: Facts) -> float:
    return SPEAKS if facts.kind == "lora" or facts.yes("frozen") else NEUTRAL


def _schedule_cadence(facts: Facts) -> float:
    if facts.no("schedule"):
        return EXCLUDED
    if facts.yes("schedule"):
        return SPEAKS
    return AGAINST if facts.moment == "start" else NEUTRAL


def _activation_twice(facts: Facts) -> float:
    if facts.goal == "regression" or facts.kind in ("rl", "diffusion"):
        return EXCLUDED
    return SPEAKS if facts.yes("softmax") else NEUTRAL


def _mode_not_restored(facts: Facts) -> float:
    if facts.no("batch_norm") and facts.no("dropout"):
        return EXCLUDED
    return SPEAKS if facts.yes("batch_norm") or facts.yes("dropout") or facts.moment == "epoch" else NEUTRAL


def _optimizer_mode(facts: Facts) -> float:
    return SPEAKS if (facts.optimizer or "").startswith("ScheduleFree") else EXCLUDED


def _closure(facts: Facts) -> float:
    return SPEAKS if facts.optimizer in ("LBFGS", "SAM", "ASAM") else EXCLUDED


def _accumulation_scale(facts: Facts) -> float:
    return SPEAKS if facts.yes("accumulation") else EXCLUDED if facts.no("accumulation") else AGAINST


def _scaler_protocol(facts: Facts) -> float:
    if facts.precision not in HALF:
        return EXCLUDED
    spoken = facts.has("precision_only") or facts.yes("clip") or facts.yes("scaler") or facts.no("scaler")
    return SPEAKS if spoken else NEUTRAL


def _masked_targets(facts: Facts) -> float:
    return SPEAKS if facts.goal == "language" or facts.kind in ("transformer", "fine-tuning", "lora") else NEUTRAL


CAUSES = (
    Record(
        name="gradients-accumulate",
        tier=TIER,
        title="Gradients are not reset between steps",
        fits={"diverges": 0.4, "oscillates": 0.35, "nan": 0.25, "spikes": 0.25, "stuck": 0.3, "explode_grad": 0.4,
              "drop_then_rise": 0.25, "not_working": 0.3, "slow": 0.15, "chance": 0.2, "high_start": 0.1},
        why=lambda facts: (
            "the description says that zero_grad is missing: each step then uses the sum of all gradients so far"
            if facts.no("zero_grad")
            else "without zero_grad() each step uses the sum of all gradients so far, which acts like a growing "
            "learning rate"
        ),
        test="run `stepwell lint train.py`, or print the gradient norm of one fixed batch over 5 steps: it grows in "
        "proportion to the step number",
        fix="reset once per step:\n    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()",
        weigh=_gradients_accumulate,
    ),
    Record(
        name="parameters-not-in-optimizer",
        tier=TIER,
        title="The optimizer does not hold the parameters that should be trained",
        fits={"constant": 0.55, "stuck": 0.4, "chance": 0.35, "slow": 0.12, "vanish": 0.25, "not_working": 0.3,
              "plateau": 0.15, "reward_flat": 0.25, "one_class": 0.15},
        why=lambda facts: (
            "with adapters or frozen layers, parameters with requires_grad=True and those of the optimizer easily "
            "differ"
            if _not_in_optimizer(facts) == SPEAKS
            else "layers that are replaced or added after the optimizer was built, or frozen, are never updated"
        ),
        test="compare the two sets:\n    held = {id(p) for g in optimizer.param_groups for p in g['params']}\n"
        "    print([n for n, p in model.named_parameters() if p.requires_grad != (id(p) in held)])",
        fix="build the optimizer last:\n"
        "    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)",
        weigh=_not_in_optimizer,
    ),
    Record(
        name="graph-cut",
        tier=TIER,
        title="The loss is cut off from the parameters, or optimizer.step() is never reached",
        fits={"constant": 0.5, "stuck": 0.3, "vanish": 0.4, "chance": 0.25, "not_working": 0.25, "reward_flat": 0.2},
        why="detach(), .item(), .data, no_grad(), argmax or a NumPy conversion between model and loss leaves gradients "
        "None; a condition around step() may never be true",
        test="after loss.backward(), list the parameters without a gradient:\n"
        "    print([n for n, p in model.named_parameters() if p.grad is None])",
        fix="compute the loss from the model's output tensors; use detach() only for logging:\n"
        "    running += loss.detach()",
    ),
    Record(
        name="optimizer-rebuilt",
        tier=TIER,
        title="The optimizer or the schedule is created again inside the epoch loop",
        fits={"periodic": 0.45, "slow": 0.12, "spikes": 0.12, "plateau": 0.12},
        why="each new optimizer starts with empty averages and the first learning rate",
        test="run `stepwell lint train.py`, or print id(optimizer) once per epoch: the number changes",
        fix="create the optimizer and the schedule once, before the loop over epochs",
        weigh=lambda facts: AGAINST if facts.moment in ("start", "early") else NEUTRAL,
    ),
    Record(
        name="schedule-cadence",
        tier=TIER,
        title="The schedule counts in other units than the loop steps it",
        fits={"plateau": 0.4, "slow": 0.3, "drop_then_rise": 0.35, "stuck": 0.15, "periodic": 0.25, "diverges": 0.12,
              "spikes": 0.15, "oscillates": 0.12, "not_working": 0.12},
        why="T_max or total_steps in epochs with step() per batch ends the decay in the first epoch; a cosine that is "
        "stepped beyond T_max lets the learning rate rise again",
        test="print the learning rate over the whole run:\n    print(step, scheduler.get_last_lr())",
        fix="count both in optimizer steps:\n    scheduler = CosineAnnealingLR(optimizer, T_max=epochs * len(loader))\n"
        "    # in the batch loop: optimizer.step(); scheduler.step()",
        weigh=_schedule_cadence,
    ),
    Record(
        name="activation-twice",
        tier=TIER,
        title="The model's output passes a softmax or sigmoid before a loss that applies its own",
        fits={"plateau": 0.35, "chance": 0.3, "slow": 0.3, "stuck": 0.3, "vanish": 0.2, "one_class": 0.2,
              "not_working": 0.2},
        why="CrossEntropyLoss and BCEWithLogitsLoss expect raw scores; after a softmax the loss of 10 classes cannot "
        "fall below 1.46 and gradients are small",
        test="print the first outputs: rows that sum to 1, or values between 0 and 1 only, are no raw scores",
        fix="pass raw scores:\n    loss = torch.nn.functional.cross_entropy(model(x), y)  # no softmax in the model",
        weigh=_activation_twice,
    ),
    Record(
        name="mode-not-restored",
        tier=TIER,
        title="model.train() or model.eval() is missing",
        fits={"train_eval": 0.55, "val_noisy": 0.4, "periodic": 0.3, "overfits": 0.2, "plateau": 0.12,
              "drop_then_rise": 0.12, "irreproducible": 0.2},
        why="validation in training mode uses dropout and batch statistics; training in eval mode after the first "
        "validation never updates the statistics again",
        test="print model.training at the start of a training step and of a validation step: it must be True, then "
        "False",
        fix="set the mode at the head of both loops:\n    model.train()  # before each training epoch\n"
        "    model.eval()   # before each validation",
        weigh=_mode_not_restored,
    ),
    Record(
        name="optimizer-not-in-eval-mode",
        tier=TIER,
        title="A schedule-free optimizer is not switched between its modes",
        fits={"overfits": 0.4, "val_noisy": 0.4, "train_eval": 0.5, "slow": 0.2, "resume": 0.3, "not_working": 0.3},
        why=lambda facts: f"{facts.optimizer} keeps two sets of weights: training and evaluation need different ones",
        test="evaluate once after optimizer.eval(): the loss is lower",
        fix="before training, and before evaluation and saving:\n    optimizer.train(); model.train()\n"
        "    optimizer.eval(); model.eval()",
        weigh=_optimizer_mode,
    ),
    Record(
        name="closure-missing",
        tier=TIER,
        title="The optimizer needs a closure that computes the loss again",
        fits={"constant": 0.4, "stuck": 0.35, "diverges": 0.25, "nan": 0.2, "not_working": 0.35, "oscillates": 0.2},
        why=lambda facts: f"{facts.optimizer} evaluates the loss several times in one step, on the same batch",
        test="count the calls of the model per optimizer step: more than one is right",
        fix="    def closure():\n        optimizer.zero_grad()\n        loss = loss_fn(model(x), y)\n        "
        "loss.backward()\n"
        "        return loss\n    optimizer.step(closure)",
        weigh=_closure,
    ),
    Record(
        name="wrong-sign",
        tier=TIER,
        title="The loss has the wrong sign: training maximizes the error",
        fits={"diverges": 0.2, "negative": 0.6, "reward_flat": 0.25},
        why="a loss that grows steadily from the first step, or is negative where it cannot be, is often -loss, "
        "nll_loss on probabilities in place of log-probabilities, or a reward that is minimized",
        test="take one small step on one fixed batch and compare the loss before and after: it rises at any lr",
        fix="minimize the negative of what must grow:\n    loss = -(log_prob * advantage.detach()).mean()\n"
        "    loss = F.nll_loss(F.log_softmax(scores, dim=-1), y)",
        weigh=lambda facts: AGAINST if facts.moment == "late" else NEUTRAL,
    ),
    Record(
        name="targets-masked",
        tier=TIER,
        title="All targets of a batch are ignored or empty",
        fits={"zero": 0.5, "nan": 0.2, "constant": 0.12},
        why="if every label is ignore_index (-100), or a mask removes all elements, the mean is over nothing: the "
        "loss is "
        "0 or nan",
        test="count the targets that are used:\n    print((labels != -100).sum())",
        fix="skip batches without targets, or divide by the count:\n    loss = total / count.clamp(min=1)",
        weigh=_masked_targets,
    ),
    Record(
        name="accumulation-scale",
        tier=TIER,
        title="Accumulated gradients are not divided by the number of micro-batches",
        fits={"diverges": 0.3, "oscillates": 0.3, "explode_grad": 0.35, "spikes": 0.2, "nan": 0.2, "not_working": 0.2},
        why="k micro-batches sum to gradients k times too large; with SGD that is an lr k times too high, and clipping "
        "bites always",
        test="double the number of micro-batches and compare gradient norms: they double",
        fix="    (loss / micro_batches).backward()",
        weigh=_accumulation_scale,
    ),
    Record(
        name="scaler-protocol",
        tier=TIER,
        title="GradScaler is missing or called in the wrong order",
        fits={"precision_only": 0.55, "nan": 0.3, "stuck": 0.2, "vanish": 0.35, "explode_grad": 0.3,
              "clips_always": 0.5,
              "diverges": 0.15, "constant": 0.2},
        why=lambda facts: (
            "with clipping and fp16, the norm must be taken after scaler.unscale_(): otherwise scaled gradients, up to "
            "65,536 times too large, are clipped"
            if facts.yes("clip")
            else "fp16 gradients below 6e-8 become 0 without a scaler; a missing update() or a second optimizer.step() "
            "breaks the training"
        ),
        test="print scaler.get_scale() every 100 steps, and run `stepwell lint train.py`",
        fix="    scaler.scale(loss).backward()\n    scaler.unscale_(optimizer)\n"
        "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n    scaler.step(optimizer)\n    scaler.update()",
        weigh=_scaler_protocol,
    ),
    Record(
        name="resume-incomplete",
        tier=TIER,
        title="The checkpoint does not restore the optimizer, the schedule or the scaler",
        fits={"resume": 0.8, "spikes": 0.05},
        why="without the optimizer's averages and the schedule's step number, training starts again at the first "
        "learning rate with empty averages",
        test="print the learning rate and len(optimizer.state) before saving and after loading: they must be equal",
        fix="    torch.save({'model': model.state_dict(), 'optimizer': optimizer.state_dict(),\n"
        "                'scheduler': scheduler.state_dict(), 'scaler': scaler.state_dict()}, path)",
        weigh=lambda facts: SPEAKS if facts.has("resume") or facts.moment == "resume" else AGAINST,
    ),
    Record(
        name="sampler-set-epoch",
        tier=TIER,
        title="The ranks do not shuffle, or all draw the same samples",
        fits={"multi_gpu": 0.45, "periodic": 0.15},
        why="DistributedSampler gives the same order in every epoch without set_epoch(); without the sampler each "
        "rank sees "
        "all data",
        test="print the first sample indices on each rank in two epochs: they must differ",
        fix="    for epoch in range(epochs):\n        sampler.set_epoch(epoch)",
        weigh=lambda facts: SPEAKS if facts.has("multi_gpu") else EXCLUDED,
    ),
    Record(
        name="ranks-differ",
        tier=TIER,
        title="The ranks hold different weights or statistics",
        fits={"multi_gpu": 0.45},
        why="a call of model.module(...) goes around DDP, a step inside no_sync() or a branch on rank 0 leaves "
        "gradients "
        "unshared, and batch norm counts per rank",
        test="compare a checksum on each rank after 10 steps:\n"
        "    print(rank, sum(p.double().sum() for p in model.parameters()))",
        fix="call the wrapped model, step on all ranks, and share the statistics:\n"
        "    model = DDP(torch.nn.SyncBatchNorm.convert_sync_batchnorm(model))",
        weigh=lambda facts: SPEAKS if facts.has("multi_gpu") else EXCLUDED,
    ),
    Record(
        name="gan-update",
        tier=TIER,
        title="The two updates of the GAN disturb one another",
        fits={"gan_collapse": 0.4, "oscillates": 0.2, "diverges": 0.2, "not_working": 0.25, "nan": 0.12,
              "constant": 0.15},
        why="if the fake batch is not detached in the discriminator's step, or zero_grad() clears only one "
        "network, each "
        "network trains on gradients of the other's loss",
        test="after the discriminator's backward(), all gradients of the generator must be None or 0",
        fix="    d_loss = loss(D(real), 1) + loss(D(fake.detach()), 0)\n    opt_d.zero_grad(); d_loss.backward(); "
        "opt_d.step()",
        weigh=lambda facts: SPEAKS if facts.kind == "gan" else EXCLUDED,
    ),
    Record(
        name="rl-targets",
        tier=TIER,
        title="Returns, episode ends or the target network are wrong",
        fits={"reward_flat": 0.45, "diverges": 0.2, "not_working": 0.3, "oscillates": 0.15},
        why="bootstrapping over the end of an episode, advantages with gradients, or a target network that is never or "
        "always copied leaves no signal",
        test="solve a problem whose answer is known (one step, reward equal to the action) with the same code",
        fix="no bootstrap over an end, no gradient through the target:\n"
        "    best = target_net(next_state).max(1).values.detach()\n"
        "    target = reward + gamma * (1 - terminated) * best",
        weigh=lambda facts: SPEAKS if facts.kind == "rl" else NEUTRAL if facts.has("reward_flat") else EXCLUDED,
    ),
    Record(
        name="graph-kept",
        tier=TIER,
        title="Losses or outputs are kept with their graph",
        fits={"memory_grows": 0.7, "oom": 0.35},
        why="`total += loss` keeps the graph of every batch; evaluation without no_grad() keeps all activations",
        test="print torch.cuda.memory_allocated() every 10 steps: it grows",
        fix="    total += loss.detach()\n    with torch.no_grad():  # around evaluation",
        weigh=lambda facts: AGAINST if facts.moment == "start" else SPEAKS if facts.moment else NEUTRAL,
    ),
    Record(
        name="device-waits",
        tier=TIER,
        title="Each step waits for the data or for the device",
        fits={"step_time": 0.6},
        why="loader workers that are too few, or .item(), print and .cpu() in each step, leave the GPU idle",
        test="time 50 steps over one batch that is already on the device: if they are fast, the loader is slow",
        fix="    DataLoader(data, num_workers=8, pin_memory=True, persistent_workers=True)\n"
        "    if step % 100 == 0: print(loss.item())",
    ),
    Record(
        name="seeds-not-set",
        tier=TIER,
        title="Seeds, workers or kernels are not deterministic",
        fits={"irreproducible": 0.6},
        why="initialization, shuffling, augmentation and some CUDA kernels each draw from their own source",
        test="run the same 10 steps twice on the CPU: equal losses leave only CUDA kernels",
        fix="    torch.manual_seed(0); torch.use_deterministic_algorithms(True)\n"
        "    DataLoader(data, generator=torch.Generator().manual_seed(0), worker_init_fn=seed)",
    ),
)  # fmt: skip
