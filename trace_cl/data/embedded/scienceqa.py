"""ScienceQA in small: a question with three choices; the answer is the letter, and on the next line a reason."""

from trace_cl.draw import Draw

Question = tuple[str, list[str], int, str]  # question, choices, place of the right one, reason

_FAMILIES = (
    {
        "a solid": ("stone", "ice", "brick", "coin", "pencil", "plate"),
        "a liquid": ("milk", "rain", "juice", "oil", "tea", "vinegar"),
        "a gas": ("air", "steam", "oxygen", "helium", "nitrogen", "smoke"),
    },
    {
        "a mammal": ("dog", "whale", "horse", "bat", "rabbit", "tiger"),
        "a bird": ("eagle", "duck", "owl", "penguin", "robin", "parrot"),
        "a fish": ("salmon", "shark", "trout", "tuna", "carp", "eel"),
    },
    {
        "a reptile": ("snake", "lizard", "turtle", "crocodile", "gecko", "iguana"),
        "an insect": ("ant", "bee", "beetle", "moth", "fly", "wasp"),
        "a metal": ("iron", "copper", "gold", "silver", "tin", "zinc"),
    },
)
_NAMES = ("Mia", "Tom", "Ravi", "Lena", "Omar", "Zoe", "Ben", "Ana")
_MOVERS = ("duck", "truck", "train", "cyclist", "boat", "horse")
_DRINKS = ("tea", "soup", "milk", "water", "juice", "coffee")


def _kind(draw: Draw) -> Question:
    """What kind of thing something is; the kinds of a family always stand in the same order."""
    kinds = draw.one(_FAMILIES)
    place = draw.between(0, 2)
    kind = tuple(kinds)[place]
    thing = draw.one(kinds[kind])
    return f"{draw.one(_NAMES)} reads about {thing}. What is {thing}?", list(kinds), place, f"{thing} is {kind}."


def _speed(draw: Draw) -> Question:
    """Which of three movers was the fastest or the slowest; they all took equally long."""
    mover, hours, distances = draw.one(_MOVERS), draw.between(2, 9), draw.some(range(10, 100, 5), 3)
    word, size, pick = draw.one((("highest", "largest", max), ("lowest", "smallest", min)))
    right = pick(distances)
    choices = [f"a {mover} that went {distance} km in {hours} hours" for distance in distances]
    reason = f"it went the {size} distance, {right} km."
    return f"Which {mover} had the {word} speed?", choices, distances.index(right), reason


def _heat(draw: Draw) -> Question:
    """Which of three equal cups holds the most or the least heat."""
    drink, temperatures = draw.one(_DRINKS), draw.some(range(10, 90, 5), 3)
    word, size, pick = draw.one((("most", "highest", max), ("least", "lowest", min)))
    right = pick(temperatures)
    choices = [f"a cup at {degrees} degrees" for degrees in temperatures]
    reason = f"it has the {size} temperature, {right}."
    return f"Which cup of {drink} has the {word} thermal energy?", choices, temperatures.index(right), reason


def example(draw: Draw) -> tuple[str, str]:
    """A prompt, and "<letter>\\n<reason>" with the letters A, B and C equally likely."""
    question, choices, place, reason = draw.one((_kind, _kind, _speed, _heat))(draw)
    listed = "\n".join(f"{mark}. {choice}" for mark, choice in zip("ABC", choices, strict=True))
    prompt = (
        "Choose an answer for the following question and give your reasons.\n\n"
        f"Question:\n{question}\n\nChoices:\n{listed}\n\nAnswer:"
    )
    return prompt, f"{'ABC'[place]}\n{reason.capitalize()}"
