"""What transformers and tokenizers say when they cannot read what they are given becomes one line; they run no code of
it, and they keep their bars and notices to themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shared.errors import ModelError, UserError

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""given to transformers wherever it loads: left out, it asks on standard input whether to run the folder's Python"""
LOAD_ERRORS = (
    OSError, ValueError, LookupError, RuntimeError, ImportError, AttributeError, TypeError, ArithmeticError, AssertionError, MemoryError,
)  # fmt: skip
"""what transformers raises for a folder that it cannot use; the later ones for entries of its files that have another
form, or no bounds"""


def first_line(error: BaseException) -> str:
    """What the error says, and its kind where it says nothing."""
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__


def quiet_transformers() -> None:
    """Our own lines say what is loading; the library's bars and notices would drown them."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def reading(what: str, *, explain: Callable[[BaseException], None] | None = None) -> Iterator[None]:
    """Whatever the libraries raise over a model's files in the block becomes a ModelError, `what` and their own words.

    `explain`: raises a better ModelError where it knows one.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # tokenizers says most of its faults in a bare Exception, and the worst in a panic that is no Exception at all.
        bare = type(error) is Exception or type(error).__name__ == "PanicException"
        if not bare and not isinstance(error, (*LOAD_ERRORS, SafetensorError, StrictDataclassError)):
            raise
        if explain is not None:
            explain(error)
        raise ModelError(f"{what}: {first_line(error)[:300]}") from None
