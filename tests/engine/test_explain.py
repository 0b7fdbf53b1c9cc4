"""`explain()` says what each tensor gets, and why it is not what was asked for."""

import json
import pickle
import xml.etree.ElementTree as ET

import pytest
import torch

import stepwell
from stepwell import cli


def test_explain_names_formats_bytes_and_reasons() -> None:
    big, small = torch.zeros(300, 40, requires_grad=True), torch.zeros(40, requires_grad=True)
    optimizer = stepwell.LAMB(
        [{"params": [("weight", big)], "lr": 0.5}, {"params": [("bias", small)]}], weight_decay=0.1, state="int8"
    )
    text = optimizer.explain()
    assert "12,000" in text
    assert "0.5" in text
    # 2 slots of 12,000 codes and 47 blocks with a float32 each; the bias: 2 slots of 40 float32
    assert f"{2 * (12_000 + 47 * 4):,}" in text
    assert "320" in text
    assert "fewer than 4,096 elements (bias)" in text
    assert "no trust ratio and no decay (bias)" in text
    for p in (big, small):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state_bytes() == 2 * (12_000 + 47 * 4) + 320


def test_explain_says_that_an_option_has_nothing_to_do() -> None:
    optimizer = stepwell.SGD([("w", torch.zeros(3, requires_grad=True))], weights="split")
    assert "weights='split' has no effect: fp32 weights need no rounding (w)" in optimizer.explain()


def test_info_lists_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["backends"]["cpu"] == "ready"
    assert facts["backends"]["eager"] == "ready"
    assert facts["backends"]["gpu"] == (
        "ready" if torch.cuda.is_available() else "not available: torch sees no CUDA device"
    )
    assert facts["versions"]["torch"] == torch.__version__
    assert cli.main(["info"]) == 0
    assert "backends" in capsys.readouterr().out


def test_explaining_in_the_middle_of_a_run_changes_nothing() -> None:
    ends = []
    for look in (False, True):
        p = torch.ones(5000, requires_grad=True)
        optimizer = stepwell.AdamW([p], lr=0.1)
        for step in range(6):
            p.grad = torch.full_like(p, 1.0 + step)
            optimizer.step()
            if look:
                optimizer.explain()
        assert int(optimizer.state[p]["step"]) == 6
        ends.append(p.detach())
    assert torch.equal(*ends)


def explained() -> str:
    big, small = torch.zeros(300, 40, requires_grad=True), torch.zeros(40, requires_grad=True)
    return stepwell.LAMB([{"params": [("<weight>", big)]}, {"params": [("<bias>", small)]}], state="int8").explain()


def test_explain_is_a_text_that_a_prompt_shows_as_it_is_printed() -> None:
    text = explained()
    assert isinstance(text, str)
    assert repr(text) == str(text) == f"{text}"
    assert text.splitlines()[0] == "LAMB"
    assert json.loads(json.dumps(text)) == text
    assert pickle.loads(pickle.dumps(text))._repr_html_() == text._repr_html_()  # type: ignore[attr-defined]


def test_a_notebook_shows_a_table() -> None:
    page = explained()._repr_html_()  # type: ignore[attr-defined]
    table = ET.fromstring(page)
    assert [cell.text for cell in table.iter("th")][:3] == ["group", "tensors", "elements"]
    rows = [[cell.text for cell in row.iter("td")] for row in table.iter("tr")][1:]
    assert [row[2] for row in rows] == ["12,000", "40"]
    assert "&lt;bias&gt;" in page
    assert "<bias>" not in page


def test_a_wrapper_shows_the_table_of_what_is_inside() -> None:
    model = torch.nn.Linear(4, 2)
    text = stepwell.SAM(stepwell.SGD(model.parameters(), lr=0.1), rho=0.05).explain()
    assert text.startswith("SAM(rho=0.05) around\nSGD\ngroup")
    page = text._repr_html_()  # type: ignore[attr-defined]
    assert "SAM(rho=0.05) around" in page
    assert "<table>" in page
    around_torch = stepwell.SAM(torch.optim.SGD(model.parameters(), lr=0.1)).explain()
    assert "<pre>SAM(rho=0.05) around" in around_torch._repr_html_()  # type: ignore[attr-defined]
