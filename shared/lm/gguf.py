"""`--model FILE.gguf`: a GGUF file becomes an ordinary Hugging Face folder in the user's cache, once, named by its
content.

transformers reads the file and dequantises it to float32; only what the file itself holds plays a part, and nothing
that lies beside it. What is lost or written twice on the way is put right and said: a beginning token that the
tokenizer does not put any more, an output layer that is the embedding, the entry that calls the weights quantised.
"""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.console import readable_bytes, say
from shared.errors import ModelError
from shared.files.fs import atomic_folder, read_json, write_json
from shared.lm.gguf_files import cache_folder, content_hash, gguf_files, join, split_hash
from shared.lm.gguf_header import Header, check_kind, read_header
from shared.lm.gguf_rope import put_scaling
from shared.lm.library import NO_CODE, quiet_transformers, reading
from shared.lm.model_files import check_token_ids, refuse_pointer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1
"""part of the folder's name: a new way of converting makes a new folder"""
SAME_MATRIX = 0.1
"""an output layer whose numbers differ from the embedding's by less of their spread is the embedding, quantised anew"""
TRIED = "Ab 1,é"


def gguf_folder(name: str) -> Path | None:
    """The converted model, or None where `name` is no GGUF file and no folder with the parts of one.

    `name`: FILE.gguf, or a folder below which its parts lie; either may be followed by @sha256: and the hash of the
    content. Raises ModelError for a GGUF that cannot be read, is no language model, or has another hash.
    """
    place, expected = split_hash(name)
    files = gguf_files(name, Path(place).expanduser()) if place.strip() else []
    if not files:
        if expected is not None:
            raise ModelError(f"model {name}: {place} is neither a GGUF file nor a folder with the parts of one")
        return None
    found = content_hash(files)
    if expected not in (None, found):
        raise ModelError(f"model {name}: its content has the sha256 {found}; get the file again, or mend the hash")
    folder = cache_folder() / f"gguf-{found[:32]}-{FORMAT}"
    if not is_made(name, folder):
        say(f"converting {name} once into {folder}")
        convert(name, files, folder)
    return folder


def made_note(folder: Path) -> Path:
    """Beside the folder: which files were written there, and of how many bytes."""
    return folder.parent / "hashes" / f"{folder.name}.json"


def is_made(name: str, folder: Path) -> bool:
    """Whether the folder of an earlier conversion is there. Raises ModelError where files of it are gone or cut, as
    what clears caches leaves it: without its template, say, a model would be asked in another way unnoticed."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    note = made_note(folder)
    made = read_json(note, foreign=True) if note.is_file() else None
    known = made if isinstance(made, dict) else {"config.json": None}  # of earlier versions
    for file, size in known.items():
        there = (folder / file).stat().st_size if (folder / file).is_file() else None
        if there is None or size not in (None, there):
            what = "gone" if there is None else f"{there} bytes long, {size} were written"
            raise ModelError(f"model {name}: its converted folder in the cache is damaged ({file} is {what}); "
                             f"delete {folder}, it is made again")  # fmt: skip
    return True


def convert(name: str, files: list[Path], folder: Path) -> None:
    """Writes the model in `files` (one GGUF, or its parts in order) into `folder`; whole or not at all.

    Two processes may convert at once: the first to finish wins. Raises ModelError.
    """
    for part in files:
        refuse_pointer(name, part)
    try:
        with atomic_folder(folder) as temporary:
            source = temporary / "source"  # alone in a folder: transformers would read a tokenizer or adapter beside it too
            source.mkdir()
            file = source / "model.gguf"
            _place(files, file)
            header = read_header(name, file)
            check_kind(name, header)
            _write(name, file, header, temporary)
            shutil.rmtree(source)
            made = {written.name: written.stat().st_size for written in sorted(temporary.iterdir())}
        made_note(folder).parent.mkdir(exist_ok=True)
        write_json(made_note(folder), made)
    except OSError as error:
        if not (folder / "config.json").exists():
            why = f"{error.filename or folder}: {error.strerror or error}"
            raise ModelError(f"model {name}: cannot be converted ({why}); make room, or set TU_CACHE_DIR to another folder") from None


def _place(files: list[Path], file: Path) -> None:
    if len(files) == 1:
        try:
            file.symlink_to(files[0].resolve())
            return
        except (OSError, NotImplementedError):  # a file system without links
            pass
    join(files, file)


def _write(name: str, file: Path, header: Header, folder: Path) -> None:
    import transformers

    quiet_transformers()

    def explain(error: BaseException) -> None:
        if "is not supported yet" in str(error) or "Unrecognized configuration" in str(error):
            raise ModelError(f"model {name}: transformers {transformers.__version__} reads no GGUF of the architecture "
                             f"{header.architecture[:40]}; name the model it was made from, as a folder or org/name") from None  # fmt: skip

    with reading(f"model {name}: its GGUF file cannot be converted", explain=explain):
        config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name, **NO_CODE)
        _require_room(name, config, header, folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, **NO_CODE)
        _drop_invented(tokenizer, header)
        _put_beginning(name, tokenizer, header)
        model = _plain(name, file, config, header)
        tokenizer.model_max_length = getattr(config, "max_position_embeddings", tokenizer.model_max_length)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _check_tokenizer(name, folder, header, rows=config.vocab_size)


def _require_room(name: str, config: PretrainedConfig, header: Header, folder: Path) -> None:
    """Raises ModelError where the entries describe a far larger model than the tensors are, and for a disk that is too
    full."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config, **NO_CODE).parameters())
    there = sum(header.elements.values())
    if count > 2 * there:
        raise ModelError(f"model {name}: its GGUF file describes a model of {count:,} numbers, and holds {there:,}; download it again")
    free = shutil.disk_usage(folder).free
    if free < 4 * count:
        raise ModelError(f"model {name}: converted it takes {readable_bytes(4 * count)}, and {folder.parent} has {readable_bytes(free)} "
                         "left; make room, or set TU_CACHE_DIR to another disk")  # fmt: skip


