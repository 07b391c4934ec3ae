"""FOMC in small: is a sentence on the economy dovish (A), hawkish (B) or neutral (C)?

What moved and which way have to be taken together (rising unemployment is dovish, rising prices are hawkish), a
forecast that did not come true is to be overlooked, and an argument against a step counts for the opposite one.
"""

from trace_cl.draw import Draw

_HOT = ("consumer prices", "wages", "core inflation", "household spending", "job gains", "housing demand")
_COLD = ("unemployment", "layoffs", "idle capacity", "jobless claims", "loan defaults", "business closures")
_UP = ("rose", "increased", "moved higher", "picked up")
_DOWN = ("fell", "declined", "moved lower", "eased")
_FLAT = ("held steady", "changed little", "stayed near the usual level")
_STEP = {"A": "lower", "B": "raise"}
_WHEN = ("in recent months", "over the summer", "since the last meeting", "in most districts", "during the quarter")
_WHO = ("Participants noted that", "The staff reported that", "Contacts said that", "Members observed that")


def _movement(draw: Draw, stance: str) -> str:
    """A clause whose direction and subject together give the stance."""
    hot = draw.chance(0.5)
    rises = hot == (stance == "B")
    subject, verb = draw.one(_HOT if hot else _COLD), draw.one(_UP if rises else _DOWN)
    if draw.chance(0.3):
        expected = "decline" if rises else "increase"
        return f"{subject} {verb} despite forecasts of {'a' if rises else 'an'} {expected}"
    return f"{subject} {verb}"


def _argument(draw: Draw, stance: str) -> str:
    """A view on the policy rate: for a step, or against the opposite one."""
    if draw.chance(0.5):
        return f"there was a case to {_STEP[stance]} the policy rate"
    opposite = _STEP["B" if stance == "A" else "A"]
    return f"there was no case to {opposite} the policy rate"


def _text(draw: Draw, stance: str) -> str:
    if stance == "C":
        if draw.chance(0.3):
            pair = draw.some([_movement(draw, "A"), _movement(draw, "B")], 2)
            return f"{pair[0]} while {pair[1]}"
        return f"{draw.one(_HOT + _COLD)} {draw.one(_FLAT)}"
    return _argument(draw, stance) if draw.chance(0.25) else _movement(draw, stance)


def example(draw: Draw) -> tuple[str, str]:
    """A prompt and its stance, "A", "B" or "C", each as likely as the others."""
    stance = draw.one("ABC")
    text = f"{draw.one(_WHO)} {_text(draw, stance)} {draw.one(_WHEN)}."
    prompt = (
        "What is the monetary policy stance for the following text? A. dovish, B. hawkish, C. neutral. "
        f"Choose one from A, B and C.\nText:\n{text}\nStance:"
    )
    return prompt, stance
