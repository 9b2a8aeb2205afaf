"""The image, as far as it can be judged without building it."""

import re
import tomllib

import pytest
from k8s.kustomize import render

from k8s import checks

DOCKERFILE = (checks.K8S / "Dockerfile").read_text("utf-8")
STAGES = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]
PROJECT = tomllib.loads((checks.ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_base_is_pinned_by_tag_and_digest() -> None:
    names = [re.findall(r" AS (\w+)", stage)[0] for stage in STAGES[:-1]]
    froms = [stage.split()[1] for stage in STAGES]
    assert all(each in names or re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", each) for each in froms)


def test_the_last_stage_runs_as_the_user_of_the_manifests_and_builds_nothing() -> None:
    user = re.findall(r"^USER (\d+):(\d+)$", STAGES[-1], re.MULTILINE)[-1]
    for pod, _ in checks.containers(render(checks.K8S / "base")):
        context = pod["securityContext"]
        assert user == (str(context["runAsUser"]), str(context["runAsGroup"]))
    assert not re.search(r"pip (install|wheel)|build-essential|gcc|g\+\+|\bgit\b", STAGES[-1])


def test_it_has_the_extras_that_jobs_and_buckets_need() -> None:
    (extras,) = re.findall(r"\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert set(extras.split(",")) == {"cluster", "s3"} <= PROJECT["project"]["optional-dependencies"].keys()


@pytest.mark.parametrize("name", ["constraints.txt", "README.md", "pyproject.toml", "jobs", "pipeline", "schemas"])
def test_what_the_build_reads_is_not_ignored(name: str) -> None:
    lines = (checks.ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert lines.index(f"!{name}") > lines.index("*")
    assert (checks.ROOT / name).exists()


def test_of_the_repository_it_takes_nothing_else() -> None:
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    lines = (checks.ROOT / ".dockerignore").read_text("utf-8").splitlines()
    taken = {line[1:] for line in lines if line.startswith("!")}
    assert taken == packages | {"constraints.txt", "pyproject.toml", PROJECT["project"]["readme"]}
