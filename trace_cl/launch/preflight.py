"""Whether there are runs to be made that this machine can make.

    $ python -m trace_cl.launch.preflight experiment=table29,table36

It takes a sweep's arguments, looks at the members that are not complete yet, and says in one sentence everything that
they need and this machine lacks; each run by itself would say the first thing alone. Exit code 0 where at least one can
be made here, 1 where none can or none is missing. What is wrong with the arguments is left to the sweep to say.
"""

import sys
from collections.abc import Sequence
from itertools import product

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from trace_cl.build import build_strategy
from trace_cl.choices import compose
from trace_cl.config import as_dict, check
from trace_cl.data.benchmark import load_data
from trace_cl.errors import UserError
from trace_cl.run import find_journal
from trace_cl.training.folder import build_on_meta, of_sizes
from trace_cl.training.model import count, why_absent

LARGEST_ON_CPU = 1_000_000_000
"""Parameters: the eight tasks of TRACE would keep a CPU busy for weeks with more."""


def members(arguments: Sequence[str]) -> list[DictConfig]:
    """The configurations that `python -m trace_cl -m` makes of these arguments."""
    choices = [
        [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [str(override.input_line)]
        for override in OverridesParser.create().parse_overrides(list(arguments))
    ]
    return [compose(overrides) for overrides in product(*choices)]


def is_complete(config: DictConfig) -> bool:
    """Whether the run is there already. Raises UserError where it could never be."""
    check(config)
    return find_journal(config, build_strategy(config)).complete()


def lacks(config: DictConfig) -> list[str]:
    """What a run needs and this machine has not, a phrase each."""
    found = []
    if config.device == "auto" and not torch.cuda.is_available() and config.model.architecture:
        model = build_on_meta(of_sizes(as_dict(config.model.architecture)))
        if count(set(model.parameters())) > LARGEST_ON_CPU:
            found.append("a GPU")
    if reason := why_absent(config.model.source, config.model.path):
        found.append(f"the weights of {config.model.name} ({reason})")
    try:
        load_data(config.benchmark, build_strategy(config).uses_instructions)
    except UserError as error:
        found.append(f"the data ({error})")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    try:
        runs = [config for config in members(arguments or sys.argv[1:]) if not is_complete(config)]
    except (HydraException, UserError):
        return 0
    wanted = [
        (str(config.model.name), str(config.benchmark.name), build_strategy(config).uses_instructions)
        for config in runs
    ]
    lacking = {key: lacks(config) for key, config in dict(zip(wanted, runs, strict=True)).items()}
    if unable := sum(bool(lacking[key]) for key in wanted):
        phrases = "; ".join(sorted({phrase for phrases in lacking.values() for phrase in phrases}))
        print(
            f"{unable} of {len(runs)} missing runs cannot be made on this machine, which lacks {phrases}",
            file=sys.stderr,
        )
    return int(unable == len(runs))


if __name__ == "__main__":
    sys.exit(main())
