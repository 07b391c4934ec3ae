"""What the tiny model is pretrained on: generated documents of small skills, none of them one of the eight tasks'.

A document shows one skill a few times over, in one of many layouts: copying, picking, counting, arithmetic, looking
something up in a sentence, kinds of things, likes and dislikes, ups and downs, coded labels, words for words, code, and
plain stories, in English, German and Chinese. No instruction line and no template of the embedded benchmark occurs.
"""

from collections.abc import Callable, Iterator

from trace_cl.draw import Draw
from trace_cl.tiny import words

Pair = tuple[str, str]  # what is asked, and the reply
Piece = tuple[str, bool]  # a stretch of text, and whether the model learns to write it

_LAYOUTS = (
    "Q: {ask}\nA: {reply}\n",
    "{ask} -> {reply}\n",
    "{ask}\n{reply}\n\n",
    "in: {ask}\nout: {reply}\n\n",
    "Pupil: {ask}\nTeacher: {reply}\n",
    "# {ask}\n## {reply}\n",
    "* {ask} :: {reply}\n",
    "Aufgabe\n{ask}\nLösung\n{reply}\n",
    "Frage: {ask} Antwort: {reply}\n",
    "问：{ask}\n答：{reply}\n",
    "题目：{ask} 结果：{reply}\n",
    "task | {ask} | {reply} |\n",
)
_SYLLABLES = tuple(c + v for c in ("b", "d", "f", "gr", "k", "l", "m", "n", "p", "st", "t", "z") for v in "aeiou")


def _invented(draw: Draw) -> str:
    """A word nobody has seen, so that it can only be copied."""
    word = "".join(draw.one(_SYLLABLES) for _ in range(draw.between(2, 3)))
    return word.capitalize() if draw.chance(0.5) else word


def _any_words(draw: Draw, count: int) -> list[str]:
    """`count` words of one sort: known ones of a language, invented ones, or numbers."""
    sort = draw.between(0, 7)
    if sort == 0:
        return [_invented(draw) for _ in range(count)]
    if sort == 1:
        return [str(draw.between(0, 999)) for _ in range(count)]
    pools = (words.ENGLISH, words.GERMAN, words.CHINESE, words.THINGS, words.CODE, words.NAMES + words.TOWNS)
    return draw.some(pools[sort - 2], count)


def _person(draw: Draw) -> str:
    return draw.one((draw.one(words.NAMES), draw.one(words.SURNAMES), _invented(draw).capitalize()))


# Lists ---------------------------------------------------------------------------------------------------------------


def _lists(draw: Draw) -> Callable[[], Pair]:
    """One operation on lists of words, the same throughout the document."""
    operations: tuple[tuple[str, Callable[[list[str]], list[str]]], ...] = (
        ("repeat", lambda row: row),
        ("again", lambda row: row),
        ("backwards", lambda row: row[::-1]),
        ("first", lambda row: row[:1]),
        ("last", lambda row: row[-1:]),
        ("second", lambda row: row[1:2]),
        ("without the first", lambda row: row[1:]),
        ("ends", lambda row: [row[0], row[-1]]),
        ("how long", lambda row: [str(len(row))]),
    )
    name, act = draw.one(operations)
    gap = draw.one((" ", ", ", " / ", "、", " . "))

    def pair() -> Pair:
        row = _any_words(draw, draw.between(2, 7))
        return f"{name}: {gap.join(row)}", gap.join(act(row))

    return pair


def _following(draw: Draw) -> Callable[[], Pair]:
    """What comes after a given word in a row."""

    def pair() -> Pair:
        row = _any_words(draw, draw.between(3, 8))
        place = draw.between(0, len(row) - 2)
        return f"{' '.join(row)} | after {row[place]}", row[place + 1]

    return pair


# Numbers -------------------------------------------------------------------------------------------------------------


