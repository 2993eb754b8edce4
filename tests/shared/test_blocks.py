"""Token-wise modules in blocks: the same numbers, and only where that is so."""

import pytest
import torch

from shared.blocks import in_blocks
from shared.models import load_model
from tests.conftest import ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_in_blocks_of_any_size_gives_its_own_hidden_states(make_tiny, architecture):
    model = load_model(make_tiny(architecture), dtype=torch.float32, device=torch.device("cpu"))
    ids = torch.arange(5, 42)[None]
    with torch.no_grad():
        expected = model.base_model(input_ids=ids).last_hidden_state
        for tokens in (1, 7, 36, 37, 500):
            lengths = []
            mlp = next(m for name, m in model.named_modules() if name.endswith("mlp"))
            inside = next(m for m in mlp.modules() if not list(m.children()))  # the first layer that the MLP runs
            hook = inside.register_forward_hook(lambda _, inputs, __, lengths=lengths: lengths.append(inputs[0].shape[1]))
            with in_blocks(model, tokens):
                found = model.base_model(input_ids=ids).last_hidden_state
            hook.remove()
            assert max(lengths) == min(tokens, 37) and sum(lengths) == 37
            assert torch.allclose(found, expected, atol=1e-5)
    assert not any("forward" in vars(m) for m in model.modules())


def test_with_a_gradient_nothing_changes(make_tiny):
    model = load_model(make_tiny("Llama"), dtype=torch.float32, device=torch.device("cpu"))
    with in_blocks(model, 4):
        assert not any("forward" in vars(m) for m in model.modules())


class Pair(torch.nn.Module):
    """What it returns is not one tensor for each token, as some mixtures of experts do."""

    def forward(self, x):
        return x * 2, x.sum(1)


def test_a_module_of_that_name_that_returns_something_else_runs_whole():
    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.mlp = Pair()

    model, x = Model(), torch.randn(1, 20, 3)
    with torch.no_grad(), in_blocks(model, 4):  # type: ignore[arg-type]
        doubled, total = model.mlp(x)
    assert torch.equal(doubled, x * 2) and torch.equal(total, x.sum(1))


def test_modules_are_put_back_after_an_error(make_tiny):
    model = load_model(make_tiny("Llama"), dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(KeyError), torch.no_grad(), in_blocks(model, 4):
        raise KeyError
    assert not any("forward" in vars(m) for m in model.modules())
