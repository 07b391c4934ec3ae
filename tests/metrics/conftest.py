"""Where TRACE's own answers come from, for the tests that hold the scorers against TRACE's packages."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def trace_answers() -> Callable[[str], list[str]]:
    """Gives the very answers of a TRACE task's test split, or skips where there is no copy of TRACE."""
    places = [Path(os.environ["TRACE_ROOT"])] if "TRACE_ROOT" in os.environ else []
    places.append(REPOSITORY.parent / "shared" / "trace-500")

    def answers(task: str) -> list[str]:
        for place in places:
            file = place / task / "test.json"
            if file.exists():
                rows = json.loads(file.read_text(encoding="utf-8"))[:100]
                return [row["answer"] for row in rows]
        pytest.skip(f"no TRACE data: {task}/test.json is neither in $TRACE_ROOT nor in ../shared/trace-500")

    return answers
