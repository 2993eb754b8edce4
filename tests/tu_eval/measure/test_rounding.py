"""NF4 against the published levels and a loop over the weights; integers are tested with the attack."""

import pytest
import torch

from shared.data.datasets import load_rows
from shared.engines.torch import TorchEngine
from tests.tu_eval.conftest import SUITE
from tu_eval.attacks.paraphrase import Prompt, probes
from tu_eval.attacks.quantise import nf4
from tu_eval.measure.rounding import levels, matrices, normal_float

PUBLISHED = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""of QLoRA, appendix E"""


def test_the_levels_are_those_published():
    assert levels() == pytest.approx(PUBLISHED, abs=1e-6) and list(levels()) == sorted(levels())


@pytest.mark.parametrize("group", [5, 64])
def test_each_weight_takes_the_nearest_level_of_its_group(group):
    weight = torch.randn(7, 23, generator=torch.Generator().manual_seed(1)) * 3
    weight[2] = 0
    found = normal_float(weight, group)
    for row in range(7):
        for at in range(0, 23, group):
            piece = weight[row, at : at + group].tolist()
            scale = max(map(abs, piece))
            nearest = [min(PUBLISHED, key=lambda level, x=x: abs(x / scale - level)) * scale if scale else 0.0 for x in piece]
            assert found[row, at : at + group].tolist() == pytest.approx(nearest, abs=1e-5)
    assert normal_float(weight.bfloat16()).dtype == torch.bfloat16
    grid = torch.tensor([levels()])
    assert torch.equal(normal_float(grid), grid)


def test_the_attack_measures_a_model_in_nf4_and_puts_its_weights_back(tiny_model, tiny_tokenizer):
    rows = load_rows(f"atlas:forget{SUITE.removeprefix('atlas')}", limit=2)
    plain = probes(rows, Prompt("plain"), tiny_tokenizer, context=512, long="error", facts=True)
    engine = TorchEngine.load(tiny_model, device="cpu")
    before = [w.clone() for w in matrices(engine.packed.model)]
    found = nf4(engine, plain)
    assert [r["setting"] for r in found] == ["as it is"] * 2 + ["nf4, a scale for 64"] * 2
    assert all(torch.equal(a, b) for a, b in zip(before, matrices(engine.packed.model), strict=True))
    with torch.no_grad():
        for weight in matrices(engine.packed.model):
            weight.copy_(normal_float(weight))
    assert [r["probability"] for r in nf4(engine, plain)[:2]] == [r["probability"] for r in found[2:]]
