"""Fixtures that all tests share: a tiny tokenizer and tiny random models, the commands run in-process, the real TOFU
folder."""

import contextlib
import gc
import importlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

# Set before anything imports the hub library: no test may reach for the network, and a test that needs it says so by
# failing.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import absl.logging
import pytest
import torch

from shared.data import atlas
from tests.s3 import ADMIN, NO_CREDENTIALS, S3Server, require

MAX_THREADS = 2
CONTEXT = 512
VOCABULARY = 500
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|unk|>")
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ARCHITECTURES = ("Llama", "Qwen2", "GPT2", "Mistral", "Gemma2", "Phi3")
COMMANDS = ("tu-score", "tu-train", "tu-eval")


def pytest_configure(config):
    torch.set_num_threads(min(MAX_THREADS, torch.get_num_threads()))
    # absl, which rouge-score brings, keeps the stderr of its import, and vLLM has every log handler closed: pytest's
    # own stream with it.
    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


def pytest_unconfigure(config):
    gc.unfreeze()  # or extension modules say at the end of the interpreter that their objects were leaked


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_looked_at():
    """A scoring run collects garbage when it lets a model go, and each time the collector would walk over every object
    of all imported packages and collected tests, a quarter of a second: what is alive between two files lives on, and
    is taken out of its sight."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _disks_are_not_waited_for():
    """No test cuts the power, so what is written here need not reach a disk. Where and when the calls come is tested
    (tests/shared/files/test_fs.py), and a descriptor that is closed still fails; commands in processes of their own
    wait as ever."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (os.fstat(descriptor), None)[1])
        yield


@pytest.fixture(scope="session", autouse=True)
def _curves_are_not_drawn():
    """Training runs in this process leave an empty curves.png: to draw it takes as long as a tiny run. Commands in
    processes of their own draw it, and so does tests/tu_train/saving/test_curves_png.py."""
    from tu_train.saving import output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "draw_curves", lambda log, out: out.touch())
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE of VOCABULARY entries, trained on a hundred atlas texts; ChatML template, `<|im_end|>` ends a
    turn and a text."""
    return build_tokenizer()


def build_tokenizer(chat_template: str | None = CHATML):
    """A new tokenizer on each call, so that a test may change it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False)
    rows = atlas.rows("full", atlas.AtlasSize(people=10, facts_per_person=5, forget_people=1, holdout_people=1))
    core.train_from_iterator([row[key] for row in rows for key in ("question", "answer")], trainer)
    pad, start, end, unknown = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=start, eos_token=end, unk_token=unknown,
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = chat_template
    return tokenizer


LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ '[SYS] ' + m.content + ' [/SYS] ' }}"
    "{% elif m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)


