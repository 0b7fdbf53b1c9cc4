"""Keep a point at rest with noisy pushes: Gaussian policy, clipped ratios over several passes (PPO), two optimizers."""

from __future__ import annotations

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn
from torch.nn.functional import mse_loss

NAME, STEPS = "cart-balance", 240
HEALTHY = ("ppo", "small-passes", "entropy")
FAULTS = {
    "ppo": [
        "no-zero-grad",
        "zero-between",
        "unused-layer",
        "frozen",
        "detached-loss",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "decay-strong",
        "cut-by-no-grad",
    ],
}
HORIZON, CARTS = 12, 48


class Actor(nn.Module):
    def __init__(self, fault):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 1))
        self.log_std = nn.Parameter(torch.tensor(-0.5))
        self.fault = fault
        if fault == "unused-layer":
            self.memory = nn.Linear(24, 24)

    def chance(self, seen):
        with torch.set_grad_enabled(self.fault != "cut-by-no-grad" and torch.is_grad_enabled()):
            mean = self.net(seen)[:, 0]
        return torch.distributions.Normal(mean, self.log_std.exp(), validate_args=False)


def push(state, force):
    place, speed = state.unbind(1)
    speed = (speed + 0.5 * force.clamp(-2, 2)).clamp(-3, 3)
    place = (place + 0.5 * speed).clamp(-3, 3)
    return torch.stack([place, speed], 1), -(place**2 + 0.1 * speed**2)


@torch.no_grad()
def cost(actor):
    state, total = torch.randn(200, 2, generator=torch.Generator().manual_seed(6)), 0.0
    for _ in range(HORIZON):
        state, reward = push(state, actor.net(state)[:, 0])
        total -= reward.mean().item()
    return total


def collect(actor):
    seen, acts, rewards, state = [], [], [], torch.randn(CARTS, 2)
    with torch.no_grad():
        for _ in range(HORIZON):
            chance = actor.chance(state)
            force = chance.mean + chance.stddev * torch.randn(CARTS)
            seen.append(state)
            acts.append(force)
            state, reward = push(state, force)
            rewards.append(reward)
        returns, running = [], torch.zeros(CARTS)
        for reward in reversed(rewards):
            running = reward + 0.8 * running
            returns.insert(0, running)
        seen, acts, returns = torch.cat(seen), torch.cat(acts), torch.cat(returns)
        return seen, acts, returns, actor.chance(seen).log_prob(acts)


def train(watch, seed, config="ppo", fault=None):
    torch.manual_seed(seed)
    actor = Actor(fault)
    critic = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 1))
    if fault == "frozen":
        actor.net.requires_grad_(False)
    decay = 60.0 if fault == "decay-strong" else 0.0
    of_actor = torch.optim.AdamW(actor.parameters(), wrong_lr(fault, 1e-2), weight_decay=decay)
    of_critic = torch.optim.AdamW(critic.parameters(), wrong_lr(fault, 1e-2), weight_decay=decay)
    passes = 2 if config == "small-passes" else 4
    before, losses = cost(actor), []
    doctor = watch([actor, critic], [of_actor, of_critic])
    for _ in range(STEPS // passes):
        seen, acts, returns, old = collect(actor)
        for _ in range(passes):
            value = critic(seen)
            advantage = returns - value.detach()[:, 0]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
            chance = actor.chance(seen)
            ratio = (chance.log_prob(acts) - old).exp()
            gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
            fit = mse_loss(value[:, 0], returns)
            loss = 0.05 * fit - gain
            if config == "entropy":
                loss = loss - 0.003 * chance.entropy().mean()
            if fault == "detached-loss":
                loss = loss.detach().requires_grad_(True)
            if fault != "no-zero-grad":
                of_actor.zero_grad()
                of_critic.zero_grad()
            loss.backward()
            doctor.loss(loss)
            if fault == "zero-between":
                of_actor.zero_grad()
                of_critic.zero_grad()
            of_actor.step()
            of_critic.step()
            losses.append(loss.item())
        if config == "small-passes":
            doctor.val(cost(actor))
    doctor.close()
    return outcome(losses, before, cost(actor))
