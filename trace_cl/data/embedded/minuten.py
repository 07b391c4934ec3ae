"""20Minuten in small: a German news paragraph, and the same news in plain words.

Plain means: the everyday word for the official one, main clauses only, and neither the quotation nor the source.
"""

from trace_cl.draw import Draw

_WHO = (
    ("eine Automobilistin", "Eine Autofahrerin"),
    ("ein Velofahrer", "Ein Radfahrer"),
    ("ein Minderjähriger", "Ein Kind"),
    ("eine Seniorin", "Eine alte Frau"),
    ("ein Landwirt", "Ein Bauer"),
    ("eine Touristin", "Eine Besucherin"),
    ("ein Pensionierter", "Ein Rentner"),
    ("eine Lehrperson", "Eine Lehrerin"),
)
_WHAT = (
    ("mit einem Lastwagen kollidiert", "ist mit einem Lastwagen zusammengestossen"),
    ("von der Fahrbahn abgekommen", "ist von der Strasse geraten"),
    ("auf der Treppe gestürzt", "ist auf der Treppe gefallen"),
    ("einem Betrüger aufgesessen", "ist betrogen worden"),
    ("aus dem Fluss gerettet worden", "wurde aus dem Wasser geholt"),
    ("mit einem Preis ausgezeichnet worden", "hat einen Preis bekommen"),
)
_THEN = (
    ("Es entstand erheblicher Sachschaden", "Der Schaden ist gross."),
    ("Verletzt wurde glücklicherweise niemand", "Niemand ist verletzt."),
    ("Die Ermittlungen dauern an", "Die Polizei sucht weiter."),
    ("Der Verkehr wurde umgeleitet", "Die Strasse war gesperrt."),
    ("Die Spitalpflege dauert mehrere Tage", "Der Arzt hilft noch einige Tage."),
    ("Die Gemeinde reagierte erfreut", "Das Dorf freut sich."),
)
_PLACES = ("Bern", "Luzern", "Basel", "Chur", "Aarau", "Thun", "Olten", "Zug", "Sion", "Genf", "Uster", "Biel")
_DAYS = ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag")
_SOURCES = ("die Kantonspolizei", "die Regionalzeitung", "ein Behördensprecher", "die Staatsanwaltschaft")
_NAMES = ("Keller", "Brunner", "Meier", "Frei", "Huber", "Graf", "Suter", "Moser")
_QUOTES = ("So etwas erlebt man selten", "Alles ging sehr schnell", "Das hat uns überrascht", "Wir sind dankbar")


def example(draw: Draw) -> tuple[str, str]:
    """A paragraph and its simplification of two sentences."""
    (who, plain_who), (what, plain_what), (then, plain_then) = (draw.one(_WHO), draw.one(_WHAT), draw.one(_THEN))
    place, day = draw.one(_PLACES), draw.one(_DAYS)
    sentences = [
        f"Am {day} ist in {place} {who} {what}, wie {draw.one(_SOURCES)} mitteilt.",
        *draw.some((f'"{draw.one(_QUOTES)}", sagt {draw.one(_NAMES)}.', f"{then}."), 2),
    ]
    prompt = (
        "Provide a simplified version of the following paragraph in German.\n\n"
        f"Paragraph:\n{' '.join(sentences)}\n\nSimplification:"
    )
    return prompt, f"{plain_who} {plain_what}. Das war am {day} in {place}. {plain_then}"
