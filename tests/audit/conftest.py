"""What the tests of audits share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from some_audit import PUBLICATION
from support import build_once, copy_atlas, in_one_process

from pipeline.audit.audit_atlas import AuditOptions, audit_atlas
from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.store import Atlas
from pipeline.truth import read_truth

SMALL = AuditOptions(faithfulness_images=6, sanity_images=4, recomputed_images=32, include_images=False)


@pytest.fixture(autouse=True, scope="module")
def in_this_process() -> Iterator[None]:
    with in_one_process():
        yield


@pytest.fixture(scope="session")
def published(atlas: Atlas, world: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas with an audit within that has all that an audit may have: its folder. Not to be changed."""

    def build(folder: Path) -> None:
        copy_atlas(atlas.objects.url, folder / "atlas")
        with in_one_process():
            audit_atlas(
                Atlas.open(str(folder / "atlas")),
                truth=read_truth(world.truth),
                audit_options=SMALL,
                publication=PUBLICATION,
            )

    return build_once(tmp_path_factory, "published", build) / "atlas" / "audit" / "label"