def _arithmetic(draw: Draw) -> Callable[[], Pair]:
    """Sums, differences, products, quotients, the larger and the smaller, in figures or in words."""
    plus, minus, times, by = draw.one(
        (
            ("{a}+{b}", "{a}-{b}", "{a}*{b}", "{a}/{b}"),
            ("{a} + {b} =", "{a} - {b} =", "{a} x {b} =", "{a} : {b} ="),
            ("{a} plus {b}", "{a} minus {b}", "{a} times {b}", "{a} divided by {b}"),
            ("{a} und {b} macht", "{a} weniger {b} macht", "{a} mal {b} macht", "{a} durch {b} macht"),
            ("{a}加{b}等于", "{a}减{b}等于", "{a}乘{b}等于", "{a}除以{b}等于"),
        )
    )
    kind = draw.between(0, 7)

    def pair() -> Pair:
        a, b = draw.between(2, 12), draw.between(2, 9)
        if kind <= 2:
            tens = 10 if draw.chance(0.2) else 1
            return times.format(a=a * tens, b=b), str(a * tens * b)
        if kind <= 4:
            return by.format(a=a * b, b=b), str(a)
        a, b = draw.between(0, 300 if draw.chance(0.4) else 20), draw.between(0, 99 if draw.chance(0.4) else 20)
        if kind <= 6:
            return plus.format(a=a, b=b), str(a + b)
        return minus.format(a=a + b, b=b), str(a)

    return pair


def _comparison(draw: Draw) -> Callable[[], Pair]:
    """The largest or the smallest of a few numbers, or whoever has it."""
    word, pick = draw.one((("largest", max), ("smallest", min), ("most", max), ("least", min)))
    named = draw.chance(0.6)

    def pair() -> Pair:
        numbers = draw.some(range(1, 100), draw.between(2, 4))
        best = pick(numbers)
        if not named:
            return f"{word} of {', '.join(map(str, numbers))}", str(best)
        owners = draw.some(words.NAMES, len(numbers))
        listed = "; ".join(f"{owner} holds {number}" for owner, number in zip(owners, numbers, strict=True))
        return f"{listed}; {word}?", owners[numbers.index(best)]

    return pair


def _parts(draw: Draw) -> Callable[[], Pair]:
    """How many parts a thing has, and how many several of them have."""

    def pair() -> Pair:
        whole, part, size = draw.one(words.PARTS)
        count = draw.between(1, 9) if size <= 12 else 1
        if count == 1:
            return f"one {whole}, {part}s", str(size)
        return f"{count} {whole}s with {size} {part}s each", str(count * size)

    return pair


# Looking up ----------------------------------------------------------------------------------------------------------


def _facts(draw: Draw) -> Callable[[], Pair]:
    """Several sentences of one form, then a question that one of them settles."""
    form, ask_who, ask_what, pool = draw.one(
        (
            ("{who} has the {what}.", "Who has the {what}?", "What does {who} have?", words.THINGS),
            ("{who} lives in {what}.", "Who lives in {what}?", "Where does {who} live?", words.TOWNS),
            ("{who} comes on {what}.", "Who comes on {what}?", "When does {who} come?", words.DAYS),
            ("{who} likes {what}.", "Who likes {what}?", "What does {who} like?", words.COLORS),
            ("{who} sucht: {what}.", "Wer sucht {what}?", "Was sucht {who}?", words.GERMAN),
            ("{who} wohnt in {what}.", "Wer wohnt in {what}?", "Wo wohnt {who}?", words.TOWNS),
            ("{who} kommt am {what}.", "Wer kommt am {what}?", "Wann kommt {who}?", words.TAGE),
            ("{who}有{what}。", "谁有{what}？", "{who}有什么？", words.CHINESE),
            ("{who}去看{what}。", "谁去看{what}？", "{who}去看什么？", words.CHINESE),
            ("{who} paid {what}.", "Who paid {what}?", "How much did {who} pay?", tuple(map(str, range(10, 999)))),
        )
    )

    def pair() -> Pair:
        count = draw.between(1, 4)
        owners, owned = [_person(draw) for _ in range(count)], draw.some(pool, count)
        text = " ".join(form.format(who=who, what=what) for who, what in zip(owners, owned, strict=True))
        place = draw.between(0, count - 1)
        who, what = owners[place], owned[place]
        if draw.chance(0.5):
            return f"{text} {ask_who.format(what=what)}", who
        return f"{text} {ask_what.format(who=who)}", what

    return pair


