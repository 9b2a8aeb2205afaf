"""The types of the tables can be read by every version of pyarrow that is allowed, null or not."""

import importlib
import pkgutil
from collections.abc import Iterator

import pyarrow as pa
import pytest

import schemas
from pipeline.label.formats.parquet import MASKS
from pipeline.store.parquet import from_parquet, to_parquet


def tables() -> Iterator[tuple[str, pa.Schema]]:
    yield "parquet.MASKS", MASKS
    for module in pkgutil.iter_modules(schemas.__path__):
        for name, value in vars(importlib.import_module(f"schemas.{module.name}")).items():
            if isinstance(value, pa.Schema):
                yield f"{module.name}.{name}", value


TABLES = dict(tables())


def nested(data_type: pa.DataType) -> Iterator[pa.DataType]:
    yield data_type
    for index in range(data_type.num_fields):
        yield from nested(data_type.field(index).type)


def test_all_tables_are_found() -> None:
    assert {"labels.LABELS", "samples.SAMPLES", "scores.LOCALIZATION", "audit_tables.IMAGES"} <= TABLES.keys()


@pytest.mark.parametrize("name", TABLES)
def test_no_column_is_a_list_of_fixed_size_which_pyarrow_before_26_cannot_read_if_one_is_null(name: str) -> None:
    """https://github.com/apache/arrow/issues/35692"""
    types = [each for field in TABLES[name] for each in nested(field.type)]
    assert not [str(each) for each in types if pa.types.is_fixed_size_list(each)]


@pytest.mark.parametrize("name", TABLES)
def test_a_row_of_nulls_comes_back(name: str) -> None:
    optional = pa.schema([field for field in TABLES[name] if field.nullable])
    table = pa.Table.from_pylist([dict.fromkeys(optional.names)] * 3, optional)
    assert from_parquet(to_parquet(table)).to_pylist() == table.to_pylist()
