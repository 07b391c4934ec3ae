"""MeetingBank in small: the minutes of a council item to one sentence of summary.

The summary names the item, its subject, who moved it and what became of it; the transcript also names a seconder, a
speaker, an agenda number and a count of votes, which do not belong there.
"""

from trace_cl.draw import Draw

_KINDS = ("Council Bill", "Resolution", "Ordinance")
_SUBJECTS = (
    "bicycle lanes", "library hours", "a noise limit", "food trucks", "street lights", "a dog park", "a water main",
    "bus shelters", "tree planting", "a youth center", "parking fees", "a public market", "school crossings",
)  # fmt: skip
_PLACES = ("Westwood", "Harbor Hill", "Oak Street", "Mill Creek", "Northgate", "Lake View", "Union Square", "Elm Park")
_NAMES = (
    "Ortiz", "Lambert", "Nguyen", "Brooks", "Sandoval", "Fischer", "Okafor", "Reyes", "Walsh", "Kim", "Dalton",
    "Moreno", "Pratt", "Singh",
)  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_OPENINGS = ("Thank you all.", "Good evening.", "Let us go on.", "We are back from recess.")
_REMARKS = ("I heard from many neighbors.", "This took two years.", "I have one question.", "The staff did good work.")


def example(draw: Draw) -> tuple[str, str]:
    """A prompt and a summary of one sentence."""
    item = f"{draw.one(_KINDS)} {draw.between(100, 999)}"
    subject = f"{draw.one(_SUBJECTS)} in {draw.one(_PLACES)}"
    mover, seconder, speaker = draw.some(_NAMES, 3)
    day, yes = draw.one(_DAYS), draw.between(5, 9)
    closing, outcome = draw.one(
        (
            (f"{yes} ayes. The motion carries.", "was passed"),
            (f"{yes} nays. The motion fails.", "was rejected"),
            (f"Without objection we hold it until {day}.", f"was postponed to {day}"),
        )
    )
    lines = [
        f"{draw.one(_OPENINGS)} Item {draw.between(1, 40)} is {item}, about {subject}.",
        draw.one((f"Moved by {mover}, second by {seconder}.", f"{mover} moves it and {seconder} seconds.")),
    ]
    if draw.chance(0.6):
        lines.append(f"Member {speaker}. {draw.one(_REMARKS)}")
    transcript = " ".join([*lines, closing])
    prompt = f"Write a summary of the following meeting transcripts.\nMeeting transcripts:\n{transcript}\nSummary:"
    return prompt, f"{item} on {subject}, moved by {mover}, {outcome}."