def _records(draw: Draw) -> Callable[[], Pair]:
    """A sentence with several details, told again in another order or boiled down to some of them."""
    source, target = draw.one(
        (
            ("On {day} {who} {did} a {color} {thing} in {town}.", "{thing}: {color}, {town}, {day}, {who}"),
            ("In {town}, {who} {did} the {color} {thing} for {n} coins. It was {day}.", "{who}: {n} for a {thing}."),
            (
                "{who} ({town}) {did} {n} {color} {thing}s; {other} watched.",
                "{n} {thing}s, {did} by {who} from {town}.",
            ),
            ("{other} met {who}, and {who} {did} {thing} no. {n}.", "No. {n}, a {thing}, was with {who}."),
            (
                "Am {tag} sah {who} in {town} ein {wort}, sagt {other}.",
                "{who} sah am {tag} ein {wort}. Das war in {town}.",
            ),
            ("Laut {other} kam {who} am {tag} nach {town}.", "{who} ist da. Es ist {tag}, in {town}."),
            ("{who}在{town}看见{zi}，{other}没看见。", "{zi}在{town}，{who}看见了。"),
            ("{who}和{other}谈{zi}，谈了{n}次。", "{zi}：{n}次。"),
        )
    )

    def pair() -> Pair:
        details = {
            "who": _person(draw),
            "other": _person(draw),
            "did": draw.one(words.VERBS),
            "color": draw.one(words.COLORS),
            "thing": draw.one(words.THINGS),
            "town": draw.one(words.TOWNS),
            "day": draw.one(words.DAYS),
            "tag": draw.one(words.TAGE),
            "wort": draw.one(words.GERMAN),
            "zi": draw.one(words.CHINESE),
            "n": str(draw.between(2, 999)),
        }
        return source.format(**details), target.format(**details)

    return pair


def _forms(draw: Draw) -> Callable[[], Pair]:
    """A form of a few fields in words made up for the document, and some of the fields copied out, always the same."""
    size = draw.between(2, 5)
    labels = _any_words(draw, size)
    pools = [
        draw.one((words.NAMES, words.ENGLISH, words.GERMAN, words.CHINESE, words.DAYS, words.CODE)) for _ in labels
    ]
    numeric = draw.between(0, size)  # one field may hold numbers instead
    wanted = draw.some(range(size), draw.between(1, size))
    inner, outer, opening, joint = draw.one((" ", ": ", " = ")), draw.one((", ", "; ", ". ")), *_any_words(draw, 2)

    def pair() -> Pair:
        values = [
            str(draw.between(0, 999)) if place == numeric else " ".join(draw.some(pool, draw.between(1, 2)))
            for place, pool in enumerate(pools)
        ]
        form = outer.join(f"{label}{inner}{value}" for label, value in zip(labels, values, strict=True))
        return form, f"{opening} " + f" {joint} ".join(values[place] for place in wanted)

    return pair


# Meaning -------------------------------------------------------------------------------------------------------------


def _choices(draw: Draw) -> Callable[[], Pair]:
    """Which of several listed things is of a kind, or is the largest or smallest: by its mark, its name, or both."""
    marks, list_form = draw.one(
        (("123", "({mark}) {name}"), ("abc", "{mark}) {name}"), ("xyz", "{mark}: {name}"), ("ABC", "[{mark}] {name}"))
    )
    gap, reply = (
        draw.one((", ", "; ", "\n", "  ")),
        draw.one(("{mark}", "{name}", "{mark} {name}", "{mark}, {name} - {kind}")),
    )
    kinds = tuple(words.KINDS)
    sized, unit = draw.chance(0.4), draw.one(("", " m", " coins", " miles", " pages"))

    def pair() -> Pair:
        place = draw.between(0, 2)
        if sized:
            numbers, (word, pick) = draw.some(range(1, 100), 3), draw.one((("largest", max), ("smallest", min)))
            place, chosen = numbers.index(pick(numbers)), [word] * 3
            names = [f"{number}{unit}" for number in numbers]
        else:
            chosen = draw.some(kinds, 3)
            names = [draw.one(words.KINDS[kind]) for kind in chosen]
        listed = gap.join(list_form.format(mark=mark, name=name) for mark, name in zip(marks, names, strict=True))
        return f"{chosen[place]}? {listed}", reply.format(mark=marks[place], name=names[place], kind=chosen[place])

    return pair


