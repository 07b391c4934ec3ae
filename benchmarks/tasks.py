"""The tasks that the benchmarks measure with."""

from collections.abc import Sequence

from omegaconf import DictConfig
from transformers import PreTrainedTokenizerBase

from trace_cl.data.batches import Encoder
from trace_cl.data.benchmark import Task, load_data, prepare


def read_tasks(config: DictConfig, tokenizer: PreTrainedTokenizerBase, tokens: int | None = None) -> Sequence[Task]:
    """Those of a run's benchmark, encoded as it does it or cut to so many tokens. Raises UserError for the data."""
    total, prompt = config.training.total_tokens, config.evaluation.prompt_tokens
    encoder = Encoder(tokenizer, tokens or total, tokens or prompt)
    return prepare(config.benchmark, load_data(config.benchmark, instructions=False), "test", encoder).tasks
