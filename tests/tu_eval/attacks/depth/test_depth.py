"""Depth: every number against models grafted together from two state dicts, known answers, and each bad input as one
line, exit code 2."""

import json
import shutil

import pandas
import pytest
import torch

from shared.lm.models import load_model
from shared.lm.packed import PackedModel
from tests.conftest import build_sentencepiece
from tests.tu_eval.conftest import SUITE
from tests.tu_eval.test_commands import refused
from tu_eval.attacks.depth.config import DepthConfig
from tu_eval.attacks.depth.facts import read_facts
from tu_eval.attacks.depth.layers import Layers
from tu_eval.attacks.depth.patching import lens, patched
from tu_eval.attacks.depth.run import measure_depth
from tu_eval.attacks.depth.score import row_depth, summarise

FAMILIES = {
    "Llama": {"num_hidden_layers": 3},
    "Llama, tied": {"num_hidden_layers": 3, "tie_word_embeddings": True},
    "Qwen2": {"tie_word_embeddings": False},
    "Qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "Gemma3Text": {"head_dim": 16, "sliding_window": 8, "num_hidden_layers": 6},  # five of a window, one of all
}


def untied(model):
    """The same model with a head of its own: state dict, configuration."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["lm_head.weight"] = model.get_output_embeddings().weight.detach().clone()
    return state


def grafted(full, source, layer, *, count=None):
    """A model that begins as `source` up to `layer` and ends as `full`; `count`: with so many layers only."""
    from transformers import AutoModelForCausalLM

    config = type(full.config).from_dict({**full.config.to_dict(), "tie_word_embeddings": False})
    if count is not None:
        config = type(full.config).from_dict(
            {**config.to_dict(), "num_hidden_layers": count,
             **({"layer_types": config.layer_types[:count]} if getattr(config, "layer_types", None) else {})}
        )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    ours, theirs = untied(full), untied(source)
    state = {}
    for name in model.state_dict():
        place = int(name.split(".")[2]) if ".layers." in name else None
        begins = (place is not None and place <= layer) or "embed_tokens" in name
        state[name] = (theirs if begins else ours)[name]
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def said(model, fact):
    """Mean log-probability of the fact's tokens, one row at a time."""
    logits = model(input_ids=torch.tensor([fact.example.input_ids]), use_cache=False).logits[0].double()
    found = logits.log_softmax(-1)
    return sum(found[i - 1, fact.example.input_ids[i]].item() for i in fact.tokens) / len(fact.tokens)


def opened(folder):
    return Layers(PackedModel(load_model(folder, dtype=torch.float64, device=torch.device("cpu"))))


def facts_of(model, **fields):
    from shared.lm import models

    config = DepthConfig(
        **{"model": str(model), "full": str(model), "retain_model": str(model), "out": "x", "suite": SUITE, "limit": 2, **fields}
    )
    return read_facts(config, models.load_tokenizer(model), {"full": model, "model": model, "retain": model})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_is_that_of_grafted_models(family, make_tiny):
    name = family.partition(",")[0]
    folders = [make_tiny(name, seed=seed, **FAMILIES[family]) for seed in (0, 1)]
    full, source = map(opened, folders)
    facts = facts_of(folders[0])
    costs, seen = patched(full, source, facts, batch_tokens=150, everywhere=True)
    own = lens(full, facts, 150)
    a, b = full.packed.model, source.packed.model
    for i, fact in enumerate(facts):
        before = said(a, fact)
        for layer in range(len(full)):
            assert costs[i][layer] == pytest.approx(before - said(grafted(a, b, layer), fact), abs=1e-6), (family, layer)
            assert seen[i][layer] == pytest.approx(said(grafted(b, b, layer, count=layer + 1), fact), abs=1e-6)
            assert own[i][layer] == pytest.approx(said(grafted(a, a, layer, count=layer + 1), fact), abs=1e-6)
        assert own[i][-1] == pytest.approx(before, abs=1e-6)  # the last layer's lens is the model itself


@torch.no_grad()
def said_with(full, source, fact, layer):
    """`said` by full where that layer's output for the tokens that predict the fact is source's."""
    ids, places = torch.tensor([fact.example.input_ids]), [i - 1 for i in fact.tokens]
    theirs = []
    hook = source.model.layers[layer].register_forward_hook(lambda _m, _g, out: theirs.append(out[0] if isinstance(out, tuple) else out))
    source(input_ids=ids, use_cache=False)
    hook.remove()

    def put(_module, _given, out):
        whole = out[0] if isinstance(out, tuple) else out
        for place in places:
            whole[0, place] = theirs[0][0, place]

    hook = full.model.layers[layer].register_forward_hook(put)
    try:
        return said(full, fact)
    finally:
        hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_number_is_that_of_a_model_whose_layer_is_overwritten_where_the_fact_is_predicted(family, make_tiny):
    """As the paper does it; the batch is padded, the other side looks at a row alone."""
    folders = [make_tiny(family.partition(",")[0], seed=seed, **FAMILIES[family]) for seed in (0, 1)]
    full, source = map(opened, folders)
    facts = facts_of(folders[0])
    costs, everywhere = (patched(full, source, facts, 10_000, everywhere=there)[0] for there in (False, True))
    a, b = full.packed.model, source.packed.model
    for i, fact in enumerate(facts):
        expected = [said(a, fact) - said_with(a, b, fact, layer) for layer in range(len(full))]
        assert costs[i] == pytest.approx(expected, abs=1e-6), family
        assert abs(costs[i][0] - everywhere[i][0]) > 1e-4
        assert costs[i][-1] == pytest.approx(everywhere[i][-1], abs=1e-9)  # behind the last layer nothing looks back