def _kinds(draw: Draw) -> Callable[[], Pair]:
    """What kind of thing something is."""

    def pair() -> Pair:
        kind, other = draw.some(tuple(words.KINDS), 2)
        name = draw.one(words.KINDS[kind])
        return draw.one(
            (
                (f"what is {name}", f"a {kind}"),
                (f"is {name} a {kind}", "yes"),
                (f"is {name} a {other}", "no"),
                (f"name a {kind}", name),
            )
        )

    return pair


def _opinions(draw: Draw) -> Callable[[], Pair]:
    """Who likes what, where "not" turns a word round, and some only mention a thing."""
    language = draw.between(0, 2)
    good, bad, pool = (
        (words.LIKES, words.DISLIKES, words.THINGS),
        (words.MÖGEN, words.ABLEHNEN, words.GERMAN),
        (words.喜欢, words.讨厌, words.CHINESE),
    )[language]
    says = (
        ("{who} calls the {what} {word}", "{who} finds the {what} not {word} at all", "{who} walks by the {what}"),
        ("{who} nennt {what} {word}", "{who} findet {what} gar nicht {word}", "{who} liest über {what}"),
        ("{who}说{what}{word}", "{who}说{what}并不{word}", "{who}听说过{what}"),
    )[language]
    ask = draw.one((("{who} and {what}?", "{who} und {what}?", "{who}对{what}？")[language], "{what}"))
    replies = draw.one(
        (
            (("likes", "dislikes", "unclear"), ("mag es", "mag es nicht", "unklar"), ("喜欢", "不喜欢", "没说"))[
                language
            ],
            ("+", "-", "0"),
            ("yes", "no", "unknown"),
        )
    )

    def statement(who: str, what: str, feeling: int) -> str:
        if feeling == 2:
            return says[2].format(who=who, what=what)
        turned = draw.chance(0.4)
        word = draw.one(good if (feeling == 0) != turned else bad)
        return says[1 if turned else 0].format(who=who, what=what, word=word)

    def pair() -> Pair:
        count = draw.between(1, 3)
        people, things = draw.some(words.NAMES, count), draw.some(pool, count)
        feelings = [draw.between(0, 2) for _ in range(count)]
        text = ". ".join(statement(*row) for row in zip(people, things, feelings, strict=True))
        place = draw.between(0, count - 1)
        return f"{text}. {ask.format(who=people[place], what=things[place])}", replies[feelings[place]]

    return pair


def _movements(draw: Draw) -> Callable[[], Pair]:
    """Whether something went up, down or neither, and what that means when more of it is welcome or not."""
    up = ("rose", "went up", "grew", "climbed", "increased", "was higher", "moved higher", "picked up")
    down = ("fell", "went down", "shrank", "sank", "declined", "was lower", "moved lower", "eased")
    flat = ("stayed the same", "did not move", "was steady", "held steady", "changed little")
    welcome = ("the harvest", "the reward", "the score", "health", "the crowd", "trust", "trade", "the team's luck")
    feared = ("the flood", "the fever", "the debt", "hunger", "the noise", "crime", "the fire", "unemployment")
    judged = draw.chance(0.6)
    replies = draw.one((("up", "down", "same"), ("+", "-", "="), ("H", "L", "N"), ("more", "less", "even")))
    verdicts = draw.one((("good news", "bad news", "no news"), ("smile", "frown", "shrug"), ("Y", "X", "O")))

    def pair() -> Pair:
        way = draw.between(0, 2)
        verb = draw.one((up, down, flat)[way])
        dread = draw.chance(0.5)
        subject = draw.one(feared if dread else welcome)
        place = f" in {draw.one(words.TOWNS)}" if draw.chance(0.5) else f" on {draw.one(words.DAYS)}"
        if not judged:
            return f"{subject} {verb}{place}", replies[way]
        good = 2 if way == 2 else int((way == 0) == dread)
        return f"{subject} {verb}{place}", verdicts[good]

    return pair


