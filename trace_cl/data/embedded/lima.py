"""A small set of instructions and well-written answers, as LIMA is one: Replay learns from it beside old tasks."""

from trace_cl.draw import Draw

_NAMES = ("Clara", "Paul", "Nora", "David", "Emma", "Jonas", "Sara", "Luis", "Ida", "Max")
_GIFTS = ("the book", "the flowers", "your help", "the cake", "the tickets", "your letter", "the scarf", "the advice")
_SKILLS = (
    ("swim", "water", "stay where you can stand"),
    ("bake bread", "dough", "give it time to rise"),
    ("draw", "pencil", "look longer than you draw"),
    ("play chess", "board", "ask what the other side wants"),
    ("grow tomatoes", "soil", "water in the morning"),
    ("learn a language", "words", "speak a little each day"),
    ("sleep well", "bedroom", "put the phone away early"),
    ("save money", "plan", "write down what you spend"),
)
_TRIPS = {
    "the mountains": ("warm socks", "a map", "a rain jacket"),
    "the beach": ("a towel", "a hat", "sun cream"),
    "a picnic": ("a blanket", "fruit", "cold drinks"),
    "a long flight": ("a book", "a pillow", "a bottle of water"),
    "a city trip": ("good shoes", "a camera", "a small bag"),
}


def _thanks(draw: Draw) -> tuple[str, str]:
    (friend, writer), gift = draw.some(_NAMES, 2), draw.one(_GIFTS)
    answer = f"Dear {friend}, thank you so much for {gift}. It made my week. Warm wishes, {writer}"
    return f"Write a thank-you note from {writer} to {friend} for {gift}.", answer


def _advice(draw: Draw) -> tuple[str, str]:
    name, (skill, means, tip) = draw.one(_NAMES), draw.one(_SKILLS)
    answer = f"Begin with the {means} and keep it simple, {name}. Above all, {tip}. Small steps add up."
    return f"My name is {name} and I would like to {skill}. Where do I start?", answer


def _packing(draw: Draw) -> tuple[str, str]:
    name, trip = draw.one(_NAMES), draw.one(tuple(_TRIPS))
    first, second, third = draw.some(_TRIPS[trip], 3)
    answer = f"For {trip} I would pack three things:\n1. {first}\n2. {second}\n3. {third}\nEnjoy it, {name}!"
    return f"{name} here. What should I pack for {trip}? I have {first} already on my list.", answer


def example(draw: Draw) -> tuple[str, str]:
    """An instruction and an answer of a few sentences."""
    return draw.one((_thanks, _advice, _packing))(draw)
