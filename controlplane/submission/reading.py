"""Bytes that a stranger sent, read value by value: what is wrong is collected with its path, and nothing raises.

msgspec would stop at the first mistake; a person who corrects a request wants all of them at once.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final

from events.messages import Problem

BODY_BYTES_MAX: Final = 512 * 1024
"""As large as a request may be on its stream; the form that asks takes no more."""
PROBLEMS_MAX: Final = 50
WARNINGS_MAX: Final = 20
SHOWN_CHARACTERS_MAX: Final = 60
"""Of a stranger's text in an answer of ours."""
GUESS_CHARACTERS_MAX: Final = 60
"""Longer names are no slip of the pen, and comparing them is slow."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_KINDS: Final = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class Twice(dict[str, Any]):
    """An object in which some keys stood more than once: nobody can tell which one was meant."""

    keys_twice: tuple[str, ...] = ()


class Findings:
    """What was found wrong (problems) or odd (warnings), bounded in number."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self._more = 0

    def copy(self) -> Findings:
        """To go on with, more than once."""
        other = Findings()
        other._problems, other._warnings, other._more = [*self._problems], [*self._warnings], self._more
        return other

    def problem(self, path: str, message: str, hint: str = "") -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(Problem(path=path, message=message, hint=hint))
        else:
            self._more += 1

    def warn(self, path: str, message: str, hint: str = "") -> None:
        if len(self._warnings) < WARNINGS_MAX:
            self._warnings.append(Problem(path=path, message=message, hint=hint))

    @property
    def problems(self) -> tuple[Problem, ...]:
        rest = (Problem(path="$", message=f"and {self._more} problems more"),) if self._more else ()
        return (*self._problems, *rest)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(self._warnings)


def read_object(body: bytes, found: Findings) -> dict[str, Any]:
    """The JSON object in some bytes; empty, and with a problem told, if there is none."""
    if len(body) > BODY_BYTES_MAX:
        found.problem(
            "$", f"{len(body)} bytes; at most {BODY_BYTES_MAX} are possible", "large files belong in the source"
        )
        return {}
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as error:
        found.problem("$", f"not UTF-8: byte {error.start} cannot be read", "send JSON encoded as UTF-8")
        return {}
    except RecursionError:
        found.problem("$", "nested too deeply")
        return {}
    except ValueError as error:  # JSONDecodeError, and an integer of more digits than Python converts
        found.problem(
            "$",
            f"not JSON: {shown(str(error), 120)}",
            'send one JSON object, such as {"entrypoint": ["python", "train.py"]}',
        )
        return {}
    if not isinstance(value, dict):
        found.problem("$", f"must be an object, not {kind_of(value)}", 'such as {"entrypoint": ["python", "train.py"]}')
        return {}
    check_keys_once(value, "$", found)
    return value


def check_keys_once(value: dict[str, Any], path: str, found: Findings) -> None:
    if isinstance(value, Twice):
        for key in value.keys_twice[:PROBLEMS_MAX]:
            found.problem(join(path, key), "is given more than once", "keep one of them")


def warn_of_unknown(value: dict[str, Any], known: Collection[str], path: str, found: Findings) -> None:
    """Name the fields that nobody knows, with the one that may have been meant. They are otherwise ignored."""
    for key in value:
        if key not in known:
            found.warn(join(path, key), f"unknown field {quoted(key)}, ignored", did_you_mean(key, known))


def check_type(raw: dict[str, Any], possible: tuple[str, ...], found: Findings) -> str | None:
    """Which request this is. A submit need not say so: there is nothing else on its subject."""
    value = raw.get("type", possible[0] if len(possible) == 1 else None)
    if isinstance(value, str) and value in possible:
        return value
    if "type" not in raw:
        found.problem("$.type", "is missing", f"one of {', '.join(f'`{name}`' for name in possible)}")
    elif not isinstance(value, str):
        found.problem("$.type", f"must be text, not {kind_of(value)}")
    else:
        found.problem("$.type", f"no request {quoted(value)} here", choice(value, possible))
    return None


def text(
    value: object, path: str, found: Findings, *, characters_max: int, empty: bool = True, lines: bool = False
) -> str:
    """Some text of a bounded length, without control characters (`lines`: line breaks and tabs may be there)."""
    if not isinstance(value, str):
        found.problem(path, f"must be text, not {kind_of(value)}")
        return ""
    if len(value) > characters_max:
        found.problem(path, f"{len(value)} characters; at most {characters_max} are possible")
        return ""
    if not value and not empty:
        found.problem(path, "must not be empty")
    if _SURROGATE.search(value):
        found.problem(path, "holds half of a surrogate pair, which is no character")
        return ""
    if "\x00" in value if lines else _CONTROL.search(value):
        found.problem(path, "holds a NUL character" if lines else "holds a control character")
        return ""
    return value