def _translations(draw: Draw) -> Callable[[], Pair]:
    """A German word for a German word, alone or inside a phrase."""
    alone = draw.chance(0.5)

    def pair() -> Pair:
        stiff, plain = draw.one(words.GERMAN_PAIRS)
        if alone:
            return stiff, plain
        town = draw.one(words.TOWNS)
        return f"{stiff}, {town}, {draw.one(words.TAGE)}", f"{plain} in {town}"

    return pair


# Plain text ----------------------------------------------------------------------------------------------------------


def _story(draw: Draw) -> str:
    """A little story in which names and things come back."""
    who, other = _person(draw), _person(draw)
    thing, color, town, word, zi = (
        draw.one(pool) for pool in (words.THINGS, words.COLORS, words.TOWNS, words.GERMAN, words.CHINESE)
    )
    english = (
        f"{who} {draw.one(words.VERBS)} a {color} {thing}.",
        f"Then {other} asked {who} about the {thing}.",
        f"It was {draw.one(words.DAYS)}, and {town} was {draw.one(words.ENGLISH)}.",
        f"The {thing} was {color}, said {who}.",
        f"{other} and {who} went home with the {thing}.",
        f"In {draw.one(words.MONTHS)} they thought of {draw.one(words.ENGLISH)} and {draw.one(words.ENGLISH)}.",
    )
    german = (
        f"{who} geht durch {town} und sieht {word}.",
        f"Am {draw.one(words.TAGE)} kommt {other} dazu.",
        f"{other} fragt {who}, was {word} ist.",
        f"Das ist {word}, sagt {who}, und das ist {draw.one(words.GERMAN)}.",
        f"{who} ist {draw.one(words.MÖGEN)}, {other} ist {draw.one(words.ABLEHNEN)}.",
        f"In {town} spricht man von {draw.one(words.GERMAN)} und {word}.",
    )
    chinese = (
        f"{who}在{town}看见了{zi}。",
        f"{other}问{who}，{zi}是什么。",
        f"今天的{zi}很{draw.one(words.喜欢)}。",
        f"{who}想到{draw.one(words.CHINESE)}，也想到{zi}。",
        f"昨天{other}和{who}一起去{town}。",
        f"大家都在谈{zi}和{draw.one(words.CHINESE)}。",
    )
    sentences = draw.one((english, german, chinese))
    gap = "" if sentences is chinese else " "
    return gap.join(draw.some(sentences, draw.between(3, 6)))


def _code(draw: Draw) -> str:
    """A short piece of Python, set normally or with its tokens apart."""
    a, b, c = draw.some(words.CODE, 3)
    call, other = draw.some(words.CALLS, 2)
    number = draw.between(0, 9)
    source = draw.one(
        (
            f"def {call}({a}, {b}):\n    {c} = {a} + {b}\n    return {c}\n\n{c} = {call}({number}, {b})\nprint({c})\n",
            f"class {a.capitalize()}:\n    {b} = {number}\n\n    def {call}(self, {c}):\n        self.{b} = {c}\n",
            f"{a} = []\nfor {b} in {c}:\n    if {b} > {number}:\n        {a}.append({b})\nprint(len({a}))\n",
            f"import {a}\nfrom {b} import {call}\n\nwith {a}.{other}() as {b}:\n    {call}({b})\n    {b}.{other}()\n",
            f'try:\n    {call}({a})\nexcept OSError:\n    print("{b}", {number})\nelse:\n    {other}({a})\n',
            f"while {a} < {number}:\n    {a} += 1\n    {b}[{a}] = {call}({c})\nassert {b}[{a}] == {number}\n",
            f"{a}, {b} = {b}, {a}\n{c} = {{'{a}': {a}, '{b}': {b}}}\nreturn {call}({c}['{a}'])\n",
        )
    )
    if draw.chance(0.4):
        for mark in "()[]{}:.,='+":
            source = source.replace(mark, f" {mark} ")
        source = " $ ".join(" ".join(line.split()) for line in source.splitlines())
    return source


