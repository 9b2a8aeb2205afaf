"""Every overlay: it renders, it is valid, and what it says is true of this package."""

import re
import shutil
from itertools import permutations
from pathlib import Path

import pytest
from k8s.kustomize import Document, kubectl, render, rendered

from k8s import checks


@pytest.fixture(params=checks.OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Document]:
    return rendered(checks.K8S / "overlays" / request.param)


def test_every_field_of_the_rayjob_is_known_to_kuberay(overlay: list[Document], crd: Document) -> None:
    checks.check_rayjob(overlay, crd)


def test_the_entrypoint_is_a_command_that_exists_and_finds_its_files(overlay: list[Document], tmp_path: Path) -> None:
    checks.check_entrypoint(overlay, tmp_path)


@pytest.mark.parametrize(
    "check",
    [
        checks.check_kubernetes,
        checks.check_versions,
        checks.check_locked,
        checks.check_no_secrets,
        checks.check_writable,
        checks.check_resumes,
        checks.check_network,
    ],
    ids=lambda check: check.__name__,
)
def test_overlay_holds(overlay: list[Document], check) -> None:
    check(overlay)


README = (checks.K8S / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", checks.OVERLAYS)
def test_the_page_names_every_overlay_and_its_job(name: str) -> None:
    job = checks.job(render(checks.K8S / "overlays" / name))["metadata"]["name"]
    assert f"\n| `{name}` | `{job}` |" in README


def test_what_the_page_applies_is_there() -> None:
    places = re.findall(r"kubectl apply -[kf] (k8s/[\w/.-]+)", README)
    assert len(places) >= 4
    assert all((checks.ROOT / place).exists() for place in places)


def test_the_overlay_of_the_page_names_the_image_by_its_digest(tmp_path: Path) -> None:
    (text,) = re.findall(r"cat > kustomization.yaml <<'EOF'\n(.*?)EOF\n", README, re.DOTALL)
    assert 'digest: "sha256:DIGEST"' in text
    if not shutil.which("kubectl"):
        pytest.skip("images are named by kubectl alone")
    digest = f"sha256:{'0' * 64}"
    shutil.copytree(checks.K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s" / "overlays" / "mine"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text.replace("sha256:DIGEST", digest), "utf-8")
    images = {container["image"] for _, container in checks.containers(kubectl(folder))}
    assert images == {f"YOUR-REGISTRY/vit-atlas@{digest}"}


def test_the_patches_of_the_page_open_what_they_say(tmp_path: Path) -> None:
    """Of the network policy, for clusters that are made otherwise."""
    (text,) = re.findall(r"```yaml\n(patches:\n  - target: {kind: NetworkPolicy}.*?)```", README, re.DOTALL)
    shutil.copytree(checks.K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s" / "overlays" / "mine"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(f"resources: [../s3]\n{text}", "utf-8")
    documents = rendered(folder)
    checks.check_kubernetes(documents)
    (policy,) = (document["spec"] for document in documents if document["kind"] == "NetworkPolicy")
    assert policy["ingress"][1]["from"][0]["namespaceSelector"]["matchLabels"] == {checks.NAMESPACE: "default"}
    assert [len(rule["to"]) for rule in policy["egress"]] == [1, 2, 2, 1]


def by_name(documents: list[Document]) -> dict[tuple[str, str], Document]:
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl to compare with")
@pytest.mark.parametrize("name", checks.OVERLAYS)
def test_the_small_renderer_agrees_with_kubectl(name: str) -> None:
    folder = checks.K8S / "overlays" / name
    assert by_name(render(folder)) == by_name(kubectl(folder))


def test_components_go_together_in_any_order(tmp_path: Path) -> None:
    shutil.copytree(checks.K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s" / "overlays" / "all"
    folder.mkdir()
    for order in permutations(["gpu", "kueue", "s3", "spot"]):
        names = ", ".join(f"../../components/{name}" for name in order)
        text = f"resources: [../../base]\ncomponents: [{names}]\n"
        (folder / "kustomization.yaml").write_text(text)
        documents = render(folder)
        (workers,) = checks.job(documents)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert workers["replicas"] == 8
        assert len(workers["template"]["spec"]["tolerations"]) == 4
        assert checks.job(documents)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    checks.check_kubernetes(documents)
