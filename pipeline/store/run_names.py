"""``RunNames``: methods, targets and classes of an atlas, by the names that users give."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from pipeline.store.class_names import check_class_names
from schemas.errors import UsageError
from schemas.run_record import RunRecord
from schemas.targets import find_class, is_text
from schemas.text import suggest


class RunNames(ABC):
    """What an atlas, or several that are joined, has by name. A name that it does not have is refused."""

    @property
    @abstractmethod
    def url(self) -> str:
        """URL of the atlas, for messages; of several, their URLs."""

    @property
    @abstractmethod
    def run(self) -> RunRecord:
        """Record of the run, with all methods that can be read; of several atlases, what they are together."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that have maps."""
        return tuple(self.run.methods)

    def check_array(self, array: str, target: str) -> int:
        """Return the index of a target kind in an array. Nothing is read.

        Args:
            array: name of the array.
            target: target kind.

        Raises:
            UsageError: the atlas has no such array or target kind.
        """
        if array not in self.run.arrays:
            self._check_method(array)
        return self.run.stored_targets.index(self.find_target(target))

    def check_planned(self, target: str, methods: Iterable[str]) -> None:
        """Check that the run has a target kind and methods. Nothing is read.

        Args:
            target: target kind.
            methods: names of methods.

        Raises:
            UsageError: the run has no such target kind or method.
        """
        self.find_target(target)
        for method in methods:
            self._check_method(method)

    def find_target(self, target: str) -> str:
        """Return a target by its name in the atlas: ``class:7`` for ``class:turtle``.

        Raises:
            UsageError: the run has no such target.
        """
        targets, (kind, _, name) = self.run.stored_targets, target.partition(":")
        if target in targets:
            return target
        if kind == "class" and name:
            target = f"class:{find_class(name, self.run.class_names, self.run.model.classes)}"
        if target not in targets:
            raise self._no_target(target)
        return target

    def _no_target(self, target: str) -> UsageError:
        targets = self.run.stored_targets
        names = ", ".join(map(self.run.describe_target, targets))
        return UsageError(
            f"{self.url}: has no target {target!r}; it has {names}{suggest(target, targets)}; "
            "name one with --target, or as target in the policy"
        )

    def find_class_target(self, target: str) -> str:
        """Return a target by its name in the atlas, see ``find_target``, if it explains classes.

        Raises:
            UsageError: the run has no such target, or it explains a text of each image.
        """
        if is_text(target := self.find_target(target)):
            raise UsageError(
                f"{self.url}: target {target} explains another text in each image, so there are no classes to "
                "sum over; name another target with --target"
            )
        return target

    def class_names(self, names: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the given names of the classes; where none are given, those of the atlas; empty if it has none.

        Raises:
            UsageError: they are not as many as the classes, or those of the atlas in another order.
        """
        check_class_names(names, self.run.class_names, self.run.model.classes, self.url)
        return tuple(names) or self.run.class_names

    def _check_method(self, method: str) -> None:
        if method not in self.run.methods:
            names, hint = ", ".join(self.run.methods), suggest(method, self.run.methods)
            raise UsageError(f"{self.url}: has no maps of {method!r}; it has {names}{hint}")
