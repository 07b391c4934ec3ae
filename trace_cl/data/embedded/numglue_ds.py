"""NumGLUE-ds in small: arithmetic that needs a law of physics or chemistry (speed, density, Ohm's law, moles)."""

from trace_cl.draw import Draw

_MOVERS = ("car", "bus", "runner", "boat", "train", "drone")
_THINGS = ("stone", "block", "cube", "ball", "bar", "crate")
_PRODUCTS = (("LiOH", "LiCl", "HCl"), ("NaOH", "NaCl", "HCl"), ("KOH", "KBr", "HBr"), ("NaOH", "NaBr", "HBr"))
_DOUBLED = (("water", "H2"), ("magnesium oxide", "Mg"), ("carbon monoxide", "C"), ("calcium oxide", "Ca"))


def _distance(draw: Draw) -> tuple[str, int]:
    speed, hours = draw.between(2, 9) * 10, draw.between(2, 9)
    return f"A {draw.one(_MOVERS)} moves at {speed} km/h. How far does it go in {hours} h, in km?", speed * hours


def _speed(draw: Draw) -> tuple[str, int]:
    speed, seconds = draw.between(2, 6), draw.between(2, 6)
    return f"A {draw.one(_MOVERS)} covers {speed * seconds} m in {seconds} s. Find its speed in m/s", speed


def _density(draw: Draw) -> tuple[str, int]:
    density, volume = draw.between(2, 6), draw.between(2, 6)
    thing, mass = draw.one(_THINGS), density * volume
    return f"Find the density in g/cm3 of a {thing} of mass {mass} g and volume {volume} cm3", density


def _ohm(draw: Draw) -> tuple[str, int]:
    current, resistance = draw.between(2, 9), draw.between(2, 12)
    return f"A current of {current} A flows through {resistance} ohm. Find the voltage", current * resistance


def _force(draw: Draw) -> tuple[str, int]:
    mass, acceleration = draw.between(2, 9), draw.between(2, 9)
    thing = draw.one(_THINGS)
    return f"What force gives a {thing} of {mass} kg an acceleration of {acceleration} m/s2?", mass * acceleration


def _kelvin(draw: Draw) -> tuple[str, int]:
    celsius = draw.between(1, 9) * 10
    return f"A {draw.one(_THINGS)} has {celsius} degrees Celsius. How many kelvin is that?", celsius + 273


def _salt(draw: Draw) -> tuple[str, int]:
    """One to one: the scarcer of the two reactants decides."""
    (base, salt, acid), moles, other = (draw.one(_PRODUCTS), draw.between(1, 9), draw.between(1, 9))
    question = f"Find the moles of {salt} formed on combining {moles} moles of {base} and {other} moles of {acid}"
    return question, min(moles, other)


def _oxide(draw: Draw) -> tuple[str, int]:
    """Two to one: a molecule of oxygen serves two of the other."""
    (oxide, element), moles = draw.one(_DOUBLED), draw.between(1, 9)
    if draw.chance(0.5):
        return f"How many moles of O2 are needed to burn {2 * moles} moles of {element} to {oxide}?", moles
    return f"How many moles of {oxide} form when {moles} moles of O2 react with enough {element}?", 2 * moles


_SHAPES = (_distance, _speed, _density, _ohm, _force, _kelvin, _salt, _oxide)


def example(draw: Draw) -> tuple[str, str]:
    """A question and its whole number, in decimal digits and without its unit."""
    question, answer = draw.one(_SHAPES)(draw)
    return f"Solve the following math problem.\nQuestion:\n{question}\nAnswer:", str(answer)
