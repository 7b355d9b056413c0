"""Message structs as Arrow tables: one column per field, types from the annotations."""

import types
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import pyarrow as pa

_SCALARS: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


def _arrow(annotation: Any) -> tuple[pa.DataType, bool]:
    """The column type and whether it may be null. Raises TypeError for a field Arrow has no plain column for."""
    origin = get_origin(annotation)
    if annotation in _SCALARS:
        return _SCALARS[annotation], False
    if origin is Literal:
        return pa.string(), False
    if origin is tuple:
        return pa.list_(_arrow(get_args(annotation)[0])[0]), False
    if origin in {Union, types.UnionType}:
        inner = [a for a in get_args(annotation) if a is not types.NoneType]
        if len(inner) == 1:
            return _arrow(inner[0])[0], True
    raise TypeError(f"no Arrow column for {annotation!r}")


@cache
def schema_of(struct: type[msgspec.Struct]) -> pa.Schema:
    """Columns of a struct, in field order."""
    columns = []
    for field in msgspec.structs.fields(struct):
        kind, nullable = _arrow(field.type)
        columns.append(pa.field(field.name, kind, nullable=nullable))
    return pa.schema(columns)


def to_table(struct: type[msgspec.Struct], rows: Sequence[msgspec.Struct]) -> pa.Table:
    schema = schema_of(struct)
    return pa.table(
        {
            name: pa.array([getattr(row, name) for row in rows], schema.field(name).type)
            for name in schema.names
        },
        schema=schema,
    )
