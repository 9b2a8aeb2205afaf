"""Software and hardware that maps and audit were computed with. It names no machine, person or path."""

import json
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from pipeline.store import MapReader
from pipeline.utils.redaction import public_model_name
from schemas.audit_records import EnvironmentRecord

_PACKAGES = ("vit-atlas", "torch", "timm", "numpy", "scipy", "scikit-learn", "zarr", "pyarrow")
_ARTIFACT = "artifact"
"""Option of a method that is a local file; its hash is in ``artifacts``."""


def collect_environment(atlas: MapReader) -> EnvironmentRecord:
    """Collect ``environment.json``, which is the same for all calls on one machine.

    Raises:
        RunFailedError: a commit of the atlas cannot be read.
    """
    run = atlas.run
    return EnvironmentRecord(
        audit={"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        platform=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_name(),
        gpus=_gpu_names(),
        run=run.run_hash,
        planned=run.versions,
        computed=_count_versions(atlas),
        model=public_model_name(run.model.name),
        **run.model.model_dump(include={"weights", "parameters", "classes", "input_size", "grid"}),
        **run.spec.model_dump(include={"geometry", "precision", "batch_size", "seed", "targets"}),
        methods={
            method: {name: value for name, value in options.items() if name != _ARTIFACT}
            for method, options in run.methods.items()
        },
        artifacts=run.artifacts,
        provenance=run.provenance,
    )


def _count_versions(atlas: MapReader) -> tuple[tuple[dict[str, str], int], ...]:
    """Return the versions of packages that computed shards, most shards first."""
    counts = Counter(json.dumps(record.versions, sort_keys=True) for record in atlas.records())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((json.loads(key), count) for key, count in ranked)


def _cpu_name() -> str:
    """Return the model name on Linux, and the architecture on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpu_names() -> tuple[str, ...]:
    import torch  # takes seconds, and is needed only here

    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
