"""NumGLUE-cm in small: arithmetic that needs a fact everybody knows (days of a week, legs of a spider).

Every question names a count, or two, of things whose size common sense supplies.
"""

from trace_cl.draw import Draw

_NAMES = ("Mia", "Tom", "Ravi", "Lena", "Omar", "Zoe", "Ben", "Ana", "Kofi", "Yuki")
_SIZES = (
    ("How many days are {count} weeks?", 7),
    ("How many months pass in {count} years?", 12),
    ("{name} saw {count} spiders. How many legs did {name} see?", 8),
    ("{name} has {count} cats. How many legs do the cats have?", 4),
    ("{name} repairs {count} tricycles. How many wheels are there?", 3),
    ("{name} found {count} nickels. How many cents is that?", 5),
    ("{name} found {count} dimes. How many cents is that?", 10),
    ("{name} bought {count} dozen eggs. How many eggs did {name} buy?", 12),
    ("{name} drew {count} triangles. How many sides were drawn?", 3),
    ("{name} caught {count} beetles. How many legs do they have?", 6),
)


def _multiple(draw: Draw) -> tuple[str, int]:
    question, size = draw.one(_SIZES)
    count = draw.between(2, 9)
    return question.format(count=count, name=draw.one(_NAMES)), count * size


def _weeks_and_days(draw: Draw) -> tuple[str, int]:
    weeks, days = draw.between(2, 3), draw.between(1, 6)
    return f"{draw.one(_NAMES)} was away for {weeks} weeks and {days} days. How many days is that?", 7 * weeks + days


def _clock(draw: Draw) -> tuple[str, int]:
    start, hours = draw.between(1, 6), draw.between(1, 5)
    return f"{draw.one(_NAMES)} works from {start} to {start + hours} in the afternoon. How many hours?", hours


def _change(draw: Draw) -> tuple[str, int]:
    cents = draw.between(1, 9) * 10
    return f"{draw.one(_NAMES)} pays {cents} cents with a dollar. How many cents come back?", 100 - cents


_SHAPES = (_multiple, _multiple, _multiple, _weeks_and_days, _clock, _change)


def example(draw: Draw) -> tuple[str, str]:
    """A question and its whole number, in decimal digits."""
    question, answer = draw.one(_SHAPES)(draw)
    return f"Solve the following math problem.\nQuestion:\n{question}\nAnswer:", str(answer)
