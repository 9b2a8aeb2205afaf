"""The part of kustomize that ``k8s/`` uses, for where there is no kubectl.

Resources and components, files and folders; patches of RFC 6902, by kind and name.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "resources", "components", "patches"}


def render(folder: Path) -> list[Document]:
    """The documents of a kustomization. Raises ValueError on what this renderer does not know."""
    return _apply(folder.resolve(), [])


def kubectl(folder: Path) -> list[Document]:
    """The same by kubectl."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def rendered(folder: Path) -> list[Document]:
    """By kubectl where there is one."""
    return kubectl(folder) if shutil.which("kubectl") else render(folder)


def _apply(folder: Path, documents: list[Document]) -> list[Document]:
    """What a kustomization makes of the documents in front of it: none for a base, all so far for a component."""
    content = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    if unknown := content.keys() - _KNOWN:
        raise ValueError(f"{folder}: {', '.join(sorted(unknown))} is not rendered here")
    for name in content.get("resources", []):
        path = folder / name
        documents = documents + (render(path) if path.is_dir() else _read(path))
    for name in content.get("components", []):
        documents = _apply((folder / name).resolve(), documents)
    for patch in content.get("patches", []):
        documents = _patched(documents, patch["target"], yaml.safe_load(patch["patch"]))
    return documents


def _read(path: Path) -> list[Document]:
    # Through JSON: what an anchor names is a copy of its own, as with kubectl.
    return [json.loads(json.dumps(each)) for each in yaml.safe_load_all(path.read_text("utf-8"))]


def _patched(documents: list[Document], target: dict[str, str], patch: Any) -> list[Document]:
    chosen = [document for document in documents if _is(document, target)]
    if isinstance(patch, dict):
        raise ValueError(f"{target}: only patches of RFC 6902 are rendered here")
    for document in chosen:
        for operation in json.loads(json.dumps(patch)):
            _change(document, operation)
    return documents


def _is(document: Document, target: dict[str, str]) -> bool:
    there = {"kind": document["kind"], "name": document["metadata"]["name"]}
    return all(there[key] == value for key, value in target.items())


def _change(document: Document, operation: dict[str, Any]) -> None:
    """One operation of RFC 6902, in place."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place: Any = document
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    match operation["op"], place:
        case "add", list():
            place.insert(len(place) if last == "-" else int(last), operation["value"])
        case "replace", list():
            place[int(last)] = operation["value"]
        case "replace", dict() if last not in place:
            raise ValueError(f"{operation['path']}: there is nothing to be replaced")
        case "add" | "replace", dict():
            place[last] = operation["value"]
        case _:
            raise ValueError(f"{operation}: is not rendered here")