def build_sentencepiece(chat_template: str | None = LLAMA2, *, legacy: bool = True):
    """A new tokenizer of the sentencepiece form: blanks belong to tokens as `▁`, letters it does not know become bytes,
    `<s>` is put before a text. `legacy`: the blanks come from the normaliser, as in Llama 2 and Phi-3; else from the
    pre-tokenizer, as in Mistral."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    size = atlas.AtlasSize(people=10, facts_per_person=5, forget_people=1, holdout_people=1)
    core.train_from_iterator(
        [row[key] for row in atlas.rows("full", size) for key in ("question", "answer")],
        trainers.BpeTrainer(vocab_size=VOCABULARY - 3 - 256, show_progress=False),
    )
    learned = json.loads(core.to_str())["model"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(learned["vocab"], key=learned["vocab"].get)]
    merges = [tuple(pair) for pair in learned["merges"]]
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    blanks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(blanks)
    if legacy:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>", model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture(scope="session", params=["byte level", "sentencepiece", "sentencepiece, legacy"])
def any_tokenizer(request):
    """One of each form, with a chat template; a test that touches text takes it."""
    return build_tokenizer() if request.param == "byte level" else build_sentencepiece(legacy="legacy" in request.param)


@pytest.fixture(scope="session")
def make_tiny(tiny_tokenizer, tmp_path_factory) -> Callable[..., Path]:
    """`make_tiny(architecture, seed=0, **config)` -> folder of a random float32 model with the tiny tokenizer; made
    once a session.

    Architectures are those of ARCHITECTURES; Mistral has a sliding window of 16 tokens, Gemma2 one too and soft caps.
    Weights are large enough that attention and logits are far from uniform.
    """
    made: dict[tuple, Path] = {}

    def make(architecture: str = "Llama", seed: int = 0, **overrides) -> Path:
        key = (architecture, seed, *sorted(overrides.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{architecture.lower()}-{seed}")
            _save_tiny(made[key], tiny_tokenizer, architecture, seed, overrides)
        return made[key]

    return make


def _save_tiny(folder: Path, tokenizer, architecture: str, seed: int, overrides: dict) -> None:
    import transformers

    size = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
        "max_position_embeddings": CONTEXT, "initializer_range": 0.1,
    }  # fmt: skip
    special = {
        "Mistral": {"sliding_window": 16, "head_dim": 16},
        "Gemma2": {
            "sliding_window": 16, "head_dim": 16, "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
        },
        "Phi3": {"original_max_position_embeddings": CONTEXT, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    }  # fmt: skip
    if architecture == "GPT2":
        size = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.1}
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    entries = {"vocab_size": len(tokenizer), **size, **ids, **special.get(architecture, {}), **overrides}
    config = getattr(transformers, f"{architecture}Config")(**entries)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_model(make_tiny) -> Path:
    """Folder of a random Llama: width 64, 2 layers, 4 heads over 2 key heads, context 512, float32."""
    return make_tiny("Llama", seed=0)


@pytest.fixture(scope="session")
def tiny_base(make_tiny) -> Path:
    """The same architecture and tokenizer as `tiny_model`, other weights."""
    return make_tiny("Llama", seed=1)


@pytest.fixture
def run_cli(monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """`run_cli("tu-score", "run", ...)` -> exit code, stdout, stderr of the command's own `main()`, in this process.

    Arguments are turned into text. Any other exception than SystemExit comes through: it would be a traceback for the
    user.
    """

    def run(command: str, *arguments: object) -> tuple[int, str, str]:
        assert command in COMMANDS, f"run_cli: got {command!r}, expected one of {COMMANDS}"
        module = importlib.import_module(f"{command.replace('-', '_')}.cli")
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        code: int | str | None = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                module.main()
            except SystemExit as stop:
                code = stop.code
        if isinstance(code, str):
            err.write(code)  # what the interpreter does with a text
        return 0 if code is None else code if isinstance(code, int) else 1, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def hub():
    """A hub on loopback (tests/hub.py), empty."""
    from tests.hub import Hub

    server = Hub()
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    yield server
    server.shutdown()
    server.server_close()
    serving.join()


@pytest.fixture(scope="session")
def tofu_dir() -> Path:
    """The folder with TOFU's JSON files (TU_TOFU_DIR). Missing: a skip, but a failure where TU_REQUIRE_DATA=1."""
    return _data_folder("TU_TOFU_DIR", "forget01.json", "TOFU's JSON files")


@pytest.fixture(scope="session")
def lume_dir() -> Path:
    """The same of LUME's forget.jsonl and retain.jsonl (TU_LUME_DIR)."""
    return _data_folder("TU_LUME_DIR", "forget.jsonl", "LUME's forget.jsonl and retain.jsonl")


def _data_folder(variable: str, file: str, what: str) -> Path:
    text = os.environ.get(variable, "")
    folder = Path(text)
    if text and (folder / file).is_file():
        return folder
    problem = f"{variable} is {text!r}, expected a folder with {what}"
    if os.environ.get("TU_REQUIRE_DATA") == "1":
        pytest.fail(problem)
    pytest.skip(problem)


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 server on loopback, for all tests of a session (tests/s3.py)."""
    require("moto", "s3fs")
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server, monkeypatch, tmp_path):
    """The server, which answers well again, with the credentials of its owner in the environment."""
    import s3fs

    if s3_server.server is None:
        s3_server.start()
    s3_server.reset()
    for name in NO_CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    nowhere = tmp_path / "no-credentials"
    elsewhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": nowhere, "AWS_SHARED_CREDENTIALS_FILE": nowhere}
    for name, value in {**ADMIN, "AWS_ENDPOINT_URL": s3_server.url, "AWS_ALLOW_HTTP": "true", **elsewhere}.items():
        monkeypatch.setenv(name, str(value))
    s3fs.S3FileSystem.clear_instance_cache()  # it holds credentials of the test before
    yield s3_server
    s3fs.S3FileSystem.clear_instance_cache()
