"""Walk to a goal in a corridor: policy gradient, actor and critic, or Q-learning with a target network."""

from __future__ import annotations

import copy

import torch
from bench.doctor.causes import wrong_lr
from bench.doctor.data import outcome
from torch import nn
from torch.nn import functional as F

NAME, STEPS = "corridor-policy", 150
HEALTHY = ("reinforce", "actor-critic", "q-learning")
FAULTS = {
    "reinforce": [
        "no-zero-grad",
        "zero-between",
        "frozen",
        "cut-by-detach",
        "detached-loss",
        "not-in-optimizer",
        "lr-300x",
        "lr-100-low",
        "lr-1000-low",
        "decay-strong",
        "init-large",
        "labels-shuffled",
    ],
    "q-learning": ["no-zero-grad", "lr-300x", "lr-1000-low", "broadcast", "labels-shifted", "dead-relu"],
    "actor-critic": ["unused-layer", "zero-between", "lr-100-low"],
}
HORIZON, PLACES = 8, 9


class Corridor:
    """Many walkers at once; the reward is minus the distance to the goal."""

    def __init__(self, n, generator=None):
        self.at, self.goal = torch.randint(PLACES, (2, n), generator=generator)

    def see(self):
        return torch.stack([self.at / 4 - 1, self.goal / 4 - 1], 1)

    def act(self, action):
        self.at = (self.at + action - 1).clamp(0, PLACES - 1)
        return -(self.at - self.goal).abs().float() / 4


def network(outputs, fault):
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU() if fault == "dead-relu" else nn.Tanh(), nn.Linear(32, outputs))
    if fault == "init-large":
        nn.init.normal_(net[2].weight, std=30.0)
    if fault == "dead-relu":
        net[0].bias.data -= 5.0
    return net


@torch.no_grad()
def cost(policy):
    """Minus the return of the greedy walk."""
    world, total = Corridor(200, torch.Generator().manual_seed(3)), 0.0
    for _ in range(HORIZON):
        total -= world.act(policy(world.see()).argmax(1)).mean().item()
    return total


def train(watch, seed, config="reinforce", fault=None):
    torch.manual_seed(seed)
    return (learn_q if config == "q-learning" else learn_policy)(watch, config, fault)


def learn_policy(watch, config, fault):
    policy, critic = network(3, fault), network(1, None)
    model = nn.ModuleDict({"policy": policy, "critic": critic})
    if fault == "unused-layer":
        model["noise"] = nn.Linear(32, 3)
    if fault == "frozen":
        policy.requires_grad_(False)
        policy[2].bias.requires_grad_(True)
    part = critic if fault == "not-in-optimizer" else model
    decay = 50.0 if fault == "decay-strong" else 0.0
    optimizer = torch.optim.AdamW(part.parameters(), lr=wrong_lr(fault, 1e-2), weight_decay=decay)
    before, losses = cost(policy), []
    doctor = watch(model, optimizer)
    for step in range(STEPS):
        world, logs, values, rewards = Corridor(32), [], [], []
        for _ in range(HORIZON):
            seen = world.see()
            logits = policy(seen)
            if fault == "cut-by-detach":
                logits = logits.detach()
            chance = torch.distributions.Categorical(logits=logits)
            action = chance.sample()
            if fault == "labels-shuffled":
                logs.append(chance.log_prob(action[torch.randperm(32)]))
            else:
                logs.append(chance.log_prob(action))
            values.append(critic(seen)[:, 0])
            rewards.append(world.act(action))
        rewards, values, logs = torch.stack(rewards), torch.stack(values), torch.stack(logs)
        returns = rewards.flip(0).cumsum(0).flip(0)
        if config == "actor-critic":
            following = torch.cat([values[1:].detach(), torch.zeros(1, 32)])
            returns = 0.5 * returns + 0.5 * (rewards + following)
            advantage = returns - values.detach()
        else:
            advantage = returns - returns.mean(1, keepdim=True)
        loss = -(logs * advantage).mean() + 0.1 * F.mse_loss(values, returns)
        if fault == "detached-loss":
            loss = loss.detach().requires_grad_()
        doctor.loss(loss)
        if fault != "no-zero-grad":
            optimizer.zero_grad()
        loss.backward()
        if fault == "zero-between":
            optimizer.zero_grad()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
        if config == "actor-critic" and step % 30 == 29:
            doctor.val(cost(policy))
    doctor.close()
    return outcome(losses, before, cost(policy))


def learn_q(watch, config, fault):
    online = network(3, fault)
    target = copy.deepcopy(online)
    for p in target.parameters():
        p.requires_grad = False
    optimizer = torch.optim.Adam(online.parameters(), lr=wrong_lr(fault, 1e-2))
    memory, losses, before = [], [], cost(lambda seen: torch.rand(len(seen), 3))  # a random walk
    doctor = watch(online, optimizer)
    for step in range(2 * STEPS):
        world = Corridor(16)
        for _ in range(HORIZON):
            seen = world.see()
            with torch.no_grad():
                action = online(seen).argmax(1)
            wild = torch.rand(16) < 0.3
            action = torch.where(wild, torch.randint(3, (16,)), action)
            memory.append((seen, action, world.act(action), world.see()))
        memory = memory[-400:]
        picked = [memory[i] for i in torch.randint(len(memory), (8,)).tolist()]
        seen, action, reward, after = (torch.cat(parts) for parts in zip(*picked, strict=True))
        if fault == "labels-shifted":
            reward = reward.roll(1)
        value = online(seen).gather(1, action[:, None])
        goal = reward + 0.6 * target(after).max(1).values
        loss = F.mse_loss(value, goal) if fault == "broadcast" else F.mse_loss(value[:, 0], goal)
        doctor.batch(seen, goal)
        if fault != "no-zero-grad":
            optimizer.zero_grad()
        loss.backward()
        doctor.loss(loss)
        optimizer.step()
        losses.append(loss.item())
        if step % 5 == 4:
            target.load_state_dict(online.state_dict())
    doctor.close()
    return outcome(losses, before, cost(online))
