"""Hypothesis strategies for whatever msgspec can decode: right values of a type, and JSON that is nearly right."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

_INT: Final = 2**53
_SIZE: Final = 3
_JUNK: Final[list[Any]] = [
    None,
    True,
    "",
    "x" * 300,
    "\x00",
    [],
    {},
    [[]],
    -1,
    0,
    2**63,
    2**70,
    1e308,
    {"type": "submit"},
]


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type: what `msgspec.json.decode(…, type=kind)` may give."""
    return _of(inspect.type_info(kind))


def nearly(kind: Any) -> st.SearchStrategy[bytes]:
    """JSON of a value in which one thing is wrong, or may be: another kind of value, a field too few or many, bytes."""
    plain = values(kind).map(msgspec.json.encode).map(msgspec.json.decode)
    spoiled = st.tuples(plain, st.randoms(use_true_random=False)).map(lambda both: _spoil(*both))
    return spoiled | st.tuples(plain.map(msgspec.json.encode), st.integers(0, 200), st.binary(max_size=3)).map(_cut)


def _cut(given: tuple[bytes, int, bytes]) -> bytes:
    content, place, new = given
    return content[: place % (len(content) + 1)] + new + content[place % (len(content) + 1) + len(new) :]


def _spoil(value: Any, chance: Any) -> bytes:
    """One place of it, chosen at random, holds something else."""
    holder: list[Any] = [value]
    inside, key = holder, 0
    while isinstance(inside[key], dict | list) and inside[key] and chance.random() < 0.7:
        inside = inside[key]
        key = chance.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
    if isinstance(inside, dict) and chance.random() < 0.2:
        del inside[key]
    elif isinstance(inside, dict) and chance.random() < 0.2:
        inside["no_such_field"] = chance.choice(_JUNK)
    else:
        inside[key] = chance.choice(_JUNK)
    return msgspec.json.encode(holder[0])


def _of(kind: inspect.Type) -> st.SearchStrategy[Any]:
    return _STRATEGIES[type(kind)](kind)


def _int(kind: Any) -> st.SearchStrategy[int]:
    return st.integers(-_INT if kind.ge is None else kind.ge, _INT if kind.le is None else kind.le)


def _float(kind: Any) -> st.SearchStrategy[float]:
    return st.floats(kind.ge, kind.le, allow_nan=False, allow_infinity=False)


def _text(kind: Any) -> st.SearchStrategy[str]:
    return st.text(min_size=kind.min_length or 0, max_size=kind.max_length or 8)


def _list(kind: Any) -> st.SearchStrategy[Any]:
    return st.lists(_of(kind.item_type), max_size=_SIZE).map(tuple if isinstance(kind, inspect.VarTupleType) else list)


def _dict(kind: Any) -> st.SearchStrategy[Any]:
    return st.dictionaries(_of(kind.key_type), _of(kind.value_type), max_size=_SIZE)


def _struct(kind: Any) -> st.SearchStrategy[Any]:
    required = {field.name: _of(field.type) for field in kind.fields if field.required}
    optional = {field.name: _of(field.type) for field in kind.fields if not field.required}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: kind.cls(**fields))


_STRATEGIES: Final[dict[type[inspect.Type], Callable[[Any], st.SearchStrategy[Any]]]] = {
    inspect.AnyType: lambda _: st.none() | st.booleans() | st.integers(-_INT, _INT) | st.text(max_size=8),
    inspect.NoneType: lambda _: st.none(),
    inspect.BoolType: lambda _: st.booleans(),
    inspect.IntType: _int,
    inspect.FloatType: _float,
    inspect.StrType: _text,
    inspect.BytesType: lambda _: st.binary(max_size=8),
    inspect.RawType: lambda _: st.just(msgspec.Raw(b'{"type":"released"}')),
    inspect.LiteralType: lambda kind: st.sampled_from(kind.values),
    inspect.EnumType: lambda kind: st.sampled_from(list(kind.cls)),
    inspect.UnionType: lambda kind: st.one_of(*map(_of, kind.types)),
    inspect.ListType: _list,
    inspect.VarTupleType: _list,
    inspect.TupleType: lambda kind: st.tuples(*map(_of, kind.item_types)),
    inspect.DictType: _dict,
    inspect.StructType: _struct,
}