@pytest.mark.parametrize("family", [*FAMILIES, "GPT2"])
def test_questions_run_once_or_with_every_pass_give_the_same(family, make_tiny, monkeypatch):
    full, source = (opened(make_tiny(family.partition(",")[0], seed=seed, **FAMILIES.get(family, {}))) for seed in (0, 1))
    facts = facts_of(make_tiny(family.partition(",")[0], seed=0, **FAMILIES.get(family, {})))
    assert full.goes_on and len({min(f.tokens) for f in facts}) > 1
    lengths, run = [], full._run
    monkeypatch.setattr(full, "_run", lambda ids, mask, begun=None: lengths.append(ids.shape[1]) or run(ids, mask, begun))
    once, seen = patched(full, source, facts, 10_000)
    assert lengths[-1] == max(map(len, (f.example.input_ids[: max(f.tokens) + 1] for f in facts))) - min(min(f.tokens) for f in facts) + 1
    full.goes_on = False
    whole, seen_whole = patched(full, source, facts, 10_000)
    assert lengths[-1] == lengths[0]
    assert once == [pytest.approx(row, abs=1e-9) for row in whole] and seen == [pytest.approx(row, abs=1e-9) for row in seen_whole]


def test_in_low_precision_a_model_in_its_own_place_costs_nothing_at_all(make_tiny):
    folder = make_tiny("Llama", seed=0)
    full = Layers(PackedModel(load_model(folder, dtype=torch.bfloat16, device=torch.device("cpu"))))
    costs, _ = patched(full, full, facts_of(folder), 10_000)
    assert not full.goes_on and costs == [[0.0] * len(full)] * len(costs)