def _plain(name: str, file: Path, config: Any, header: Header) -> PreTrainedModel:
    """The model with float32 weights, and a configuration that says nothing of quantising: a folder with such an entry
    would be refused as already quantised."""
    import torch
    import transformers

    put_scaling(name, config, header, file)
    apart = "output.weight" in header.elements
    if apart:
        config.tie_word_embeddings = False  # some architectures would drop it unread
    # Newer readers keep blocks packed where a kernel for them is installed.
    wish = {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    with redirect_stderr(io.StringIO()):  # a bar that no setting of the library's turns off
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.float32, output_loading_info=True, **wish, **NO_CODE
        )
    packed, info = loaded
    if info["missing_keys"]:
        raise ModelError(f"model {name}: its GGUF file lacks tensors of the model, first {sorted(info['missing_keys'])[0]}; "
                         "download it again")  # fmt: skip
    values = {k: v for k, v in packed.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    if apart:
        values["tie_word_embeddings"] = _is_embedding(name, packed)
    with torch.device("meta"):
        plain = type(packed)(type(packed.config)(**values))
    plain.load_state_dict(packed.state_dict(), assign=True)
    plain.tie_weights()
    return plain


def _is_embedding(name: str, model: PreTrainedModel) -> bool:
    """Whether the output layer is the embedding once more, number for number."""
    import torch

    layers: Any = model.get_input_embeddings(), model.get_output_embeddings()
    embedding, output = (layer.weight for layer in layers)
    if embedding.shape == output.shape and torch.equal(embedding, output):
        say(f"model {name}: its output layer is its embedding, written twice; they are one again (tie_word_embeddings)")
        return True
    some = slice(0, 1000)
    if embedding.shape == output.shape and (embedding[some] - output[some]).std() < SAME_MATRIX * embedding[some].std():
        say(f"model {name}: its output layer is its embedding, quantised in another way; both are kept, as two matrices")
    return False


def _drop_invented(tokenizer: Any, header: Header) -> None:
    """Takes out tokens that the file does not have: transformers' classes put their own (`<|endoftext|>`) behind its
    last, where the embedding has no row."""
    from tokenizers import Tokenizer

    count = len(header.values.get("tokenizer.ggml.tokens", ()))
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in state["added_tokens"] if token["id"] < count]
    if len(kept) == len(state["added_tokens"]):
        return
    state["added_tokens"] = kept
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    for role, token in tokenizer.special_tokens_map.items():
        if isinstance(token, str) and tokenizer.backend_tokenizer.token_to_id(token) is None:
            setattr(tokenizer, role, None)


def _put_beginning(name: str, tokenizer: PreTrainedTokenizerBase, header: Header) -> None:
    """The beginning token stands before a text where the file says so (add_bos_token), and nowhere else.

    Where the file says nothing, sentencepiece tokenizers have one, as llama.cpp has it, and others stay as they are.
    """
    from tokenizers.processors import TemplateProcessing

    wanted = header.values.get("tokenizer.ggml.add_bos_token", True if header.values.get("tokenizer.ggml.model") == "llama" else None)
    token, number = tokenizer.bos_token, tokenizer.bos_token_id
    puts = number is not None and tokenizer(TRIED)["input_ids"][:1] == [number]
    if wanted is None or bool(wanted) == puts or not isinstance(token, str):
        return
    backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    single = f"{token} $A" if wanted else "$A"
    pair = f"{token} $A {token}:1 $B:1" if wanted else "$A $B:1"
    backend.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=[(token, number)])
    done = "put back before every text" if wanted else "not put before texts any more, as the file says"
    say(f"model {name}: its tokenizer's beginning token {token} was {'lost' if wanted else 'added'} in conversion; it is {done}")


def _check_tokenizer(name: str, folder: Path, header: Header, *, rows: int) -> None:
    """Raises ModelError for a written tokenizer that is not fast, or has tokens that the embedding has no row for."""
    from transformers import AutoTokenizer

    check_token_ids(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    if not tokenizer.is_fast:
        raise ModelError(f"model {name}: needs a fast tokenizer, and its GGUF file makes a {type(tokenizer).__name__}")
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise ModelError(f"model {name}: its GGUF file has tokens up to id {largest}, and an embedding of {rows} rows; download it again")
