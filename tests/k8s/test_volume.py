"""The volume is apart from the jobs, and the pod that fills it is as locked as they are."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from k8s.kustomize import Document, render, rendered

from k8s import checks

VOLUME = checks.K8S / "volume"
KINDS = sorted(path.name for path in VOLUME.iterdir() if path.is_dir())


@pytest.fixture
def loader() -> Document:
    return yaml.safe_load((VOLUME / "loader.yaml").read_text("utf-8"))


def validate(document: Document) -> None:
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_one_claim_and_a_wrong_field_of_it_is_found(kind: str) -> None:
    (claim,) = rendered(VOLUME / kind)
    assert claim["kind"] == "PersistentVolumeClaim"
    validate(claim)
    claim["spec"]["accessMode"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(claim)


@pytest.mark.parametrize("folder", sorted(checks.K8S.glob("overlays/*")), ids=lambda path: path.name)
def test_who_deletes_a_job_does_not_delete_the_data(folder: Path) -> None:
    assert "PersistentVolumeClaim" not in {document["kind"] for document in render(folder)}


def test_jobs_and_loader_mount_the_claim_that_is_made(loader: Document) -> None:
    specs = [loader["spec"], *(pod["spec"] for pod in checks.pods(render(checks.K8S / "base")).values())]
    volumes = [volume for spec in specs for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    names = {rendered(VOLUME / kind)[0]["metadata"]["name"] for kind in KINDS}
    assert len(volumes) == 3  # loader, head, workers
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in volumes} == names


def test_the_loader_is_as_locked_as_the_jobs(loader: Document) -> None:
    validate(loader)
    (container,) = loader["spec"]["containers"]
    for pod, other in checks.containers(render(checks.K8S / "base")):
        for name in ("securityContext", "automountServiceAccountToken"):
            assert loader["spec"][name] == pod[name]
        for name in ("securityContext", "image"):
            assert container[name] == other[name]
