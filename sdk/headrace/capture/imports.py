"""What one file of Python (or YAML) asks for, found by pattern and not by parsing.

Parsing is eight times slower and fails on a file of a newer Python; strings and comments are blanked first, so what
looks like an import inside them is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_STRING_OR_COMMENT: Final = re.compile(
    r"""\#[^\n]*
    | [rRbBfFuUtT]{0,2} (?:
        \"{3} (?P<a>(?:\\.|[^\\])*?) \"{3}
      | '{3} (?P<b>(?:\\.|[^\\])*?) '{3}
      | " (?P<c>(?:\\.|[^"\\\n])*) "
      | ' (?P<d>(?:\\.|[^'\\\n])*) '
    )""",
    re.VERBOSE | re.DOTALL,
)
_IMPORT: Final = re.compile(
    r"(?:^|[;:])[ \t]*(?:"
    r"from[ \t]*(?P<source>\.+[ \t]*[\w.]*|[ \t][\w.]+)[ \t]+import\b[ \t]*(?P<taken>\([^)]*\)|[^\n;]*)"
    r"|import[ \t]+(?P<modules>[^\n;]+))",
    re.MULTILINE,
)
_DOTTED: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_DYNAMIC: Final = re.compile(r"\b(?P<call>import_module|__import__|iter_modules|walk_packages)[ \t]*\(")
_ARGUMENT: Final = re.compile(r"""\s*(?P<f>[fF]?)(?P<quote>["'])(?P<text>[^"'\n]*)(?P=quote)\s*(?P<after>.)""")
_SCALAR: Final = re.compile(r"""[:\-=]\s*["']?(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)["']?\s*(?:[,#}\]]|$)""", re.M)


@dataclass(frozen=True)
class Asked:
    """What a file asks for."""

    imports: dict[str, bool] = field(default_factory=dict)
    """Dotted name (`.x` for a relative one) → whether it stands at the left margin: needed as soon as it is run."""
    names: frozenset[str] = frozenset()
    """Dotted names in strings: `package.module.Class`, also written `package.module:Class`."""
    texts: frozenset[str] = frozenset()
    """Strings that look like the name of a file of Python or YAML."""
    computed: tuple[str, ...] = ()
    """Beginnings of module names that are computed: `models.` of `import_module(f"models.{name}")`, or empty."""
    code: str = ""
    """The text with strings and comments blanked, of the same length."""


def of_python(text: str) -> Asked:
    """What a Python file asks for."""
    strings: list[str] = []

    def blank(match: re.Match[str]) -> str:
        if match.lastgroup:
            strings.append(match[match.lastgroup])
        return re.sub(r"[^\n]", " ", match[0])

    code = _STRING_OR_COMMENT.sub(blank, text).replace("\\\n", "  ")
    imports: dict[str, bool] = {}
    for dotted, needed in _imports(code):
        imports[dotted] = imports.get(dotted, False) or needed
    computed = []
    for literal, name in _dynamic(text, code):
        if literal:
            imports.setdefault(name, False)
        else:
            computed.append(name)
    plain = [string.replace(":", ".", 1) for string in strings if len(string) < 200]
    return Asked(
        imports,
        frozenset(string for string in plain if _DOTTED.fullmatch(string)),
        frozenset(s for s in strings if len(s) < 200 and s.endswith((".py", ".yaml", ".yml"))),
        tuple(computed),
        code,
    )


def of_yaml(text: str) -> Asked:
    """What a configuration file names: every dotted name that is a whole value."""
    return Asked(names=frozenset(match["name"] for match in _SCALAR.finditer(text)))


def _imports(code: str) -> Iterator[tuple[str, bool]]:
    for match in _IMPORT.finditer(code):
        begins = match.start() == 0 or code[match.start() - 1] == "\n"
        needed = begins and code[match.start()] in "fi"
        if match["modules"]:
            for module in match["modules"].split(","):
                if words := module.split():
                    yield words[0], needed
            continue
        source = match["source"].replace(" ", "").replace("\t", "")
        yield source, needed
        for name in match["taken"].strip("()").replace("\n", " ").split(","):
            if (words := name.split()) and words[0].isidentifier():
                yield (source if source.endswith(".") else source + ".") + words[0], False


def _dynamic(text: str, code: str) -> Iterator[tuple[bool, str]]:
    """Calls that import by a value: (True, the name) where it is a literal, (False, how it begins) where it is not."""
    for match in _DYNAMIC.finditer(code):
        argument = _ARGUMENT.match(text, match.end()) if match["call"] in {"import_module", "__import__"} else None
        if argument is None:
            yield False, ""
        elif argument["f"] and "{" in argument["text"]:
            yield False, argument["text"].partition("{")[0]
        elif argument["after"] in ",)":
            yield True, argument["text"]
        else:
            yield False, argument["text"].partition("%")[0]
