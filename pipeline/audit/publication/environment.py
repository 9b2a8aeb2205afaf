"""What maps and audit were made with. Of the machine only what may change a number: no name, no person, no path."""

import json
import platform
from importlib.metadata import version
from pathlib import Path, PurePath

from pipeline.store import Atlas
from schemas.audit_records import EnvironmentRecord

_PACKAGES = ("vit-atlas", "torch", "timm", "numpy", "scipy", "scikit-learn", "zarr", "pyarrow")
_FOLDER = "local-dir:"
"""In front of the name of a model that is a folder of somebody's machine."""
_ARTIFACT = "artifact"
"""Option of a method that is a file of somebody's machine, whose hash stands elsewhere."""


def collect_environment(url: str) -> EnvironmentRecord:
    """What stands in ``environment.json``, the same whenever it is asked for on one machine.

    Raises:
        RunFailedError: a commit of the atlas cannot be read.
    """
    atlas = Atlas.open(url)
    run, spec, model = atlas.run, atlas.run.spec, atlas.run.model
    return EnvironmentRecord(
        audit={"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        platform=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        gpus=_gpus(),
        run=run.spec_hash,
        planned=run.versions,
        computed=_computed(atlas),
        model=public_model_name(model.name),
        weights=model.weights,
        parameters=model.parameters,
        classes=model.classes,
        input_size=model.input_size,
        grid=model.grid,
        geometry=spec.geometry,
        precision=spec.precision,
        batch_size=spec.batch_size,
        seed=spec.seed,
        targets=spec.targets,
        methods={
            method: {name: value for name, value in options.items() if name != _ARTIFACT}
            for method, options in run.methods.items()
        },
        artifacts=run.artifacts,
        provenance=run.provenance,
    )


def public_model_name(name: str) -> str:
    """The name of a network; of a folder, its own without those that it stands in."""
    return _FOLDER + PurePath(name.removeprefix(_FOLDER)).name if name.startswith(_FOLDER) else name


def _computed(atlas: Atlas) -> tuple[tuple[dict[str, str], int], ...]:
    """Versions of those that did shards, most shards first."""
    found: dict[str, int] = {}
    for record in atlas.records():
        key = json.dumps(record.versions, sort_keys=True)
        found[key] = found.get(key, 0) + 1
    return tuple((json.loads(key), count) for key, count in sorted(found.items(), key=lambda each: (-each[1], each[0])))


def _cpu() -> str:
    """As Linux has it; other systems say at least what it is able to do."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpus() -> tuple[str, ...]:
    import torch  # seconds, and only for this

    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
