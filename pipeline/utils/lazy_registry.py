"""A registry whose entries are imported when they are used, so that their names can be listed without delay."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TypeVar

T = TypeVar("T", covariant=True)


class LazyRegistry(Mapping[str, T]):
    """Objects by name, each made by a class that is imported when the object is requested.

    Args:
        package: package of the modules.
        classes: ``module.Class`` by name; a class takes no arguments.
    """

    def __init__(self, package: str, classes: dict[str, str]) -> None:
        self.package, self.classes = package, classes

    def __getitem__(self, name: str) -> T:
        module, _, class_name = self.classes[name].rpartition(".")
        entry: T = getattr(import_module(f"{self.package}.{module}"), class_name)()
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)
