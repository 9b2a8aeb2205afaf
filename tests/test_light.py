"""A command loads no package that it does not need, so that reading, labelling, scoring and verifying wait for none."""

import subprocess
import sys

import pytest

NETWORK = {"torch", "timm", "torchvision", "transformers"}
PLOTS = {"matplotlib", "pandas"}
STATISTICS = {"scipy.stats", "scipy.optimize", "scipy.ndimage", "scipy.cluster", "sklearn"}
TABLES = {"numpy", "pyarrow", "zarr", "scipy", "cv2"}
STATUS = "jobs.status, pyarrow.compute, pipeline.store.label_accuracy, pipeline.store.versions"
LABEL = (
    "jobs.label, pipeline.label.label_atlas, pipeline.label.calibrate, pipeline.truth, pipeline.store.label_accuracy"
)
SCORE = "jobs.score, pipeline.score, pipeline.score.score_classes, pipeline.truth, pipeline.store.label_accuracy"
VERIFY = "jobs.verify, pipeline.audit.verify_products, pipeline.store.verify"
RUN = "jobs.run, pipeline.run.driver, pipeline.run.ray_executor"


@pytest.mark.parametrize(
    ("modules", "unneeded"),
    [
        ("pipeline.explain", {"ray", "zarr", "pyarrow", "cv2", "scipy"} | PLOTS),
        (STATUS, {"ray", "cv2"} | NETWORK | PLOTS | STATISTICS),
        (LABEL, {"ray"} | NETWORK | PLOTS | STATISTICS),
        (SCORE, {"ray"} | NETWORK | PLOTS | STATISTICS),
        (VERIFY, {"ray"} | NETWORK | PLOTS | STATISTICS),
        (RUN, NETWORK | PLOTS | STATISTICS),
        ("pipeline.audit.audit_atlas", {"ray"} | NETWORK),
        ("jobs.cli", {"pydantic", "rich"} | TABLES | NETWORK),
        (
            "jobs.audit, jobs.label, jobs.plan, jobs.run, jobs.score, jobs.status, jobs.train, jobs.verify",
            TABLES | NETWORK,
        ),
    ],
)
def test_nothing_loads_a_package_that_it_does_not_need(modules: str, unneeded: set[str]) -> None:
    code = f"import sys, {modules}; print(*sorted({unneeded} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""
