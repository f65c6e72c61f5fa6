"""A corpus in Parquet: texts in one column, translations in a new one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from server.bulk.formats import Fields, Part, Rows
from server.errors import CorpusFault


class Parquet:
    """Row groups are the parts; other columns are kept as they are."""

    def __init__(self, fields: Fields) -> None:
        """Set the names of the columns."""
        self._fields = fields

    def parts(self, path: Path, part_bytes: int) -> list[Part]:
        """As the protocol says; a row group is not cut, whatever its size."""
        try:
            metadata = pq.ParquetFile(path).metadata
        except (OSError, pa.ArrowInvalid) as error:
            msg = f"{path}: not a Parquet file ({str(error).splitlines()[0]})"
            raise CorpusFault(msg) from error
        if self._fields.source not in metadata.schema.names:
            msg = f"{path}: no column '{self._fields.source}'"
            raise CorpusFault(msg)
        parts: list[Part] = []
        start = size = 0
        for group in range(metadata.num_row_groups):
            size += metadata.row_group(group).total_byte_size
            if size >= part_bytes or group == metadata.num_row_groups - 1:
                parts.append(Part(len(parts), start, group + 1))
                start, size = group + 1, 0
        return parts

    def read(self, path: Path, part: Part) -> Rows:
        """As the protocol says; a null is translated as the empty text."""
        table = pq.ParquetFile(path).read_row_groups(list(range(part.start, part.end)))
        column = table.column(self._fields.source)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            msg = f"{path}: column '{self._fields.source}' is {column.type}, not text"
            raise CorpusFault(msg)
        return _Table(table, self._fields, [text or "" for text in column.to_pylist()])

    def join(self, paths: Iterator[Path], output: Path) -> None:
        """As the protocol says."""
        writer: pq.ParquetWriter | None = None
        for path in paths:
            table = pq.read_table(path)
            writer = writer or pq.ParquetWriter(output, table.schema)
            writer.write_table(table)
        if writer is None:  # no rows at all
            pq.write_table(pa.table({self._fields.target: pa.array([], pa.string())}), output)
        else:
            writer.close()


@dataclass(frozen=True, slots=True)
class _Table:
    table: pa.Table
    fields: Fields
    texts: list[str]

    def write(self, path: Path, translations: list[str]) -> None:
        column = pa.array(translations, pa.string())
        name = self.fields.target
        names = self.table.column_names
        if name in names:
            table = self.table.set_column(names.index(name), name, column)
        else:
            table = self.table.append_column(name, column)
        pq.write_table(table, path)
