"""EleutherAI's lm-evaluation-harness, as far as abilities are measured with it: each by one call, as `lm_eval` does.

Not known here are the settings of the HFT paper's appendix A.3, which was not at hand. The nine below are the harness's
own tasks of the paper's benchmarks; where these leave a choice it is the one that the printed figures fit.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

from trace_cl.errors import UserError

TaskName = str | dict[str, Any]


@dataclass(frozen=True)
class Ability:
    """A benchmark: the harness's name of its task, group or tag, or a task's configuration; the figure that counts, as
    the harness names it (`metric,filter`; empty: the only one there is); `shots`, or None for the task's own; of each
    task the first `limit` examples, or None for all; and whether code that the model has written is executed."""

    name: str
    task: TaskName
    figure: str = ""
    shots: int | None = None
    limit: int | None = None
    runs_code: bool = False

    @property
    def task_name(self) -> str:
        """What the harness calls it."""
        return self.task if isinstance(self.task, str) else str(self.task["task"])


CLOSED_BOOK_HOTPOTQA = {
    "task": "hotpotqa_closed_book",
    "dataset_path": "hotpotqa/hotpot_qa",
    "dataset_name": "distractor",
    "validation_split": "validation",
    "output_type": "generate_until",
    "description": "Answer these questions:\n\n",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n", ".", ","], "do_sample": False},
    "filter_list": [
        {"name": "remove_whitespace", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
    ],
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_case": True,
            "ignore_punctuation": True,
        }
    ],
    "metadata": {"version": 1.0},
}
"""HotpotQA without its paragraphs, asked as the harness asks Natural Questions: it has none of its own."""

PAPER = (
    Ability("MMLU", "mmlu", "acc,none", shots=0),
    # The paper prints steps of 0.5: 200 examples.
    Ability("GSM8K", "gsm8k_cot", "exact_match,flexible-extract", limit=200),
    Ability("BBH", "bbh_cot_fewshot", "exact_match,get-answer", limit=40),
    Ability("TyDiQA", "tydiqa_goldp", "f1,none", shots=1, limit=100),
    Ability("TruthfulQA", "truthfulqa_mc2", "acc,none"),
    # The paper's figures are no multiples of 1/164, so that it drew several answers to a problem; this is one, greedy.
    Ability("HumanEval", "humaneval", "pass@1,create_test", runs_code=True),
    Ability("NaturalQuestions", "nq_open", "exact_match,remove_whitespace", shots=0),
    Ability("TriviaQA", "triviaqa", "exact_match,remove_whitespace", shots=0),
    Ability("HotpotQA", CLOSED_BOOK_HOTPOTQA, "exact_match,remove_whitespace", shots=0),
)
"""The nine of Table 12. Shots and limits are those of the evaluation of TÜLU, on whose data the paper trains
(allenai/open-instruct 165106d, scripts/eval); questions without a text are asked without examples."""


@dataclass(frozen=True)
class Measured:
    """What the harness says of an ability: the score from 0 to 100, its results, and every example with its answer."""

    score: float
    results: dict[str, Any]
    samples: list[dict[str, Any]]


@dataclass(frozen=True)
class Harness:
    """The harness with its tasks and those of a folder of one's own YAML files."""

    include: Path | None = None
    wanted: Sequence[TaskName] = field(default=())

    @cached_property
    def manager(self) -> Any:
        """What knows the tasks. Raises UserError where the harness is not installed."""
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise UserError(
                f"abilities are measured by the lm-evaluation-harness ({error}): pip install 'trace-cl[abilities]'"
            ) from error
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it tells of every setting that is as asked
        include = None if self.include is None else str(self.include)
        if include is not None:  # its own ten thousand take seconds to list: only where they are asked for
            own = TaskManager(include_path=include, include_defaults=False)
            if all(isinstance(task, str) and task in own.all_tasks for task in self.wanted):
                return own
        return TaskManager(include_path=include)

    def checked(self, ability: Ability) -> Ability:
        """The ability with its figure named. Raises UserError for a task that there is not, whose data cannot be read,
        or that has not this figure."""
        name = ability.task_name
        if ability.runs_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the library that executes it asks for this word too
        manager = self.manager
        try:
            tasks = manager.load([ability.task])["tasks"]
        except KeyError as error:
            raise UserError(
                f"--task {name}: the harness knows no such task, group or tag; `lm_eval ls tasks` lists them"
            ) from error
        except Exception as error:  # whatever a task's own code and its data's library raise
            reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
            raise UserError(
                f"{name} cannot be loaded ({reason}): fetch its data where there is a network, or leave it out"
            ) from error
        if not ability.runs_code and any(getattr(task, "UNSAFE_CODE", False) for task in tasks.values()):
            raise UserError(f"--task {name} executes code that the model has written: add --run-code where that may be")
        figures = sorted({figure for task in tasks.values() for figure in _figures(task.config)})
        if ability.figure in figures or not figures:
            return ability
        if not ability.figure and len(figures) == 1:
            return replace(ability, figure=figures[0])
        asked = f" and not {ability.figure}" if ability.figure else ""
        raise UserError(
            f"--task {name} has the figures {'; '.join(figures)}{asked}: name one, as in {name}:{figures[0]}"
        )

    def measure(self, model: Any, tokenizer: Any, ability: Ability, batch: int | str) -> Measured:
        """The ability of a model, as `lm_eval` measures it with its own seeds. Raises UserError for a figure that is no
        share."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        found = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch),
            tasks=[ability.task],
            num_fewshot=ability.shots,
            limit=ability.limit,
            task_manager=self.manager,
            bootstrap_iters=0,
            confirm_run_unsafe_code=ability.runs_code,
        )
        name, results = ability.task_name, found["results"]
        of = [results[name]] if name in results else list(results.values())
        values = [each.get(ability.figure) for each in of]
        if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
            raise UserError(
                f"--task {name}: {ability.figure} is {values[0]}, and no share from 0 to 1: name another figure"
            )
        kept = {key: found.get(key) for key in ("results", "n-samples", "n-shot", "versions", "lm_eval_version")}
        samples = [
            {
                "task": task,
                "index": sample["doc_id"],
                "target": sample["target"],
                "answer": sample["filtered_resps"],
                **{metric: sample[metric] for metric in sample["metrics"]},
            }
            for task, several in found["samples"].items()
            for sample in several
        ]
        return Measured(100 * mean(values), kept, samples)


def _figures(config: Any) -> list[str]:
    """The figures that a task promises, as the harness names them; none where code of its own does."""
    metrics: Sequence[Mapping[str, Any]] = config.metric_list or []
    if any(callable(each["metric"]) for each in metrics):
        return []
    filters = [each["name"] for each in config.filter_list or [{"name": "none"}]]
    return [f"{each['metric']},{name}" for each in metrics for name in filters]
