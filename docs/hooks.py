"""What the site takes from the code: no page lists what the schema, `conf/` or a docstring already says.

A line `{{ keys }}` in a page, or the like, is where it stands.

What a key means is said in the string below its field, or, of a strategy's, in the class's docstring.
"""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, get_args, get_type_hints

from trace_cl.choices import compose
from trace_cl.config import CONF_DIR, Config, EditionConfig, TaskConfig, as_dict

PLACE = re.compile(r"^\{\{ (\w+) ?(\S*) \}\}$", re.MULTILINE)


class Key(NamedTuple):
    """A key of the configuration, as a row of a table shows it."""

    name: str
    type: str
    default: str
    meaning: str


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with its places filled; called by mkdocs."""
    fill: dict[str, Callable[..., str]]
    fill = {"choices": choices, "keys": settings, "strategies": strategies, "loggers": loggers, "python": python}
    return PLACE.sub(lambda place: fill[place[1]](*place[2].split()), markdown)


def choices() -> str:
    """Every group of conf/ and its choices, each with the first line of its file."""
    text = ""
    for folder in sorted(folder for folder in CONF_DIR.iterdir() if folder.is_dir() and list(folder.glob("*.yaml"))):
        text += f"\n### `{folder.name}=`\n\n| choice | |\n| --- | --- |\n"
        for file in sorted(folder.glob("*.yaml")):
            comments = (line.removeprefix("# ") for line in file.read_text(encoding="utf-8").splitlines())
            said = next(line for line in comments if not line.startswith("@package"))
            text += f"| `{file.stem}` | {said.replace('<', '&lt;')} |\n"
    return text


def settings() -> str:
    """Every key of the schema, a table a section."""
    text, rows = "", list(keys(Config))
    for section in dict.fromkeys(row.name.partition(".")[0] if "." in row.name else "" for row in rows):
        members = [row for row in rows if row.name.startswith(f"{section}.") or (not section and "." not in row.name)]
        heading = f"`{section}.`" if section else "The run itself"
        text += f"\n### {heading}\n\n{table(members)}\n"
    return text


def strategies() -> str:
    """The keys of each strategy, below what its class says of itself."""
    text = ""
    for file in sorted((CONF_DIR / "strategy").glob("*.yaml")):
        values = composed(f"strategy={file.stem}")["strategy"]
        text += f"\n### `strategy={file.stem}`\n\n"
        cls = look_up(values.pop("_target_"))
        text += f"{inspect.getdoc(cls)}\n\n"
        described, types = meanings(cls), get_type_hints(cls)
        rows = [
            Key(f"strategy.{name}", spelled(types.get(name, Any)), written(value), described.get(name, ""))
            for name, value in values.items()
        ]
        text += f"{table(rows)}\n" if rows else ""
    return text


def loggers() -> str:
    """The keys of each logger."""
    text = ""
    for file in sorted((CONF_DIR / "logger").glob("*.yaml")):
        values = composed(f"logger={file.stem}")["logger"]
        cls = look_up(values.pop("_target_"))
        listed = ", ".join(f"`logger.{name}={written(value)}`" for name, value in values.items())
        text += f"\n### `logger={file.stem}`\n\n{inspect.getdoc(cls)}\n\n{listed}\n"
    return text


def python(name: str) -> str:
    """A function or class: how it is called, and its docstring, whose arguments and errors become lists."""
    thing = look_up(name)
    call = name.rpartition(".")[2] + str(inspect.signature(thing)).replace("collections.abc.", "")
    said = re.sub(r"^(Args|Raises):$", r"**\1**\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    said = re.sub(r"^ {4}(\w+): ", r"- `\1`: ", said, flags=re.MULTILINE)
    return f"### `{name}`\n\n```python\n{call}\n```\n\n{said}"


def keys(cls: type, prefix: str = "") -> Iterator[Key]:
    """The keys of a class of the schema, and of the classes in it; not those that a strategy or a logger brings."""
    described, types, values = meanings(cls), get_type_hints(cls), composed()
    for part in prefix.split(".")[:-1]:
        values = values.get(part, {})
    for field in dataclasses.fields(cls):
        name, kind = f"{prefix}{field.name}", types[field.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from keys(kind, f"{name}.")
        elif kind in (dict[str, TaskConfig], dict[str, EditionConfig]):
            [_, part] = get_args(kind)
            yield from keys(part, f"{name}.{part.__name__.removesuffix('Config').upper()}.")
        elif name not in ("strategy", "logger"):
            value = written(values[field.name]) if field.name in values else ""
            yield Key(name, spelled(kind), value, described.get(field.name, ""))


@cache
def meanings(cls: type) -> dict[str, str]:
    """What the string below each field of a class, or of its bases, says, on one line."""
    found: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration that these words compose, references as they stand."""
    return as_dict(compose(overrides), resolve=False)


def look_up(name: str) -> Any:
    """What a dotted name names."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def spelled(kind: Any) -> str:
    """A type as one writes it."""
    if kind is Any:
        return ""
    return kind.__name__ if type(kind) is type else str(kind).replace("typing.Any", "Any")


def written(value: Any) -> str:
    """A value as one writes it on the command line; empty for one that must be given."""
    if value == "???":
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False).replace('"', "")


def table(rows: Sequence[Key]) -> str:
    """Rows as Markdown, without a column that would be empty."""
    columns = ("key", "type", "default", "meaning" if any(row.meaning for row in rows) else "")
    lines = [columns, ["---" if column else "" for column in columns]]
    for name, *code, meaning in rows:
        lines.append([f"`{name}`", *(f"`{text}`" if text else "" for text in code), meaning])
    last = len(columns) if columns[-1] else -1
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line[:last]) + " |" for line in lines)
