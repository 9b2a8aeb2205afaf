"""Records: equal ones have equal bytes, hashes move with every field, and nothing unknown is accepted."""

import pyarrow as pa
import pytest

from schemas import errors
from schemas.base import differences, sha256
from schemas.errors import AtlasError, UsageError
from schemas.labels import LABELS
from schemas.policy import Policy, Postprocess, Threshold
from schemas.run import ModelSpec, RunSpec
from schemas.samples import SAMPLES
from schemas.scores import LOCALIZATION
from schemas.text_tower import TextTowerSpec

SPEC = RunSpec(shards=("a.tar",), model=ModelSpec(name="test_vit", pretrained=True))


def test_a_record_is_read_back_from_its_bytes() -> None:
    assert RunSpec.read(SPEC.to_bytes(), "spec") == SPEC
    assert RunSpec.read(SPEC.model_dump(mode="json"), "spec") == SPEC


def test_the_hash_moves_with_every_field() -> None:
    changes = {
        "shards": ("b.tar",), "root": "/x", "model": ModelSpec(name="test_vit2", pretrained=True),
        "methods": ("legrad",), "targets": ("label",), "geometry": "crop", "batch_size": 1, "seed": 1,
        "precision": "bfloat16", "allow_pipe": True, "artifacts": ("a.safetensors",), "partial_shards": "keep",
        "decode": "gpu", "image_key": ("webp",), "exif": "ignore", "key_separator": "last-dot",
        "label_key": "class", "label_form": "ids", "classes": ("a", "b"),
        "text_tower": TextTowerSpec(library="hugging_face", name="clip"),
    }  # fmt: skip
    assert set(changes) == set(RunSpec.model_fields)
    hashes = {SPEC.model_copy(update={name: value}).digest() for name, value in changes.items()}
    assert len(hashes | {SPEC.digest()}) == len(changes) + 1


def test_what_does_not_fit_is_named_with_source_and_field() -> None:
    with pytest.raises(UsageError, match=r"my\.yaml: model\.name: Field required"):
        RunSpec.read({"shards": ["a"], "model": {"pretrained": True}}, "my.yaml")
    with pytest.raises(UsageError, match=r"run\.json: Invalid JSON"):
        RunSpec.read(b"{", "run.json")


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        SPEC.seed = 3  # type: ignore[misc]


def test_the_hash_of_a_policy_is_stable() -> None:
    """Labels carry it: a change of this value makes the labels of others look like those of another policy."""
    policy = Policy(
        name="p", methods=("legrad",), threshold=Threshold(kind="otsu"), postprocess=Postprocess(min_area=0.01)
    )
    assert policy.digest() == "sha256:" + POLICY_HASH


POLICY_HASH = "1421e209d68cef1a1de4984d5fa96eb36ad1036e760bd3421e9a5143d7ad014d"


def test_sha256_is_prefixed() -> None:
    assert sha256(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("schema", [SAMPLES, LABELS, LOCALIZATION])
def test_tables_can_be_empty(schema: pa.Schema) -> None:
    assert pa.Table.from_pylist([], schema=schema).num_rows == 0


def test_the_tree_of_errors_in_the_docstring_is_the_tree() -> None:
    drawn = {line.split("── ")[1].split()[0] for line in (errors.__doc__ or "").splitlines() if "── " in line}
    defined = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, AtlasError)
    } - {"AtlasError"}  # fmt: skip
    assert drawn == defined
    codes = {name: getattr(errors, name).exit_code for name in defined}
    assert codes == {
        "UsageError": 2, "UnsupportedModel": 2, "UnsupportedMethod": 2, "SpecMismatchError": 2,
        "RunFailedError": 1, "CorruptShardError": 1, "ShardReplacedError": 1, "StoppedEarlyError": 75,
    }  # fmt: skip


def test_differences_name_what_changed_came_and_went() -> None:
    there, wanted = {"a": 1, "b": {"c": 2, "gone": 3}}, {"a": 1, "b": {"c": 4, "new": 5}}
    assert sorted(differences(there, wanted)) == ["b.c is 2, not 4", "b.gone is 3, not None", "b.new is None, not 5"]
    assert not differences(there, there)
