"""KubeRay's own definition of a RayJob, which is not part of this repository."""

import os
from pathlib import Path

import pytest
import yaml
from k8s.checks import strict
from k8s.kustomize import Document


@pytest.fixture(scope="session")
def crd() -> Document:
    """The strict schema of ``ray.io/v1`` RayJob."""
    folder = os.environ.get("VITATLAS_CRDS")
    if not folder:
        pytest.skip("VITATLAS_CRDS names no folder with KubeRay's ray.io_rayjobs.yaml")
    text = Path(folder, "ray.io_rayjobs.yaml").read_text("utf-8")
    definition = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = (
        version["schema"]["openAPIV3Schema"] for version in definition["spec"]["versions"] if version["name"] == "v1"
    )
    return strict(schema)
