"""docs/errors.md, as the table of cases has it: `PYTHONPATH=tests python -m errors.page` writes it anew."""

from pathlib import Path

from errors.cases import SECTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"

HEAD = """\
# Errors

What is wrong is said in one sentence, `error: …` on stderr, that names the file or the key and what to do. Nothing has
been trained or written then, and the exit code is 2. Here are {count} of these sentences; a test provokes each of them.

MODEL, ROOT and RUNS stand for `model.path`, `benchmark.root` and `runs_dir`, RUN for the run's own directory, HERE for
the folder that the command was started in.
"""


def render() -> str:
    """The page."""
    lines = [HEAD.format(count=sum(map(len, SECTIONS.values())))]
    for name, cases in SECTIONS.items():
        lines += [f"## {name}", "", "| what is wrong | what is said |", "| --- | --- |"]
        lines += [f"| {cell(case.what) or code(case.arguments)} | {code(case.sentence)} |" for case in cases]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def code(text: str) -> str:
    """A text to be read letter by letter, in a table."""
    quotes = "``" if "`" in text else "`"
    return f"{quotes}{cell(text)}{quotes}"


def cell(text: str) -> str:
    """A text in a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
