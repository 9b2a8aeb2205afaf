"""The checks of the overlays find what they are there for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import jsonschema
import kubernetes_validate
import pytest
from k8s.kustomize import Document, render

from k8s import checks
from schemas.errors import UsageError

Change = Callable[[Document], Any]


@pytest.fixture
def documents() -> list[Document]:
    return render(checks.K8S / "overlays" / "gpu")


def job_of(change: Change) -> Callable[[list[Document]], Any]:
    return lambda documents: change(checks.job(documents)["spec"])


def other(kind: str, change: Change) -> Callable[[list[Document]], Any]:
    return lambda documents: change(next(each for each in documents if each["kind"] == kind))


def policy(change: Change) -> Callable[[list[Document]], Any]:
    return other("NetworkPolicy", lambda it: change(it["spec"]))


def container(change: Change) -> Callable[[list[Document]], Any]:
    """Of the worker."""
    return lambda documents: change(list(checks.containers(documents))[-1][1])


def pod(change: Change) -> Callable[[list[Document]], Any]:
    return lambda documents: change(list(checks.containers(documents))[-1][0])


UNKNOWN_TO_KUBERAY = {
    "a field that RayJob does not have": job_of(lambda spec: spec.update(backOffLimit=3)),
    "a field that RayCluster does not have": job_of(lambda spec: spec["rayClusterSpec"].update(rayversion="2")),
    "a number that is text": job_of(lambda spec: spec.update(backoffLimit="3")),
    "text that is a number": job_of(lambda spec: spec["rayClusterSpec"].update(rayVersion=2.6)),
    "no such way to authenticate": job_of(lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="tokens")),
    "a parameter of ray start that is a number": job_of(
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0})
    ),
    "no template of the head": job_of(lambda spec: spec["rayClusterSpec"]["headGroupSpec"].pop("template")),
}


@pytest.mark.parametrize("change", UNKNOWN_TO_KUBERAY.values(), ids=UNKNOWN_TO_KUBERAY.keys())
def test_a_wrong_field_of_a_rayjob_is_found(documents: list[Document], crd: Document, change: Change) -> None:
    checks.check_rayjob(documents, crd)
    change(documents)
    with pytest.raises(jsonschema.ValidationError):
        checks.check_rayjob(documents, crd)


UNKNOWN_TO_KUBERNETES = {
    "a field that containers do not have": container(lambda it: it.update(securitycontext={})),
    "a field that pods do not have": pod(lambda it: it.update(gracePeriod=1)),
    "a field that labels do not have": lambda documents: checks.job(documents)["metadata"].update(label={}),
    "a field that a policy does not have": other("NetworkPolicy", lambda it: it["spec"].update(inbound=[])),
    "a field that an account does not have": other("ServiceAccount", lambda it: it.update(automountToken=False)),
    "a value of a ConfigMap that is no text": other("ConfigMap", lambda it: it["data"].update(number=1)),
}


@pytest.mark.parametrize("change", UNKNOWN_TO_KUBERNETES.values(), ids=UNKNOWN_TO_KUBERNETES.keys())
def test_a_wrong_field_of_another_document_is_found(documents: list[Document], change: Change) -> None:
    checks.check_kubernetes(documents)
    change(documents)
    with pytest.raises(kubernetes_validate.ValidationError):
        checks.check_kubernetes(documents)


WRONG_ENTRYPOINT = {
    "a flag that does not exist": "vitatlas run /data/a --devices cuda",
    "a value that a flag does not take": "vitatlas run /data/a --device tpu",
    "a command that does not exist": "vitatlas runs /data/a",
    "a flag without its value": "vitatlas run --spec",
    "an argument too many": "vitatlas drop /data/a /data/b --methods legrad",
    "a required flag that is missing": "vitatlas score /data/a",
    "another program": "python -m jobs.cli run /data/a",
    "two commands": "vitatlas run /data/a && vitatlas verify /data/a",
    "a spec that is not in the ConfigMap": "vitatlas run --spec /etc/vitatlas/runs.yaml --out /data/a",
    "an atlas that is on no volume": "vitatlas run --spec /etc/vitatlas/run.yaml --out /atlas",
}


@pytest.mark.parametrize("entrypoint", WRONG_ENTRYPOINT.values(), ids=WRONG_ENTRYPOINT.keys())
def test_a_wrong_entrypoint_is_found(documents: list[Document], entrypoint: str, tmp_path: Path) -> None:
    checks.job(documents)["spec"]["entrypoint"] = entrypoint
    with pytest.raises((click.UsageError, AssertionError)):
        checks.check_entrypoint(documents, tmp_path)


def test_a_wrong_spec_is_found(documents: list[Document], tmp_path: Path) -> None:
    text = "shard: [a.tar]\nmodel: {name: a, pretrained: true}"
    other("ConfigMap", lambda it: it["data"].update({"run.yaml": text}))(documents)
    with pytest.raises(UsageError, match="shard"):
        checks.check_entrypoint(documents, tmp_path)


WRONG = {
    "a rayVersion other than the image's": (
        checks.check_versions, job_of(lambda spec: spec["rayClusterSpec"].update(rayVersion="2.59.0"))
    ),
    "an image of another Ray": (
        checks.check_versions, container(lambda it: it.update(image="vit-atlas:0.1.0-ray2.59.0"))
    ),
    "a root that is writable": (
        checks.check_locked, container(lambda it: it["securityContext"].update(readOnlyRootFilesystem=False))
    ),
    "root": (checks.check_locked, pod(lambda it: it["securityContext"].update(runAsUser=0))),
    "no bound of memory": (checks.check_locked, container(lambda it: it["resources"]["limits"].pop("memory"))),
    "a token of Kubernetes": (checks.check_locked, pod(lambda it: it.update(automountServiceAccountToken=True))),
    "a Secret": (checks.check_no_secrets, lambda documents: documents.append({"kind": "Secret"})),
    "a password": (
        checks.check_no_secrets,
        container(lambda it: it["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"})),
    ),
    "a HOME on no volume": (
        checks.check_writable, container(lambda it: it["env"].append({"name": "HOME", "value": "/home/atlas"}))
    ),
    "no shared memory": (checks.check_writable, container(lambda it: it["volumeMounts"].pop())),
    "no other try": (checks.check_resumes, job_of(lambda spec: spec.update(backoffLimit=0))),
    "no token": (
        checks.check_resumes, job_of(lambda spec: spec["rayClusterSpec"]["authOptions"].update(mode="disabled"))
    ),
    "actors on the head": (
        checks.check_resumes,
        job_of(lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": "1"})),
    ),
    "a pod beside the policy": (
        checks.check_network,
        job_of(lambda spec: spec["submitterPodTemplate"]["metadata"].update(labels={})),
    ),
    "a door for everybody": (
        checks.check_network,
        other("NetworkPolicy", lambda it: it["spec"]["ingress"][0].update({"from": [{"namespaceSelector": {}}]})),
    ),
    "an operator wherever a tenant says": (
        checks.check_network, policy(lambda it: it["ingress"][1]["from"][0].update(namespaceSelector={})),
    ),
    "all ports for the operator": (checks.check_network, policy(lambda it: it["ingress"][1].pop("ports"))),
    "DNS of anybody": (checks.check_network, policy(lambda it: it["egress"][1].pop("to"))),
    "DNS in any namespace": (
        checks.check_network, policy(lambda it: it["egress"][1]["to"][0].pop("namespaceSelector"))
    ),
    "HTTPS to everywhere": (
        checks.check_network, policy(lambda it: it["egress"].append({"ports": [{"port": 443, "protocol": "TCP"}]}))
    ),
    "HTTPS to the API server": (
        checks.check_network,
        policy(
            lambda it: it["egress"].append(
                {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["172.16.0.0/12"]}}], "ports": [{"port": 443}]}
            )
        ),
    ),
    "no bound of disk": (
        checks.check_locked, container(lambda it: it["resources"]["limits"].pop("ephemeral-storage"))
    ),
    "a folder larger than the bound of disk": (
        checks.check_locked, container(lambda it: it["resources"]["limits"].update({"ephemeral-storage": "20Gi"}))
    ),
}  # fmt: skip


@pytest.mark.parametrize(("check", "change"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_hold_is_found(documents: list[Document], check: Change, change: Change) -> None:
    check(documents)
    change(documents)
    with pytest.raises((AssertionError, KeyError)):
        check(documents)
