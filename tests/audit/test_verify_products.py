"""Labels, scores, metrics and audits are verified like the atlas, and made again where they have changed."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support import FAST, build_once, in_one_process, samples, write_tar

from pipeline.audit.verify_products import verify_folder
from pipeline.label import label
from pipeline.metrics.evaluate_atlas import evaluate_metrics
from pipeline.metrics.registry import SUITES
from pipeline.run import INLINE, run
from pipeline.run.plan import plan
from pipeline.score import score
from pipeline.store import Atlas, ObjectStore
from pipeline.store.verify_product import verify_product
from pipeline.truth import read_truth
from schemas.commits import ProductRecord
from schemas.policy import Policy, Threshold
from schemas.run import ModelSpec, RunSpec

Vitatlas = Callable[..., tuple[int, str, str]]
POLICY = Policy(name="a", methods=("legrad",), threshold=Threshold(kind="otsu"))
PRODUCTS = ["labels/a", "scores/a", "scores/faithfulness", "audit/label"]


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    with in_one_process():
        yield


@pytest.fixture(scope="module")
def made(checkpoint: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an atlas and everything that can be made of it, not to be changed."""

    def make(folder: Path) -> None:
        from pipeline.audit.audit_atlas import AuditOptions, audit_atlas

        for index in range(2):
            write_tar(folder / f"part-{index}.tar", samples(4, 4 * index))
        spec = RunSpec(shards=(f"{folder}/part-{{0..1}}.tar",), model=checkpoint, methods=FAST, batch_size=4)
        plan(spec, f"{folder}/atlas")
        run(f"{folder}/atlas", INLINE)
        (folder / "policy.yaml").write_text(yaml.safe_dump(POLICY.model_dump(mode="json")))
        boxes = [f"s{number:04d},5,5,20,20" for number in range(8)]
        (folder / "boxes.csv").write_text("\n".join(["image_id,x0,y0,x1,y1", *boxes]))
        atlas = Atlas.open(f"{folder}/atlas")
        with in_one_process():
            label(atlas, POLICY, ["png", "coco", "voc"], f"{folder}/atlas/labels/a")
            score_again(folder, atlas)
            metrics = {"perturbation_auc": SUITES["faithfulness"]["perturbation_auc"]}
            out = f"{folder}/atlas/scores/faithfulness"
            evaluate_metrics(atlas, out, "faithfulness", ("legrad",), 4, metrics=metrics)
            audit_atlas(atlas, f"{folder}/atlas/audit/label", audit_options=AuditOptions(0, 0, 0, False))

    return build_once(tmp_path_factory, "made", make)


@pytest.fixture
def atlas(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "atlas", tmp_path / "atlas"))


def score_again(folder: Path, atlas: Atlas) -> None:
    truth = read_truth(str(folder / "boxes.csv"))
    out = f"{atlas.objects.url}/scores/a"
    score(atlas, truth, methods=("legrad",), tuning_truth=truth, tuning_sources=atlas, out=out)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "removed": lambda file: file.unlink(),
    "flipped": flip,
    "longer": lambda file: file.write_bytes(file.read_bytes() + b" "),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_object_of_a_product_is_verified_against_every_damage(atlas: Path, product: str) -> None:
    folder = atlas / product
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 5
    assert verify_folder(str(folder)).faults == []
    for number, file in enumerate(files):
        content = file.read_bytes()
        if not content:
            continue
        list(DAMAGE.values())[number % len(DAMAGE)](file)
        result = verify_folder(str(folder))
        name = str(file.relative_to(folder))
        if name == ("manifest.json" if product == "audit/label" else "product.json") and not file.exists():
            assert result.unfinished, name
        else:
            assert any(name in fault or "product.json" in fault for fault in result.faults), (name, result.faults)
        file.write_bytes(content)
    assert verify_folder(str(folder)).faults == []


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("place", ["stray.txt", "commits/stray.json", "new/stray.parquet", ".vitatlas-0.part"])
def test_what_does_not_belong_to_a_product_is_named(atlas: Path, product: str, place: str) -> None:
    (atlas / product / place).parent.mkdir(exist_ok=True)
    (atlas / product / place).write_bytes(b"{}")
    assert [fault for fault in verify_folder(str(atlas / product)).faults if place in fault]


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_atlas_is_verified_with_its_products(vitatlas: Vitatlas, atlas: Path, product: str) -> None:
    code, out, err = vitatlas("verify", atlas, "--recompute", 0)
    assert (code, err) == (0, "")
    assert all(f"product  {atlas / name}\n" in out for name in PRODUCTS)
    file = next(iter(sorted((atlas / product).rglob("*.parquet")) or sorted((atlas / product).rglob("*.npz"))))
    flip(file)
    for place in (atlas, atlas / product):
        code, out, err = vitatlas("verify", place, "--recompute", 0)
        assert (code, "run again the commands" in err) == (1, True)
        assert f"{file.relative_to(place)}: its contents have changed" in out
    code, out, err = vitatlas("verify", atlas, "--recompute", 0, "--json")
    assert (code, len(json.loads(out)["products"]["faults"])) == (1, 1)