def texts(
    value: object, path: str, found: Findings, *, items_max: int, characters_max: int, total_max: int
) -> tuple[str, ...]:
    """A list of texts, bounded in number, each, and all together. A text may hold line breaks."""
    if not isinstance(value, list):
        hint = "a list of words, not a shell line" if isinstance(value, str) else ""
        found.problem(path, f"must be a list of texts, not {kind_of(value)}", hint)
        return ()
    if len(value) > items_max:
        found.problem(path, f"{len(value)} items; at most {items_max} are possible")
        return ()
    items = tuple(
        text(item, f"{path}[{index}]", found, characters_max=characters_max, lines=True)
        for index, item in enumerate(value)
    )
    total = sum(map(len, items))
    if total > total_max:
        found.problem(path, f"{total} characters together; at most {total_max} are possible")
        return ()
    return items


def pairs(
    value: object, path: str, found: Findings, *, items_max: int, characters_max: int, total_max: int
) -> dict[str, str]:
    """An object from names to texts, bounded in every way. What a name may be is the caller's business."""
    if not isinstance(value, dict):
        found.problem(path, f"must be an object from names to texts, not {kind_of(value)}")
        return {}
    check_keys_once(value, path, found)
    if len(value) > items_max:
        found.problem(path, f"{len(value)} entries; at most {items_max} are possible")
        return {}
    result = {
        key: text(item, join(path, key), found, characters_max=characters_max, lines=True)
        for key, item in value.items()
    }
    total = sum(len(key) + len(item) for key, item in result.items())
    if total > total_max:
        found.problem(path, f"{total} characters together; at most {total_max} are possible")
        return {}
    return result


def number(value: object, path: str, found: Findings, *, low: float, high: float, unit: str = "") -> float | None:
    """A finite number in a range; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        found.problem(path, f"must be a number, not {kind_of(value)}")
        return None
    if not _within(value, low, high):
        found.problem(path, f"{shown(str(value))} is out of range", f"from {low:g} to {high:g}{unit}")
        return None
    return float(value)


def integer(value: object, path: str, found: Findings, *, low: int, high: int) -> int | None:
    """A whole number in a range; None if it is not one."""
    if isinstance(value, float) and value.is_integer() and _within(value, low, high):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        found.problem(path, f"must be a whole number, not {kind_of(value) if not isinstance(value, float) else value}")
        return None
    if not low <= value <= high:
        found.problem(path, f"{shown(str(value))} is out of range", f"from {low} to {high}")
        return None
    return value


def boolean(value: object, path: str, found: Findings) -> bool:
    if not isinstance(value, bool):
        found.problem(path, f"must be true or false, not {kind_of(value)}")
        return False
    return value


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A hint towards the known name that is nearest; empty if none is near."""
    if len(name) > GUESS_CHARACTERS_MAX:
        return ""
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    if not near:
        return ""
    ratios = {each: difflib.SequenceMatcher(None, each, name).ratio() for each in near}
    best = [each for each in near if ratios[each] == ratios[near[0]]]
    return f"did you mean `{min(best, key=lambda each: _distance(each, name))}`?"


def choice(name: str, known: Sequence[str]) -> str:
    """A hint for a name that must be one of some: the nearest, else all of them."""
    return did_you_mean(name, known) or f"there are {', '.join(f'`{item}`' for item in known[:20])}"


def join(path: str, key: str) -> str:
    """The path of a field of what is at `path`."""
    if len(key) <= SHOWN_CHARACTERS_MAX and _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}"
    return f"{path}[{json.dumps(shown(key), ensure_ascii=False)}]"


def shown(value: str, characters_max: int = SHOWN_CHARACTERS_MAX) -> str:
    """A stranger's text as it may stand in an answer: short, and without anything that is not a character."""
    short = value if len(value) <= characters_max else value[: characters_max - 1] + "…"
    return _CONTROL.sub("�", _SURROGATE.sub("�", short))


def quoted(value: str) -> str:
    return f"`{shown(value)}`"


def kind_of(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), "an object")


def _distance(one: str, other: str) -> int:
    """Among names that are equally near: `gpu3` is nearer to `gpu2` than to `gpu8`."""
    return sum(abs(ord(a) - ord(b)) for a, b in zip(one, other, strict=False))


def _within(value: float, low: float, high: float) -> bool:
    return (isinstance(value, int) or math.isfinite(value)) and low <= value <= high


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(items)
    if len(value) == len(items):
        return value
    twice = Twice(value)
    twice.keys_twice = tuple(key for key, times in Counter(key for key, _ in items).items() if times > 1)
    return twice


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")