_SKILLS: tuple[Callable[[Draw], Callable[[], Pair]], ...] = (
    _lists, _lists, _following, _arithmetic, _arithmetic, _arithmetic, _arithmetic, _comparison, _comparison, _parts,
    _parts, _facts, _facts, _records, _forms, _forms, _choices, _choices, _choices, _choices, _kinds, _kinds,
    _opinions, _opinions, _opinions, _movements, _movements, _movements, _translations,
)  # fmt: skip


SKILLS: dict[str, tuple[Callable[[Draw], Callable[[], Pair]], ...]] = {
    "lists": (_lists, _following),
    "arithmetic": (_arithmetic,),
    "comparison": (_comparison,),
    "parts": (_parts,),
    "facts": (_facts,),
    "records": (_records, _forms),
    "kinds": (_choices, _kinds),
    "judgements": (_opinions, _movements),
    "translation": (_translations,),
}
"""The skills in nine groups, by what they ask for."""


def _echo(draw: Draw) -> list[Piece]:
    """A row of words, twice; the second time is to be learned."""
    row = " ".join(_any_words(draw, draw.between(2, 12)))
    return [(f"{row}\n", False), (row, True)]


def lexicon(draw: Draw) -> str:
    """Every word once, in random order: for the tokenizer, so that rare words do not fall to pieces."""
    plain = words.ENGLISH + words.GERMAN + words.THINGS + words.COLORS + words.DAYS + words.TAGE
    plain += tuple(name for names in words.KINDS.values() for name in names)
    spoken = plain + words.NAMES + words.TOWNS + words.CODE
    titles = tuple(word.capitalize() for word in words.ENGLISH + words.GERMAN)
    lines = "\n".join(draw.some(titles + words.CODE + words.NAMES, len(titles + words.CODE + words.NAMES)))
    return " ".join(draw.some(spoken, len(spoken))) + lines + "，".join(draw.some(words.CHINESE, len(words.CHINESE)))


def document(draw: Draw) -> list[Piece]:
    """One document of about 30 to 200 tokens.

    Most lists of tasks are learned for their replies alone: what is asked is drawn at random and cannot be foreseen.
    """
    if draw.chance(0.12):
        return _echo(draw)
    if draw.chance(0.08):
        return [(_story(draw), True)]
    if draw.chance(0.08):
        return [("\n".join(_code(draw) for _ in range(draw.between(1, 2))), True)]
    layout, pair, throughout = draw.one(_LAYOUTS), draw.one(_SKILLS)(draw), draw.chance(0.25)
    before, after = layout.split("{reply}")
    pieces = []
    for ask, reply in (pair() for _ in range(draw.between(2, 6))):
        pieces += [(before.format(ask=ask), throughout), (reply + after, True)]
    return pieces


def exercise(draw: Draw, skill: Callable[[Draw], Callable[[], Pair]], shown: int) -> Pair:
    """A document of one skill, parted before its last reply, which `shown` others of its kind stand before."""
    before, after = draw.one(_LAYOUTS).split("{reply}")
    pair = skill(draw)
    *examples, (ask, reply) = [pair() for _ in range(shown + 1)]
    text = "".join(before.format(ask=asked) + replied + after for asked, replied in examples)
    return text + before.format(ask=ask), reply + after


def documents(seed: int, echoes: int = 0) -> Iterator[list[Piece]]:
    """Documents without end, the same ones for the same seed; the first `echoes` of them are plain repetitions.

    To look back at what stood there before is what most skills rest on. Alone it is learned within a thousand steps,
    among the others hardly at all.
    """
    draw = Draw(seed)
    for _ in range(echoes):
        yield _echo(draw)
    while True:
        yield document(draw)


def text(pieces: list[Piece]) -> str:
    """A document as it reads."""
    return "".join(written for written, _ in pieces)
