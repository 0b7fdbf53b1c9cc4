"""A module that is frozen by an attribute which modules do not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from stepwell.findings import Check, Edit, Finding, Fix
from stepwell.lint.analysis import Script
from stepwell.lint.analysis.syntax import written

CHECK = Check(
    code="SW610",
    name="requires-grad-of-a-module",
    severity="error",
    certainty="certain",
    looks_for="requires_grad is set on a module, such as `model.encoder.requires_grad = False`",
    why="only tensors have requires_grad: the assignment makes a new attribute, and every parameter of the module "
    "continues to learn",
    instead="call module.requires_grad_(False), which sets it for all parameters of the module",
    silent_when="the object may be a parameter or a tensor, or its class defines requires_grad",
    example_bad="model.backbone.requires_grad = False",
    example_good="model.backbone.requires_grad_(False)",
    reference="https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_",
)
FIX = "unsafe"
_MODULE = re.compile(
    r"^(\w*_)?(model|net|network|backbone|encoder|decoder|features?|feature_extractor|extractor|classifier|critic|actor|"
    r"generator|discriminator|teacher|student|transformer|bert|roberta|gpt2?|vit|unet|vae|clip|resnet\d*|vgg\d*|fc\d*|"
    r"layer\d+|conv\d+|head|avgpool|base_model|enc|dec|trunk|stem)$",
    re.I,
)

_TENSOR = re.compile(r"Parameter\(|torch\.(randn|zeros|ones|tensor|empty|rand)\(|\.weight|\.bias")


def find(script: Script) -> Iterator[Finding]:
    if "requires_grad" not in script.source or re.search(r"def requires_grad\b", script.source):
        return
    for node in script.each(ast.Assign):
        target = node.targets[0]
        if len(node.targets) != 1 or not isinstance(target, ast.Attribute) or target.attr != "requires_grad":
            continue
        owner = target.value
        name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
        if not _MODULE.match(name) or not _is_flag(node.value) or _is_tensor(script, owner, name):
            continue
        text = written(owner)
        yield script.finding(
            CHECK,
            node,
            f"{text} is a module: this makes a new attribute, and changes no parameter",
            instead=f"call {text}.requires_grad_({written(node.value)})",
            fix=_fix(script, node, text),
        )


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _is_tensor(script: Script, owner: ast.expr, name: str) -> bool:
    """Whether the file shows that this is a parameter: it goes over parameters, or makes a tensor."""
    if isinstance(owner, ast.Name):
        for loop in script.each(ast.For):
            if any(isinstance(one, ast.Name) and one.id == name for one in ast.walk(loop.target)):
                return True
    made = script.assignments.get(name if isinstance(owner, ast.Name) else f".{name}", [])
    return any(one is not None and _TENSOR.search(written(one)) for one in made)


def _fix(script: Script, node: ast.Assign, text: str) -> Fix | None:
    if node.end_lineno != node.lineno or not _is_flag(node.value):
        return None
    start = (node.lineno, script.column(node.lineno, node.col_offset))
    end = (node.lineno, script.column(node.lineno, node.end_col_offset or 0))
    return Fix("call requires_grad_()", (Edit(start, end, f"{text}.requires_grad_({written(node.value)})"),))


BAD = (
    CHECK.example_bad + "  # expect",
    """
import torch
import torchvision
model = torchvision.models.resnet18()
model.layer1.requires_grad = False  # expect
model.fc = torch.nn.Linear(512, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
""",
    """
class Probe:
    def __init__(self, encoder):
        self.encoder = encoder
        self.encoder.requires_grad = False  # expect
""",
    """
teacher = Net()
teacher.eval()
teacher.requires_grad = False  # expect
""",
    """
for name, module in model.named_children():
    if name == "head":
        model.head.requires_grad = True  # expect
""",
)
GOOD = (
    CHECK.example_good,
    """
for param in model.parameters():
    param.requires_grad = False
model.fc.weight.requires_grad = True
""",
    """
x = torch.randn(3)
x.requires_grad = True
""",
    """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Parameter(torch.zeros(3))
        self.head.requires_grad = False
""",
    """
for layer1 in model.parameters():
    layer1.requires_grad = False
""",
    """
features = torch.zeros(3)
features.requires_grad = True
""",
)
