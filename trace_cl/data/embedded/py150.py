"""Py150 in small: lines of tokenised Python, and the line that comes next.

Written as Py150 is in CodeXGLUE: tokens set apart by blanks, `<EOL>` for a line's end, literals hidden behind
`<STR_LIT>` and `<NUM_LIT>`, common ones kept as in `<NUM_LIT:0>`.
"""

from trace_cl.draw import Draw

_CLASSES = ("Order", "Player", "Account", "Sensor", "Ticket", "Folder", "Robot", "Invoice", "Garden", "Message")
_FIELDS = ("name", "price", "level", "owner", "color", "weight", "status", "city", "title", "speed", "amount", "email")
_LISTS = ("orders", "players", "rows", "files", "users", "lines", "points", "events", "pages", "nodes")
_VERBS = ("load", "parse", "check", "send", "build", "clean", "merge", "fetch", "count", "update")
_MODULES = ("os", "sys", "json", "time", "math", "logging", "random", "re")
_ERRORS = ("ValueError", "KeyError", "TypeError", "IOError")


def _assignment(draw: Draw) -> list[str]:
    fields = draw.some(_FIELDS, draw.between(2, 3))
    head = [f"class {draw.one(_CLASSES)} ( object ) :", f"def __init__ ( self , {' , '.join(fields)} ) :"]
    return head + [f"self . {field} = {field}" for field in fields]


def _getter(draw: Draw) -> list[str]:
    known, wanted = draw.some(_FIELDS, 2)
    first, second = draw.some((known, wanted), 2)
    return [
        f"class {draw.one(_CLASSES)} ( object ) :",
        f"def __init__ ( self , {first} , {second} ) :",
        f"self . {first} = {first}",
        f"self . {second} = {second}",
        f"def get_{wanted} ( self ) :",
        f"return self . {wanted}",
    ]


def _total(draw: Draw) -> list[str]:
    many, field = draw.one(_LISTS), draw.one(_FIELDS)
    one = many[:-1]
    lines = [f"def total_{field} ( {many} ) :", "total = <NUM_LIT:0>", f"for {one} in {many} :"]
    lines.append(f"total += {one} . {field}")
    return lines if draw.chance(0.5) else [*lines, "return total"]


def _filtered(draw: Draw) -> list[str]:
    many, field = draw.one(_LISTS), draw.one(_FIELDS)
    one = many[:-1]
    lines = [f"def find_{many} ( {many} , {field} ) :", "found = [ ]", f"for {one} in {many} :"]
    return [*lines, f"if {one} . {field} == {field} :", f"found . append ( {one} )"]


def _main(draw: Draw) -> list[str]:
    function, many = f"{draw.one(_VERBS)}_{draw.one(_LISTS)}", draw.one(_LISTS)
    lines = [f"def {function} ( {many} ) :", f"return len ( {many} )", "if __name__ == '<STR_LIT:__main__>' :"]
    return [*lines, f"print ( {function} ( sys . argv ) )"]


def _guarded(draw: Draw) -> list[str]:
    verb, many, error = draw.one(_VERBS), draw.one(_LISTS), draw.one(_ERRORS)
    lines = [f"def try_{verb} ( {many} ) :", "try :", f"return {verb} ( {many} )", f"except {error} as error :"]
    return [*lines, f'logging . error ( "<STR_LIT>" , {many} , error )']


def _tested(draw: Draw) -> list[str]:
    verb, field, value = draw.one(_VERBS), draw.one(_FIELDS), draw.between(0, 9)
    lines = [f"def test_{verb} ( self ) :", f"{field} = {verb} ( <NUM_LIT:{value}> )"]
    return [*lines, f"self . assertEqual ( {field} , <NUM_LIT:{value}> )"]


_SHAPES = (_assignment, _getter, _total, _filtered, _main, _guarded, _tested)


def example(draw: Draw) -> tuple[str, str]:
    """The beginning of a file, and its next line."""
    imports = [f"import {module}" for module in draw.some(_MODULES, draw.between(1, 2))]
    *before, after = imports + draw.one(_SHAPES)(draw)
    return "<s> " + " ".join(f"{line} <EOL>" for line in before), after
