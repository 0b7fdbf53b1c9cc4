"""Optimizers that PyTorch does not have, as short classes for the printed program."""

from __future__ import annotations

_LION = '''class Lion(torch.optim.Optimizer):
    """Lion: the sign of a momentum that looks one gradient ahead (2302.06675)."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p not in self.state:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                average = self.state[p]["exp_avg"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * average.lerp(p.grad, 1 - beta1).sign())
                average.lerp_(p.grad, 1 - beta2)'''
_LAMB = '''class LAMB(torch.optim.Optimizer):
    """LAMB: Adam's step in the scale of each tensor (1904.00962)."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                state["step"] += 1
                mean = state["exp_avg"].lerp_(p.grad, 1 - beta1) / (1 - beta1 ** state["step"])
                square = state["exp_avg_sq"].lerp_(p.grad.square(), 1 - beta2) / (1 - beta2 ** state["step"])
                update = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * p
                trust = p.norm() / update.norm() if p.ndim > 1 else torch.ones(())
                trust = torch.where(torch.isfinite(trust) & (trust > 0), trust, torch.ones_like(trust))
                p.sub_(group["lr"] * trust * update)'''
_LARS = '''class LARS(torch.optim.Optimizer):
    """LARS: momentum in the scale of each tensor (1708.03888)."""

    def __init__(self, params, lr=1.0, momentum=0.9, weight_decay=0.0, trust=1e-3):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p not in self.state:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                gradient = p.grad + group["weight_decay"] * p
                if p.ndim > 1:  # vectors keep the plain step
                    ratio = group["trust"] * p.norm() / (p.grad.norm() + group["weight_decay"] * p.norm() + 1e-8)
                    gradient *= torch.where(ratio > 0, ratio, torch.ones_like(ratio))
                buffer = self.state[p]["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
                p.sub_(group["lr"] * buffer)'''

CLASSES = {"Lion": _LION, "LAMB": _LAMB, "LARS": _LARS}
