"""How a row becomes a prompt and an answer: texts with named places, as a benchmark's YAML has them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from string import Formatter

from trace_cl.config import BenchmarkConfig
from trace_cl.errors import UserError


@dataclass
class Template:
    """A text with `{named}` places, blanks and line ends as written; `{{` and `}}` are braces. `key` is its own.

    What is filled in is never read as a template itself. Raises UserError for a text that is no template.
    """

    key: str
    text: str
    parts: list[tuple[str, str | None]] = field(init=False)
    """Pieces of text, each with the place that follows it (None: none)."""

    def __post_init__(self) -> None:
        try:
            parsed = list(Formatter().parse(self.text))
        except ValueError as error:
            raise UserError(f"{self.key}: {error}; a brace that names no place is written twice") from error
        for _, place, form, conversion in parsed:
            if place is not None and (form or conversion):
                raise UserError(f"{self.key}: {{{place}{'!' if conversion else ':'}…}} is no name of a place alone")
        self.parts = [(text, place) for text, place, _, _ in parsed]

    @property
    def places(self) -> set[str]:
        """Their names."""
        return {place for _, place in self.parts if place is not None}

    def check(self, given: Collection[str]) -> None:
        """Raise UserError for a place that a task's rows do not give."""
        for place in sorted(self.places - set(given)):
            raise UserError(f"{self.key}: there is no {{{place}}} here, but {_listed(given)}")

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with these values in its places."""
        return "".join(text + (values[place] if place is not None else "") for text, place in self.parts)


@dataclass(frozen=True)
class Reading:
    """What a benchmark's YAML says of how a task is read; None, or empty, where it says nothing.

    `dataset`, `subset`, `revision`, `options`, `answer` and `splits` are those of `benchmark.reader=datasets`.
    """

    template: Template | None = None
    answer: Template | None = None
    options: tuple[str, ...] = ()
    dataset: str | None = None
    subset: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: BenchmarkConfig, name: str) -> "Reading":
        """That of a task, or of an instruction set, for which the benchmark's own keys stand. Raises UserError for a
        text that is no template."""
        own = config.tasks.get(name)

        def template(key: str) -> Template | None:
            for where, section in ((f"benchmark.tasks.{name}", own), ("benchmark", config)):
                if section is not None and (text := getattr(section, key)) is not None:
                    return Template(f"{where}.{key}", text)
            return None

        return cls(
            template("template"),
            template("answer"),
            tuple(own.options or ()) if own else (),
            own.dataset if own else None,
            own.subset if own else None,
            own.revision if own else None,
            dict(config.splits),
        )

    def needed_template(self, reader: str, given: Collection[str]) -> Template:
        """The template, of these places alone. Raises UserError where there is none."""
        if self.template is None:
            raise UserError(
                f"benchmark.template is not set: benchmark.reader={reader} needs a text with some of {_listed(given)}"
            )
        self.template.check(given)
        return self.template


def _listed(places: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in places)
