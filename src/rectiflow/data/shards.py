"""The files of an encoded store: Arrow IPC *file* format, one record batch per file.

Types of columns, and why:

- Arrays are flat `fixed_size_list`s; their shapes stand in the field's metadata (`shape`) and in
  the manifest. Arrow's tensor extension type would carry the shape itself, but it is no type that
  `datasets` or DuckDB know.
- Latents are `float32`, text states `float16` (Arrow `halffloat`), as the paper stores them
  (arXiv 2403.03206, E.1; Table 7 decodes to fp32 latents and fp16 states); log variances of latents
  `float16`, whose rounding changes a standard deviation by less than 1 %. pyarrow, `datasets` and
  Polars read all. DuckDB knows no half floats and refuses a table that has such a column, read or
  not: it reads a table after pyarrow has dropped or cast those columns.
- One record batch per file makes every column one contiguous buffer, so a memory-mapped column is a
  NumPy view and a batch of rows is one gather.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rectiflow.errors import DataError
from rectiflow.runs import replacing

Column = np.ndarray | Sequence[str]


def write_columns(file: Path, columns: Mapping[str, Column]) -> None:
    """Write an Arrow file so that a kill at any moment leaves it absent or whole.

    Arrays of two and more dimensions become fixed-size lists, of one dimension plain columns.
    """
    arrays = [_arrow_array(column) for column in columns.values()]
    schema = pa.schema(
        [
            pa.field(name, array.type, nullable=False, metadata=_shape_metadata(column))
            for (name, column), array in zip(columns.items(), arrays, strict=True)
        ]
    )
    with replacing(file) as temporary, temporary.open("wb") as sink:
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(arrays, schema=schema))
        sink.flush()


def map_columns(file: Path, num_rows: int) -> dict[str, np.ndarray | pa.Array]:
    """Memory-map an Arrow file: arrays come back as NumPy views in their shapes, text as Arrow.

    Raises:
        DataError: If the file is not a whole Arrow file of `num_rows` rows.
    """
    try:
        # The buffers keep the map alive; its file descriptor is closed here.
        with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all()
        table.validate(full=True)
        columns = {field.name: _view(table.column(field.name), field) for field in table.schema}
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing from the store") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}") from error
    if table.num_rows != num_rows:
        raise DataError(f"{file} is damaged: {num_rows} rows expected, {table.num_rows} found")
    return columns


def _arrow_array(column: Column) -> pa.Array:
    if not isinstance(column, np.ndarray):
        return pa.array(column, pa.string())
    if column.ndim == 1:
        return pa.array(column)
    values = pa.array(np.ascontiguousarray(column).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, int(np.prod(column.shape[1:])))


def _shape_metadata(column: Column) -> dict[str, str] | None:
    if not isinstance(column, np.ndarray) or column.ndim == 1:
        return None
    return {"shape": json.dumps(column.shape[1:])}


def _view(column: pa.ChunkedArray, field: pa.Field) -> np.ndarray | pa.Array:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_string(field.type):
        return array
    shape = json.loads((field.metadata or {}).get(b"shape", b"[]"))
    values = array.flatten() if shape else array
    return values.to_numpy(zero_copy_only=True).reshape(len(array), *shape)
