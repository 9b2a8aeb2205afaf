"""What is asked of every rendered overlay. Each check raises AssertionError, or the error of what it asks."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath
from typing import Any

import click
import kubernetes_validate
from jsonschema import Draft202012Validator
from k8s.kustomize import Document

from jobs.cli import cli
from jobs.run_options import run_spec
from pipeline.explain.registry import methods
from pipeline.label import read_policy
from schemas.run import ModelSpec, RunSpec

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
SPECS = "/etc/vitatlas"
"""Where the ConfigMap is mounted."""

_SECRET = re.compile(r"token|secret|password|credential|key", re.IGNORECASE)


def job(documents: list[Document]) -> Document:
    """The one RayJob."""
    (found,) = (document for document in documents if document["kind"] == "RayJob")
    return found


def pods(documents: list[Document]) -> dict[str, Document]:
    """The pod templates of a RayJob: submitter, head, and each group of workers."""
    spec = job(documents)["spec"]
    cluster = spec["rayClusterSpec"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"submitter": spec["submitterPodTemplate"], "head": cluster["headGroupSpec"]["template"]} | workers


def containers(documents: list[Document]) -> Iterator[tuple[Document, Document]]:
    """Each container, behind its pod's spec."""
    for pod in pods(documents).values():
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            yield pod["spec"], container


