"""What others may build on: names that are declared, with words and types. Changing one changes the contract."""

import importlib
import inspect
from collections.abc import Iterator
from importlib.resources import files

import pytest

from pipeline.explain import methods

PUBLIC = {
    "pipeline.explain": """
        Anatomy Flag Head MapBatch Method Network Registers UnsupportedMethod UnsupportedModel as_timm describe explain
        flags methods overlay prepare
    """
    + " ".join(method.__name__ for method in methods.values()),
    "pipeline.store": "Atlas AtlasShard Lease MapDataset MapReader ObjectStore ShardMaps ShardWriter",
    "pipeline.run": "ExecutionOptions INLINE run",
    "pipeline.truth": "Truth TruthMatcher TruthSet read_masks read_truth",
    "pipeline.label": """
        BoxDataset CalibrationSource ImportSummary LABEL_FORMATS LabelSummary MaskDataset MaskSample import_masks
        iter_labels label read_labels read_policy
    """,
    "pipeline.score": "MaskScores default_output_dir open_source score score_classes score_masks",
    "pipeline.metrics": "FAITHFULNESS METRICS SANITY SUITES evaluate_metrics",
    "schemas.errors": """
        AtlasError CorruptShardError RunFailedError ShardReplacedError SpecMismatchError StoppedEarlyError
        UnsupportedMethod UnsupportedModel UsageError
    """,
}
"""Names that stay, by the module that hands them out."""

NAMED = [(module, name) for module, names in PUBLIC.items() for name in names.split()]


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_hands_out_just_these_names(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == sorted(PUBLIC[module].split())


def said() -> Iterator[tuple[str, str | None, object]]:
    """Public functions and classes, and the public methods of these, with their docstrings.

    A method's may stand where it was declared: in the base class.
    """
    for module, name in NAMED:
        value = getattr(importlib.import_module(module), name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        yield f"{module}.{name}", inspect.getdoc(value), value
        for inner, method in vars(value).items() if inspect.isclass(value) else ():
            function = getattr(method, "__func__", getattr(method, "fget", method))
            ours = inspect.isfunction(function) and function.__module__.startswith("pipeline.")
            if ours and not inner.startswith("_"):
                yield f"{module}.{name}.{inner}", inspect.getdoc(getattr(value, inner)), function


@pytest.mark.parametrize(("name", "words", "value"), [pytest.param(*each, id=each[0]) for each in said()])
def test_a_public_name_has_words_and_types(name: str, words: str | None, value: object) -> None:
    assert words
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        untyped = [each.name for each in signature.parameters.values() if each.annotation is inspect.Parameter.empty]
        assert set(untyped) <= {"self", "cls"}
        assert signature.return_annotation is not inspect.Signature.empty


def test_the_registry_has_the_methods_that_users_import_by_class() -> None:
    promised = {"LeGrad", "ReciproCAM", "AGCAM", "IntegratedGradients", "DiffMask", "PatchMask"}
    assert promised <= {method.__name__ for method in methods.values()}


@pytest.mark.parametrize("package", ["pipeline", "jobs", "schemas"])
def test_its_types_are_there_for_others(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()
