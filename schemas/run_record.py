"""The record of a planned run, ``run.json``: spec, network, methods and shards, and hashes of what decides maps."""

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import ConfigDict, Field

from schemas.base import Count, GrowingRecord, Record, differences, sha256
from schemas.layout import FORMAT, ArraySpec, arrays
from schemas.model import ModelRecord, Size
from schemas.run import Name, RunSpec
from schemas.shard_record import ShardRecord
from schemas.targets import in_words


class FormatRecord(Record):
    """The one field of ``run.json`` that every version of the layout has.

    Attributes:
        format: version of the layout.
    """

    model_config = ConfigDict(extra="ignore")
    format: int | None = None


def slot_rows(samples: Iterable[int], chunk: int) -> int:
    """Return the number of rows that each shard owns.

    Args:
        samples: number of samples of each shard.
        chunk: rows of one Zarr chunk.
    """
    return -(-max(1, *samples) // chunk) * chunk


class RunRecord(GrowingRecord):
    """``run.json``: everything that determines the maps. Written once, last of the plan.

    Attributes:
        format: version of the layout.
        run_hash: hash of ``hashes``, and thereby of everything that determines the maps. Every commit carries it.
        hashes: hash of each field, but for ``versions``, that differs from its default; of shards, of each column.
        spec: the spec of the user.
        model: the network.
        shards: shards, in the order of the rows.
        slot: rows reserved for each shard: the largest number of samples, rounded up to the chunk.
        chunk: rows of one Zarr chunk.
        methods: options of each method by the name of its maps.
        extra_outputs: names of the numbers that a method reports beside each map, by method.
        artifacts: SHA-256 of the artifact of each learned method.
        provenance: name of the design that a method follows, where its paper leaves one open.
        label_names: name of each class of the network's own classifier; empty where they are not known.
        versions: versions of the packages that compute.
        extends: ``run_hash`` of the atlas that this one adds methods or targets to, in a part; empty: it is no part.
        first_target: number of the first targets that the arrays do not have, in a part that adds the others; its
            sample tables have all.
    """

    later_fields = frozenset({"extends", "first_target"})
    format: int = FORMAT
    run_hash: str = ""
    hashes: dict[str, str] = Field(default={})
    spec: RunSpec
    model: ModelRecord
    methods: dict[Name, dict[str, bool | int | float | str]]
    extra_outputs: dict[Name, tuple[Name, ...]]
    artifacts: dict[str, str] = Field(default={})
    provenance: dict[str, str] = Field(default={})
    label_names: tuple[str, ...] = ()
    slot: Count
    chunk: Size
    shards: tuple[ShardRecord, ...]
    versions: dict[str, str]
    extends: str = ""
    first_target: Count = 0

    def sealed(self) -> Self:
        """Return the record with its hashes."""
        hashes = self._field_hashes()
        return self.model_copy(update={"hashes": hashes, "run_hash": _hash_json(hashes)})

    def joined(self, others: Iterable["RunRecord"], targets: tuple[str, ...] = ()) -> Self:
        """Return the record with the methods of other runs as well. The hashes stay those of this one.

        Args:
            others: the other runs.
            targets: target kinds of all of them; empty: those of this one.
        """
        return self._with_methods((self, *others)).with_targets(targets or self.spec.targets)

    def with_targets(self, kinds: tuple[str, ...]) -> Self:
        """Return the record with other target kinds."""
        return self.model_copy(update={"spec": self.spec.model_copy(update={"targets": kinds})})

    def is_part_of(self, run: "RunRecord") -> bool:
        """Return whether the record extends a run, and differs from it in methods, and in targets behind those of that.

        Both must be as sealed.
        """
        own, other = (
            {name: value for name, value in record.hashes.items() if name not in _OF_PARTS} for record in (self, run)
        )
        common = len(run.spec.target_names)
        begins_alike = self.spec.target_names[:common] == run.spec.target_names
        adds_targets = common <= self.first_target < len(self.spec.target_names)
        is_alike = self.extends == run.run_hash and own == other and begins_alike
        return is_alike and (adds_targets or not self.first_target)

    def followed_by(self, shards: tuple[ShardRecord, ...]) -> Self:
        """Return the record with further shards after its own. The hashes stay those of its own."""
        return self.model_copy(update={"shards": self.shards + shards})

    def before_last(self, count: int) -> Self:
        """Return the record without its last shards. The hashes stay those of all."""
        return self.model_copy(update={"shards": self.shards[: len(self.shards) - count]})

    def with_shards_of(self, others: Iterable["RunRecord"]) -> Self:
        """Return the record as if the shards of other runs had been planned behind its own; see ``differences_to``."""
        runs: tuple[RunRecord, ...] = (self, *others)
        shards, chunk = tuple(shard for run in runs for shard in run.shards), max(run.chunk for run in runs)
        spec = self.spec.model_copy(
            update={
                "shards": tuple(pattern for run in runs for pattern in run.spec.shards),
                "allow_pipe": any(run.spec.allow_pipe for run in runs),
            }
        )
        slot = slot_rows((shard.samples for shard in shards), chunk)
        joined = self.model_copy(update={"spec": spec, "shards": shards, "chunk": chunk, "slot": slot})
        # The hashes of methods stay those of the plan, whatever was added or dropped since.
        hashes = {name: value for name, value in joined._field_hashes().items() if _is_of_shards(name)}
        hashes |= {name: value for name, value in self.hashes.items() if not _is_of_shards(name)}
        return joined.model_copy(update={"hashes": hashes, "run_hash": _hash_json(hashes)})

    def with_methods_of(self, runs: Mapping[str, "RunRecord"], separator: str) -> Self:
        """Return the record with the methods of several runs, each with the name of its run in front.

        Args:
            runs: by name, itself among them.
            separator: between the two names.
        """
        fields = {
            field: {
                f"{name}{separator}{method}": value
                for name, run in runs.items()
                for method, value in getattr(run, field).items()
            }
            for field in _BY_METHOD
        }
        specs = tuple(f"{name}{separator}{spec}" for name, run in runs.items() for spec in run.spec.methods)
        return self.model_copy(update=fields | {"spec": self.spec.model_copy(update={"methods": specs})})

    def differences_to(self, other: "RunRecord") -> list[str]:
        """Return a phrase for each field in which this run differs from another, besides the list of shards.

        Paths do not count, since they are others on another machine: networks and artifacts are compared by their
        hashes. Methods are compared as both have them now, in any order.
        """
        common = self.methods.keys() & other.methods.keys()

        def values(record: "RunRecord") -> dict[str, Any]:
            content = record.model_dump(mode="json", exclude=_NOT_HASHED | {"shards"})
            content |= {
                field: {name: value for name, value in content[field].items() if name in common} for field in _BY_METHOD
            }
            fields = _fields(record, content)
            return {name: value for name, value in fields if not (_is_of_shards(name) or _is_path(name))}

        missing = [f"it has no {name}" for name in other.methods if name not in common]
        further = [f"only it has {name}" for name in self.methods if name not in common]
        return [*missing, *further, *differences(values(self), values(other))]

    def without(self, methods: Container[str]) -> Self:
        """Return the record without some methods. The hashes stay those of all."""
        return self._with_methods((self,), methods)

    def _with_methods(self, records: Sequence["RunRecord"], left_out: Container[str] = ()) -> Self:
        def merge(mappings: Iterable[dict[str, Any]]) -> dict[str, Any]:
            return {name: value for values in mappings for name, value in values.items() if name not in left_out}

        specs = merge(dict(zip(record.methods, record.spec.methods, strict=True)) for record in records)
        fields = {field: merge(getattr(record, field) for record in records) for field in _BY_METHOD}
        return self.model_copy(
            update=fields | {"spec": self.spec.model_copy(update={"methods": tuple(specs.values())})}
        )

    def changed_fields(self) -> list[str]:
        """Return the names of the fields that are not as their hashes say; none if the record is as it was sealed."""
        current = self._field_hashes()
        changed = [name for name in {**current, **self.hashes} if current.get(name) != self.hashes.get(name)]
        return changed or ["run_hash"] * (self.run_hash != _hash_json(self.hashes))

    def slot_fault(self) -> str | None:
        """Return what is wrong with the rows of the shards, if anything: records of others may have any hash."""
        if self.slot != slot_rows((shard.samples for shard in self.shards), self.chunk):
            return "slot is not the largest number of samples of a shard, rounded up to the chunk"
        return None if self.rows < 1 << 53 else f"slot: {self.rows:,} rows are more than an atlas can have"

    def _field_hashes(self) -> dict[str, str]:
        # A later version may have further fields. Their defaults are left out, so that the hash of a record that lacks
        # them stays the same.
        values = self.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_HASHED)
        shards = values.pop("shards", [])
        columns = dict.fromkeys(column for shard in shards for column in shard)
        values |= {f"shards.{column}": [shard.get(column) for shard in shards] for column in columns}
        return {name: _hash_json(value) for name, value in _fields(self, values)}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, by class id: of the head file, the network, or the labels; empty where none are known."""
        return self.model.class_names or self.label_names or self.spec.classes

    def class_name(self, class_id: int) -> str:
        """Return the name of a class, or its id where it has none."""
        return self.class_names[class_id] if class_id < len(self.class_names) else str(class_id)

    def target_in_words(self, target: str) -> str:
        """Return what the maps of a target are of, such as ``label`` or ``class turtle``."""
        kind, _, class_id = target.partition(":")
        return in_words(target, self.class_name(int(class_id)) if kind == "class" else "")

    def describe_target(self, target: str) -> str:
        """Return a target as a user names it; of a class also its name, if that is known."""
        kind, _, class_id = target.partition(":")
        return f"{target} ({self.class_names[int(class_id)]})" if kind == "class" and self.class_names else target

    @property
    def stored_targets(self) -> tuple[str, ...]:
        """Targets of the arrays, in their order: all but the first ones of a part that adds the others."""
        return self.spec.target_names[self.first_target :]

    @property
    def is_removed(self) -> bool:
        """Whether it is a part with no method left, and not one whose sample tables have the columns of all targets."""
        return bool(self.extends) and not self.methods and not self.first_target

    @property
    def part_order(self) -> tuple[int, bool]:
        """Place among the parts of an atlas: each needs the targets before it, or for further targets the maps."""
        return len(self.spec.target_names), not self.first_target

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def is_unlabelled(self) -> bool:
        """There are samples, and the plan found none with a label member."""
        return 0 < self.samples == sum(shard.unlabelled for shard in self.shards)

    @property
    def rows(self) -> int:
        """Length of the ``row`` dimension: all slots, filled or not."""
        return self.slot * len(self.shards)

    @property
    def arrays(self) -> dict[str, ArraySpec]:
        """All arrays of all methods by name."""
        specs = (arrays(method, self.extra_outputs.get(method, ())) for method in self.methods)
        return {name: spec for method_specs in specs for name, spec in method_specs.items()}


class AppendedRecord(Record):
    """``appended.json``: the shards that ``vitatlas extend --shards`` has added to an atlas, whose ``run.json`` stays.

    Attributes:
        run_hash: ``run_hash`` of the atlas.
        hash: hash of the shards.
        latest: number of the shards that the latest command has added. Until it has lengthened the arrays, they have no
            rows of these.
        shards: all that were added, in the order of the rows.
    """

    run_hash: str
    hash: str = ""
    latest: Count
    shards: tuple[ShardRecord, ...]

    def sealed(self) -> Self:
        """Return the record with its hash."""
        return self.model_copy(update={"hash": self._shards_hash()})

    @property
    def is_as_sealed(self) -> bool:
        """The shards are those that the hash was made of."""
        return self.hash == self._shards_hash()

    def _shards_hash(self) -> str:
        return _hash_json(self.model_dump(mode="json", include={"shards"}))


_BY_METHOD = ("methods", "extra_outputs", "artifacts", "provenance")
"""Fields of a run that are mappings by method."""
_OF_PARTS = {*_BY_METHOD, "spec.methods", "spec.artifacts", "spec.targets", "extends", "first_target"}
"""Hashes in which a part differs from the run that it extends."""
_NOT_HASHED = {"format", "run_hash", "hashes", "versions"}
_PATHS = {
    "model.name",
    "spec.root",
    "spec.methods",
    "spec.artifacts",
    "spec.text_tower.name",
    "spec.text_tower.weights",
}
"""Fields whose paths may differ, or whose content other fields have by its hash."""


def _is_of_shards(name: str) -> bool:
    """Return whether a hash is of the list of shards, or follows from it."""
    return name.startswith("shards.") or name in ("spec.shards", "spec.allow_pipe", "slot", "chunk")


def _is_path(name: str) -> bool:
    return name.startswith("spec.model.") or name in _PATHS


def _fields(record: Record, values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of each field of a record and of the records in it.

    Args:
        record: the record.
        values: its values that differ from their defaults.
        prefix: of the names.
    """
    for name, value in values.items():
        inner = getattr(record, name, None)
        if isinstance(inner, Record):
            yield from _fields(inner, value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _hash_json(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode())