def turning(folder, out, turn):
    """The same Phi, which rotates texts of more than `turn` tokens by other factors, from their first token on."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    pairs = config["hidden_size"] // config["num_attention_heads"] // 2
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * pairs, "long_factor": [4.0] * pairs,
            "partial_rotary_factor": 1.0, "original_max_position_embeddings": turn}  # fmt: skip
    (out / "config.json").write_text(json.dumps({**config, "rope_parameters": rope, "original_max_position_embeddings": turn}))
    return out


def test_rows_beyond_the_turn_of_a_rotation_are_run_whole_and_apart(make_tiny, tmp_path):
    facts = facts_of(make_tiny("Phi3", seed=0))
    longest = max(facts, key=lambda f: max(f.tokens))
    turn = (min(longest.tokens) + max(longest.tokens)) // 2  # within its fact; the other row ends before
    assert sum(max(f.tokens) + 1 > turn for f in facts) == 1 < len(facts)
    full, source = (opened(turning(make_tiny("Phi3", seed=seed), tmp_path / str(seed), turn)) for seed in (0, 1))
    assert full.packed.turn == turn and full.goes_on
    together, _ = patched(full, source, facts, 10_000)
    alone = [patched(full, source, [fact], 10_000)[0][0] for fact in facts]
    full.goes_on = False
    whole = [patched(full, source, [fact], 10_000)[0][0] for fact in facts]
    assert together == [pytest.approx(row, abs=1e-9) for row in whole] and alone == [pytest.approx(row, abs=1e-9) for row in whole]


def test_gpt2_whose_layers_are_called_otherwise_and_the_model_is_whole_afterwards(make_tiny):
    full, source = opened(make_tiny("GPT2", seed=0)), opened(make_tiny("GPT2", seed=1))
    facts = facts_of(make_tiny("GPT2", seed=0))
    ahead = [said(full.packed.model, f) for f in facts]
    costs, _ = patched(full, source, facts, 10_000)
    assert costs == [pytest.approx(c, abs=1e-9) for c in patched(full, source, facts, 1)[0]]  # batches change nothing
    assert all(abs(cost[-1]) > 1e-3 for cost in costs)
    assert [said(full.packed.model, f) for f in facts] == ahead
    assert all(c == pytest.approx([0.0] * len(full), abs=1e-9) for c in patched(full, full, facts, 10_000)[0])


def test_a_row_by_hand():
    assert row_depth([0.05, 1.0, 3.0], [9.0, 0.5, 3.0]) == pytest.approx((1.0 * 0.5 + 3.0 * 1.0) / 4.0)  # 0.05 does not exceed 0.05
    assert row_depth([1.0, 2.0], [2.0, -1.0]) == pytest.approx(1 / 3)  # clipped on both sides
    assert row_depth([0.05, -1.0], [1.0, 1.0]) is None
    row = {"lens_full": None, "lens_retain": None, "lens_model": None}
    rows = [{"example_id": "a", "layer": 1, "delta_retain": 1.0, "delta_model": 0.25, **row},
            {"example_id": "b", "layer": 1, "delta_retain": 0.0, "delta_model": 0.25, **row}]  # fmt: skip
    found = summarise(rows, 0.05)
    assert (found["depth"], found["rows"], found["rows_with_depth"], found["layers"][0]["counted"]) == (0.25, 2, 1, 1)
    assert summarise(rows[1:], 0.05)["depth"] is None


@pytest.fixture(scope="module")
def commanded(tiny_model, tiny_base, tmp_path_factory):
    """(depth.json, folder) where the model is the retain model, and where it is the full one."""
    made = {}
    for name, model in (("retain", tiny_base), ("full", tiny_model)):
        out = tmp_path_factory.mktemp("depth") / name
        about = measure_depth(
            DepthConfig(
                model=str(model), full=str(tiny_model), retain_model=str(tiny_base), suite=SUITE, limit=4, out=str(out), device="cpu"
            )
        )
        made[name] = (about, out)
    return made


def test_the_retain_model_has_depth_one_and_the_full_model_none(commanded):
    for name, expected in (("retain", 1.0), ("full", 0.0)):
        about, out = commanded[name]
        assert about["rows_with_depth"] > 0
        assert about["depth"] == pytest.approx(expected, abs=1e-6)
        assert sorted(p.name for p in out.iterdir()) == ["_config.toml", "depth.json", "depth.png", "rows.parquet"]
        assert (out / "depth.png").read_bytes().startswith(b"\x89PNG")
        frame = pandas.read_parquet(out / "rows.parquet")
        assert len(frame) == about["rows"] * len(about["layers"]) and frame["lens_model"].notna().all()
        assert summarise(frame.to_dict("records"), about["threshold"])["depth"] == about["depth"]
    _, out = commanded["full"]
    frame = pandas.read_parquet(out / "rows.parquet")
    assert frame["delta_model"].abs().max() < 1e-5 and (frame["lens_model"] - frame["lens_full"]).abs().max() < 1e-5


def test_the_command_verifies_its_folder_and_prints_the_depth(run_cli, tiny_model, tiny_base, tmp_path):
    code, out, err = run_cli("tu-eval", "depth", "--model", tiny_base, "--full", tiny_model, "--retain-model", tiny_base, "--suite", SUITE,
                             "--limit", 2, "--out", tmp_path / "d", "--device", "cpu", "--set", "lens=false")  # fmt: skip
    assert code == 0, err
    assert "depth: 1.0000" in out
    assert json.loads((tmp_path / "d" / "depth.json").read_text())["layers"][0]["lens_full"] is None
    code, out, err = run_cli("tu-eval", "verify", tmp_path / "d")
    assert code == 0, err


def test_facts_of_rows_of_ones_own_in_another_language(any_tokenizer, make_tiny, tmp_path, capsys):
    model = make_tiny("Llama", seed=0)
    rows = [{"question": "¿Dónde nació Íñigo Núñez?", "answer": "Nació en Ávila.", "fact_spans": [[9, 14]]}]
    marked = tmp_path / "marked.jsonl"
    marked.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({k: v for k, v in rows[0].items() if k != "fact_spans"}, ensure_ascii=False), encoding="utf-8")

    def found(path):
        config = DepthConfig(model="m", full="f", retain_model="r", out="x", data=str(path))
        return read_facts(config, any_tokenizer, dict.fromkeys(("full", "model", "retain"), model))[0]

    fact = found(marked)
    text = any_tokenizer.decode([fact.example.input_ids[i] for i in fact.tokens])
    assert "Ávila" in text and "Naci" not in text
    whole = found(plain)
    assert any_tokenizer.decode([whole.example.input_ids[i] for i in whole.tokens]).strip() == "Nació en Ávila."


def test_what_cannot_be_measured_is_one_line(run_cli, tiny_model, make_tiny, tmp_path):
    asked = ("--model", tiny_model, "--retain-model", tiny_model, "--suite", SUITE, "--out", tmp_path / "o", "--device", "cpu")
    assert "full" in refused(run_cli("tu-eval", "depth", *asked))
    said = refused(run_cli("tu-eval", "depth", *asked, "--full", make_tiny("Qwen2")))
    assert "model_type is llama" in said and "same architecture" in said
    said = refused(run_cli("tu-eval", "depth", *asked, "--full", make_tiny("Llama", num_hidden_layers=3)))
    assert "num_hidden_layers is 2" in said
    assert "no-such" in refused(run_cli("tu-eval", "depth", *asked, "--full", tmp_path / "no-such"))
    both = refused(run_cli("tu-eval", "depth", *asked, "--full", tiny_model, "--data", "x.jsonl"))
    assert "--suite" in both and "--data" in both
    other = make_tiny("Llama", seed=5)
    build_sentencepiece().save_pretrained(tmp_path / "sp")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "sp" / name).write_bytes((other / name).read_bytes())
    assert "another tokenizer" in refused(run_cli("tu-eval", "depth", *asked[2:], "--model", tmp_path / "sp", "--full", tiny_model))
    assert not (tmp_path / "o").exists()