def test_a_file_beside_the_products_belongs_to_none(vitatlas: Vitatlas, atlas: Path) -> None:
    (atlas / "labels" / "masks.zip").write_bytes(b"")
    code, out, _ = vitatlas("verify", atlas, "--recompute", 0)
    assert (code, "labels/masks.zip: belongs to no product" in out) == (1, True)


def test_a_product_of_other_maps_is_named(atlas: Path) -> None:
    commit = atlas / "labels" / "a" / "commits" / "part-0.json"
    record = json.loads(commit.read_text())
    commit.write_text(json.dumps(record | {"parent": "sha256:0"}))
    faults = verify_product(ObjectStore(f"{atlas}/labels/a"), Atlas.open(str(atlas))).faults
    assert any("was made from other maps than the atlas has now" in fault for fault in faults)


def test_a_product_that_was_not_finished_says_so(vitatlas: Vitatlas, atlas: Path) -> None:
    (atlas / "labels" / "a" / "product.json").unlink()
    for place in (atlas, atlas / "labels" / "a"):
        code, _, err = vitatlas("verify", place, "--recompute", 0)
        assert (code, "labels/a: is not finished" in err) == (75, True)
    (atlas / "audit" / "label" / "manifest.json").unlink()
    assert verify_folder(str(atlas / "audit" / "label")).unfinished


def test_a_folder_of_neither_is_refused(vitatlas: Vitatlas, tmp_path: Path) -> None:
    code, _, err = vitatlas("verify", tmp_path)
    assert (code, "is not an atlas" in err) == (2, True)


LABELS = ["labels/part-0.parquet", "voc/SegmentationClass/s0001.png", "coco/instances.json", "commits/part-1.json"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", LABELS)
def test_the_same_command_makes_what_is_damaged_again(
    vitatlas: Vitatlas, made: Path, atlas: Path, name: str, damage: str
) -> None:
    file = atlas / "labels" / "a" / name
    content = file.read_bytes()
    DAMAGE[damage](file)
    command = ["label", atlas, "--policy", made / "policy.yaml", "--format", "png"]
    code, _, err = vitatlas(*command)
    assert code == 0
    assert file.read_bytes() == content
    if not name.startswith("coco") and not (name.startswith("commits") and damage == "removed"):
        assert f"/{name}: " in err
        assert "its shard is made again" in err
    assert verify_folder(str(atlas / "labels" / "a")).faults == []
    assert verify_folder(str(atlas / "labels" / "a")).unfinished == []


def test_scores_and_metrics_are_made_again_as_well(made: Path, atlas: Path) -> None:
    for name in ("counts/part-0.npz", "tuning/counts/part-1.npz", "tuning/commits/part-0.json", "curves.parquet"):
        file = atlas / "scores" / "a" / name
        content = file.read_bytes()
        flip(file)
        score_again(made, Atlas.open(str(atlas)))
        assert file.read_bytes() == content
        assert verify_folder(str(atlas / "scores" / "a")).faults == []


def test_the_record_names_everything_but_what_the_commits_name(atlas: Path) -> None:
    record = ProductRecord.read((atlas / "labels" / "a" / "product.json").read_bytes(), "product.json")
    assert [entry.path for entry in record.objects] == [
        "coco/instances.json", "commits/part-0.json", "commits/part-1.json", "policy.json", "summary.json",
        "voc/ImageSets/Segmentation/train.txt", "voc/labelmap.txt",
    ]  # fmt: skip
