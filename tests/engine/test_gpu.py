"""GPU kernels without a GPU: in the interpreter (a process of its own), and compiled for sm_90."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import stepwell

triton = pytest.importorskip("triton")

SIGNATURE = {
    "chunks": "*i64", "addresses": "*i64", "sizes": "*i64", "groups": "*i64", "steps": "*fp32", "salts": "*i64",
    "rows": "*fp64", "factor": "*fp32", "found_inf": "*fp32", "before": "*fp64", "after": "*fp64", "totals": "*fp64",
    "partials": "*fp64", "BLOCK": "constexpr", "ALIGNED": "constexpr", "ROWS": "constexpr",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three minutes of one quiet core
def test_kernels_in_the_interpreter() -> None:
    folder = Path(__file__).parents[1] / "interpreter"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=folder.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:]


def ptx(optimizer: Any, summing: bool = False) -> str:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from stepwell.engine.backends import gpu, gpu_source

    kind = optimizer.make_plan().launches[0].kind
    places = list(SIGNATURE)
    flags = {"BLOCK": gpu_source.BLOCK, "ALIGNED": True, "ROWS": False}
    constants = {(places.index(name),): value for name, value in flags.items()}
    source = ASTSource(fn=gpu.kernel(kind, summing), signature=SIGNATURE, constexprs=constants)
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": False, "num_warps": 4}).asm["ptx"]


CASES: list[Any] = [
    ("AdamW", torch.float32, {}, "v4.b32", "v4.b32"),
    ("AdamW", torch.float32, {"state": "int8"}, "v4.b32", "v4.b32"),
    ("AdamW", torch.float32, {"state": "int4"}, "v4.b32", "v4.b32"),
    ("AdamW", torch.float32, {"state": "bf16"}, "v4.b32", "v4.b32"),
    ("AdamW", torch.bfloat16, {"weights": "split"}, "v4.b32", "v4.b32"),
    ("AdamW", torch.float16, {"weights": "stochastic"}, "v4.b32", "v4.b32"),
    ("AdamW", torch.float64, {}, "v2.b64", "v2.b64"),
    ("Lion", torch.float32, {}, "v4.b32", "v4.b32"),
    ("RMSprop", torch.float32, {"momentum": 0.9, "centered": True}, "v4.b32", "v4.b32"),
    ("LAMB", torch.float32, {"exclude": "none"}, "v4.b32", "v4.b32"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile")
@pytest.mark.parametrize(("name", "dtype", "options", "load", "store"), CASES)
def test_kernels_compile_for_sm_90_with_128_bit_access(
    name: str, dtype: torch.dtype, options: dict[str, Any], load: str, store: str
) -> None:
    p = torch.zeros(5000, dtype=dtype, requires_grad=True)
    text = ptx(getattr(stepwell, name)([p], backend="cpu", **options))
    assert ".target sm_90" in text
    assert f"ld.global.{load}" in text
    assert f"st.global.{store}" in text
    assert not re.search(r"fma\.rn\.f32", text), "fused multiply-adds round otherwise than the definition"


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile")
def test_the_first_pass_only_reads() -> None:
    p = torch.zeros(5000, requires_grad=True)
    text = ptx(stepwell.LAMB([p], backend="cpu", exclude="none"), summing=True)
    assert "ld.global.v4.b32" in text
    assert "st.global.v4" not in text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    start, gradients, ends = torch.randn(300, 70), torch.randn(4, 300, 70), []
    for device in ("cpu", "cuda"):
        p = start.to(device).requires_grad_()
        optimizer = stepwell.AdamW([p], lr=0.01)
        for g in gradients:
            p.grad = g.to(device)
            optimizer.step()
        ends.append(p.detach().cpu())
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-7)
