"""Small scripts for the tests of the surface."""

BAD = """\
import torch

for x in loader:
    loss = f(x)
    loss.backward()
    opt.zero_grad()
    opt.step()
    print(sched.get_lr())
"""
CLEAN = "import torch\n"
