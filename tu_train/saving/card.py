"""The model card (README.md of the output folder): what was unlearned, how, and what that does not prove. Hashes and
counts, no text."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tu_train.methods.table import Method

PACKAGES = ("token-unlearn", "torch", "transformers", "safetensors", "peft")
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")

UNLEARNED = """\
## What was unlearned

{rows}

The texts are not part of this card; the hashes identify them for whoever holds them.

## How

Method `{method}` ({paper}), forget loss of a token or row: `{formula}`. Token selection: {weights}.
"""
LIMITS = """\
## What cannot be claimed

- That the data is gone from the weights. Unlearning lowers how likely the model is to say it; other questions, sampling, fine-tuning,
  quantisation or a look inside may bring it back.
- That the model is the same as one that never saw the data. Only a comparison with such a model speaks of that.
- That nothing else was lost. What was kept was measured only on what it was measured on.

`tu-eval` measures each of these on this folder; this card holds no result of it.
"""
LOADING = """\
## Loading

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("FOLDER"), AutoTokenizer.from_pretrained("FOLDER")
```

```sh
vllm serve FOLDER
```
"""


def model_card(
    *, name: str, method: Method | None, about: Mapping[str, str], counts: Mapping[str, int], settings: Mapping[str, Any]
) -> str:
    """Markdown with the hub's metadata in front.

    `about`: fingerprints (store, start_model, forget_data, ...) and, when unlearning, `weights`: the token selection in
    words. `counts`: rows and steps. `settings`: the resolved configuration. `method`: None for fine-tuning.
    """
    parts = [_metadata(settings, method), f"# {name}\n"]
    table = _table({**{_words(k): str(v) for k, v in counts.items()}, **{_words(k): f"`{v}`" for k, v in about.items() if k != "weights"}})
    if method is None:
        parts += [f"A fine-tuned model, made with token-unlearn.\n\n## Data\n\n{table}"]
    else:
        fields = {"method": settings["method"], "paper": method.paper, "formula": method.formula, "weights": about["weights"]}
        parts += ["A model after unlearning at token level, made with token-unlearn.\n", UNLEARNED.format(rows=table, **fields)]
    parts += [f"## Settings\n\n{_table({k: f'`{json.dumps(v, ensure_ascii=False)}`' for k, v in settings.items() if v is not None})}"]
    parts += [f"## Software\n\n{_table({'python': platform.python_version(), **_versions()})}"]
    if method is not None:
        parts.append(LIMITS)
    return "\n".join([*parts, LOADING])


def _metadata(settings: Mapping[str, Any], method: Method | None) -> str:
    from huggingface_hub import ModelCardData

    model = str(settings["model"])
    base = "HuggingFaceTB/SmolLM2-135M-Instruct" if model == "smollm2" else model.partition("@")[0] if HUB_ID.fullmatch(model) else None
    tags = (
        ["token-unlearn", "fine-tuning"]
        if method is None
        else ["token-unlearn", "machine-unlearning", str(settings["method"]).rpartition(":")[2]]
    )
    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation", base_model=base, tags=tags)
    return f"---\n{data.to_yaml()}\n---\n"


def _versions() -> dict[str, str]:
    out = {}
    for package in PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:  # peft is an extra
            continue
    return out


def _words(name: str) -> str:
    return name.replace("_", " ")


def _table(rows: Mapping[str, str]) -> str:
    cells = [f"| {name} | {value.replace('|', '&#124;')} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *cells]) + "\n"
