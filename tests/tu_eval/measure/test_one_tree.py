"""All variants of a question go through the model as one tree: what they share is computed once."""

import pytest

from shared.engines.torch import TorchEngine
from shared.lm.forest import MIN_SHARED
from tu_eval.measure.pieces import score_examples
from tu_eval.suites.suites import find_suite
from tu_eval.suites.variants import load_variants


def tokens_computed(engine, examples, monkeypatch) -> list[int]:
    """Of each forward pass that scoring these examples takes."""
    import shared.lm.packed

    counts, pack = [], shared.lm.packed.pack

    def counted(*arguments, **options):
        forest = pack(*arguments, **options)
        counts.append(len(forest.ids_L))
        return forest

    with monkeypatch.context() as patch:
        patch.setattr(shared.lm.packed, "pack", counted)
        score_examples(engine, examples, set())
    return counts


@pytest.fixture(scope="module")
def rows(tiny_tokenizer, tofu_dir):
    """Variants of ten questions of each of TOFU's sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TU_TOFU_DIR", str(tofu_dir))
        parts = find_suite("tofu:forget01").sets
        return [load_variants(part, tiny_tokenizer, context=None, long="error", limit=10)[0] for part in parts]


def test_seven_variants_of_a_question_are_one_tree(rows, make_tiny, monkeypatch):
    engine = TorchEngine.load(make_tiny("Llama", max_position_embeddings=2048), device="cpu", batch_tokens=4096)
    for v in rows[0]:
        assert len(v.examples) == 7
        read = [e.input_ids[: e.targets[-1]] for e in v.examples]
        (computed,) = tokens_computed(engine, v.examples, monkeypatch)
        distinct = len({tuple(ids[: k + 1]) for ids in read for k in range(len(ids))})
        # Answers that begin alike for less than MIN_SHARED tokens compute those twice.
        assert distinct <= computed <= distinct + 7 * (MIN_SHARED - 1)
        assert computed <= sum(map(len, read)) - 6 * v.answer.prompt_length + 7 * (MIN_SHARED - 1)


def test_the_suite_is_computed_in_half_of_its_tokens_in_whatever_order_it_comes(rows, make_tiny, monkeypatch):
    engine = TorchEngine.load(make_tiny("Llama", max_position_embeddings=2048), device="cpu", batch_tokens=2048)
    by_row = [e for part in rows for v in part for e in v.examples]
    by_variant = sorted(by_row, key=lambda e: e.id.partition("+")[2])  # as loops of today have it: a pass over each variant
    total = sum(e.targets[-1] for e in by_row)
    counts = [sum(tokens_computed(engine, examples, monkeypatch)) for examples in (by_row, by_variant)]
    assert counts[0] == counts[1] < 0.6 * total
    alone = sum(sum(tokens_computed(engine, [e], monkeypatch)) for e in by_row[:14])
    assert alone == sum(e.targets[-1] for e in by_row[:14])  # the count is that of tokens that the model reads