def strict(schema: Any) -> Any:
    """A schema of OpenAPI in which an object has no other properties than those that are named."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(each) for name, each in schema.items()}
    if isinstance(closed.get("properties"), dict) and "type" in closed:
        closed.setdefault("additionalProperties", closed.get("x-kubernetes-preserve-unknown-fields", False))
    return closed


def check_rayjob(documents: list[Document], crd: Document) -> None:
    """Every field of the RayJob is known to KubeRay and of its type."""
    assert job(documents)["apiVersion"] == "ray.io/v1"
    Draft202012Validator(crd).validate(job(documents))


def check_kubernetes(documents: list[Document]) -> None:
    """The same of the other documents; and of the RayJob's metadata and pods, of which its CRD knows less."""
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": job(documents)["metadata"]}
    templates = [{"apiVersion": "v1", "kind": "Pod"} | pod for pod in pods(documents).values()]
    others = [document for document in documents if document["kind"] != "RayJob"]
    for document in (*others, metadata, *templates):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def check_versions(documents: list[Document]) -> None:
    """Image, ``rayVersion``, constraints.txt and pyproject.toml name the same versions."""
    (ray,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert job(documents)["spec"]["rayClusterSpec"]["rayVersion"] == ray
    for _, container in containers(documents):
        assert container["image"] == f"vit-atlas:{ours}-ray{ray}"


def check_locked(documents: list[Document]) -> None:
    """Pods have no rights, no token of Kubernetes, and a bound to what they take."""
    for pod, container in containers(documents):
        context = pod["securityContext"] | container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert pod["automountServiceAccountToken"] is False
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for amounts in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"][amounts].keys()
        folders = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
        on_disk = sum(_bytes(folder["sizeLimit"]) for folder in folders if folder.get("medium") != "Memory")
        assert on_disk < _bytes(container["resources"]["limits"]["ephemeral-storage"])


def check_no_secrets(documents: list[Document]) -> None:
    """Neither a Secret nor a value that looks like one; what is secret is named only."""
    for document in documents:
        assert document["kind"] != "Secret"
    for _, container in containers(documents):
        for variable in container.get("env", []):
            assert not (_SECRET.search(variable["name"]) and "value" in variable), variable["name"]


def parsed(entrypoint: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a command, by the real command line. Raises click.UsageError as that does."""
    program, *arguments = shlex.split(entrypoint)
    assert program == "vitatlas"
    assert not set(entrypoint) & set("&|;<>$`\n"), "KubeRay puts the entrypoint into a line of shell"
    context = cli.make_context("vitatlas", arguments)
    name, command, rest = cli.resolve_command(context, arguments)
    while isinstance(command, click.Group):
        context = command.make_context(name, rest, parent=context)
        name, command, rest = command.resolve_command(context, rest)
    assert command is not None
    return str(name), command.make_context(name, rest, parent=context).params


def check_entrypoint(documents: list[Document], folder: Path) -> None:
    """The command exists with all its flags, the ConfigMap's files are what it reads, and its places are mounted."""
    name, given = parsed(job(documents)["spec"]["entrypoint"])
    policy = specs(documents, folder)[1]
    for value in given.values():
        if isinstance(value, str) and value.startswith("/"):
            assert _mount(documents, value), f"{value}: is on no volume"
            if value.startswith(SPECS):
                assert (folder / PurePosixPath(value).name).is_file()
    if name == "run":
        spec = folder / PurePosixPath(given["spec_file"]).name
        taken = run_spec(given["places"], str(spec), {key: given[key] for key in given if key in _FLAGS})
        assert isinstance(taken, RunSpec)
        methods.resolve(taken.methods)
        for at in filter(None, (taken.model.checkpoint, taken.model.head)):
            assert _mount(documents, at), f"{at}: is on no volume"
    if name == "label":
        read_policy(str(policy))


_FLAGS = {*RunSpec.model_fields, *ModelSpec.model_fields, "artifact"} - {"shards", "artifacts", "name"}


def specs(documents: list[Document], folder: Path) -> tuple[Path, Path]:
    """The files of the ConfigMap, written into a folder: spec and policy."""
    (found,) = (document for document in documents if document["kind"] == "ConfigMap")
    for name, text in found["data"].items():
        (folder / name).write_text(text, "utf-8")
    return folder / "run.yaml", folder / "policy.yaml"


def environment(container: Document) -> dict[str, str]:
    """The variables of a container that are known: those of the image, and its own."""
    text = (K8S / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    last = text[text.rindex("FROM ") :]
    (line,) = re.findall(r"^ENV (.+)$", last, re.MULTILINE)
    image = dict(pair.split("=", 1) for pair in line.split())
    return image | {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


WRITTEN = (
    "HOME", "TMPDIR", "RAY_TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "HF_HOME", "TORCH_HOME",
    "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR",
)  # fmt: skip
"""Variables that say where something is written."""


def check_writable(documents: list[Document]) -> None:
    """Ray, the libraries and whoever asks for a temporary file write to an emptyDir."""
    for pod, container in containers(documents):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        for name in WRITTEN:
            path = PurePosixPath(environment(container)[name])
            mount = next((mounts[str(each)] for each in (path, *path.parents) if str(each) in mounts), None)
            assert mount, name
            assert "emptyDir" in volumes[mount["name"]], name
            assert not mount.get("readOnly"), name
        if container["name"] != "ray-job-submitter":
            shared = volumes[mounts["/dev/shm"]["name"]]["emptyDir"]
            assert shared["medium"] == "Memory"
            assert _bytes(shared["sizeLimit"]) <= _bytes(container["resources"]["limits"]["memory"]) / 2


def check_resumes(documents: list[Document]) -> None:
    """A job that fails is tried again in a new cluster, none waits or runs for ever, and none is left behind."""
    spec = job(documents)["spec"]
    assert spec["backoffLimit"] > 0
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert not cluster.get("enableInTreeAutoscaling")


NAMESPACE = "kubernetes.io/metadata.name"
"""Label that Kubernetes itself gives a namespace: no tenant can choose it."""
API_SERVERS = ("10.96.0.1", "10.0.0.1", "172.20.0.1", "192.168.0.1", "100.64.0.1", "fd00::1")
"""Where clusters have them."""
METADATA = ("169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "fe80::1")
"""Where clouds give out credentials."""


def check_network(documents: list[Document]) -> None:
    """All pods stand behind the NetworkPolicy: in come they and the operator, out go they, DNS, and HTTPS in public."""
    (policy,) = (document["spec"] for document in documents if document["kind"] == "NetworkPolicy")
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    ours = policy["podSelector"]["matchLabels"]
    for pod in pods(documents).values():
        assert ours.items() <= pod["metadata"]["labels"].items()
    own = {"podSelector": {"matchLabels": ours}}
    for rule in policy["ingress"]:
        for peer in _peers(rule, "from"):
            if peer != own:
                assert peer["namespaceSelector"]["matchLabels"][NAMESPACE]
                assert "kuberay-operator" in peer["podSelector"]["matchLabels"].values()
                assert _ports(rule) == {8265}
    for rule in policy["egress"]:
        for peer in _peers(rule, "to"):
            if "ipBlock" in peer:
                assert _ports(rule) == {443}
                assert not any(_within(peer["ipBlock"], address) for address in (*API_SERVERS, *METADATA))
            elif peer != own:
                assert peer["namespaceSelector"]["matchLabels"][NAMESPACE] == "kube-system"
                assert peer["podSelector"]["matchLabels"]
                assert _ports(rule) == {53}


def _peers(rule: Document, side: str) -> list[Document]:
    """Whom a rule is about; without any it would be everybody."""
    assert rule[side]
    return rule[side]


def _ports(rule: Document) -> set[int]:
    return {port["port"] for port in rule["ports"]}


def _within(block: Document, address: str) -> bool:
    where = ip_address(address)
    return where in ip_network(block["cidr"]) and not any(where in ip_network(each) for each in block["except"])


def _mount(documents: list[Document], path: str) -> bool:
    """Whether the head and all workers have a volume there."""
    within = [str(each) for each in PurePosixPath(path).parents]
    nodes = [container for _, container in containers(documents) if container["name"] != "ray-job-submitter"]
    return all(any(mount["mountPath"] in within for mount in node["volumeMounts"]) for node in nodes)


def _bytes(quantity: str) -> int:
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return int(quantity[:-2]) * units[quantity[-2:]]
