"""A run reads labels as they come: names by a file of classes, a field of JSON; what they mean is planned."""

import json
from pathlib import Path

import pytest
from support import jpeg, write_tar

from pipeline.explain.load import LoadedModel
from pipeline.run import INLINE, run
from pipeline.run import plan as planning
from pipeline.run.plan import plan
from pipeline.store import Atlas
from schemas.errors import SpecMismatchError, UsageError
from schemas.run import ModelSpec, RunSpec

NAMES = tuple(f"n0000000{number}" for number in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7))


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Five images with the class 4: by name, in a field of JSON, and one with another label of the same name."""
    members = []
    for number in range(4):
        record = json.dumps({"annotation": {"class": NAMES[number]}, "id": number}).encode()
        members += [(f"s{number}.jpg", jpeg(number)), (f"s{number}.cls", f"\ufeff{NAMES[number]}\n".encode())]
        members.append((f"s{number}.json", record))
    members += [("bad.jpg", jpeg(9)), ("bad.cls", b"n00000010"), ("bad.json", b"{}")]
    return str(write_tar(tmp_path_factory.mktemp("shards") / "a.tar", members))


def labels_of(atlas: Atlas) -> dict[str, int | None]:
    return {row["key"]: row["label"] for row in atlas.samples(["key", "label"]).to_pylist()}


def test_names_in_cls_or_json_are_the_classes_of_a_file(
    vitatlas, shard: str, checkpoint: ModelSpec, tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    command = ["run", shard, "--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint, "--methods", "random"]
    command += ["--executor", "inline", "--classes", tmp_path / "classes.txt", "--out"]
    code, out, _ = vitatlas(*command, tmp_path / "cls")
    assert code == 0
    assert "4 images with maps, 1 without" in out
    atlas = Atlas.open(str(tmp_path / "cls"))
    assert labels_of(atlas) == {"s0": 0, "s1": 1, "s2": 2, "s3": 3, "bad": None}
    assert atlas.run.class_names == NAMES
    row = atlas.samples().to_pylist()[4]
    assert row["status"] == "bad_label"
    assert "has 'n00000010', which is no line of --classes; did you mean n0000000" in row["error"]
    code, out, _ = vitatlas(
        *command, tmp_path / "json", "--label-key", "annotation.class", "--targets", "class:n00000004"
    )
    assert code == 0
    other = Atlas.open(str(tmp_path / "json"))
    assert labels_of(other) == labels_of(atlas)
    assert other.run.spec.targets == ("class:2",)
    assert vitatlas(*command, tmp_path / "json", "--label-key", "id")[0] == 2
    code, _, err = vitatlas("run", tmp_path / "cls", "--classes", tmp_path / "classes.txt")
    assert code == 2
    assert "--classes is for planning" in err


def test_what_labels_mean_is_a_part_of_the_plan(shard: str, checkpoint: ModelSpec, tmp_path: Path) -> None:
    spec = RunSpec(shards=(shard,), model=checkpoint, methods=("random",))
    plain = plan(spec, str(tmp_path / "plain"))
    assert not {"spec.classes", "spec.label_key", "spec.label_form"} & set(plain.hashes)
    named = spec.model_copy(update={"classes": NAMES})
    assert plan(named, str(tmp_path / "named")).run_hash != plain.run_hash
    assert plan(named, str(tmp_path / "named")).spec.classes == NAMES
    for change, says in (
        ({"classes": NAMES[::-1]}, "classes is"),
        ({"label_key": "id"}, "label_key is None, not 'id'"),
        ({"label_form": "names"}, "label_form is None, not 'names'"),
    ):
        with pytest.raises(SpecMismatchError, match=says):
            plan(named.model_copy(update=change), str(tmp_path / "named"))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["a", "b"], "test_vit: has 10 classes, not the 2 that are named"),
        ([*"abcdefghi", " a "], "classes.9:  a  is the name of class 0, too; give each class a name of its own"),
        ([*"abcdefghi", "e\u0301"], None),
        ([*"abcdefgh", "\u00e9", "e\u0301"], "is the name of class 8, too"),
        ([*"abcdefghi", " "], "line 10: ' ' is not a class name"),
    ],
)
def test_names_that_cannot_be_the_classes_are_refused(
    vitatlas, shard: str, checkpoint: ModelSpec, tmp_path: Path, lines: list[str], says: str | None
) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(lines) + "\n")
    command = ["plan", shard, "--model", checkpoint.name, "--checkpoint", checkpoint.checkpoint]
    code, _, err = vitatlas(*command, "--classes", tmp_path / "classes.txt", "--out", tmp_path / "atlas")
    assert (code, (tmp_path / "atlas").exists()) == ((0, True) if says is None else (2, False)), err
    assert says is None or says in err


def test_names_of_the_network_in_another_order_are_refused(
    shard: str, checkpoint: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the WordNet ids in the order of the development kit are, for a network with the weights of timm."""

    def wordnet_ids(model: LoadedModel, pretrained: bool) -> tuple[str, ...]:
        return tuple(sorted(NAMES))

    monkeypatch.setattr(planning, "wordnet_ids", wordnet_ids)
    spec = RunSpec(shards=(shard,), model=checkpoint, methods=("random",), classes=NAMES)
    with pytest.raises(UsageError, match="class 0 is n00000000, and n00000003 in --classes; give the WordNet ids"):
        plan(spec, str(tmp_path / "atlas"))
    run_of = plan(spec.model_copy(update={"classes": tuple(sorted(NAMES))}), str(tmp_path / "atlas"))
    assert run_of.class_names == tuple(sorted(NAMES))
    assert len(run(str(tmp_path / "atlas"), INLINE).samples()) == 5


def test_forms_that_cannot_be_are_refused(vitatlas, shard: str, tmp_path: Path) -> None:
    command = ["plan", shard, "--model", "test_vit", "--pretrained", "--out", tmp_path / "atlas"]
    code, _, err = vitatlas(*command, "--label-form", "names")
    assert (code, "labels that are names need the names of all classes: add --classes FILE" in err) == (2, True)
