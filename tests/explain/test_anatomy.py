"""Model families: those that are registered are supported, and only those."""

import pytest
from support import FAMILIES, small_vit

from pipeline.explain import UnsupportedModel, anatomy, describe

CLASSES = [(table, name) for table in ("SUPPORTED_BLOCKS", "SUPPORTED_ATTENTIONS") for name in getattr(anatomy, table)]


@pytest.mark.parametrize(("table", "name"), CLASSES)
def test_a_class_name_is_all_that_a_family_needs(table: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = getattr(anatomy, table)[name]
    model = small_vit(example)
    block = model.blocks[0]
    assert type(block if table == "SUPPORTED_BLOCKS" else block.attn).__name__ == name
    assert example in {options.get("name", "vit_tiny_patch16_224") for options in FAMILIES.values()}
    describe(model)
    monkeypatch.delitem(getattr(anatomy, table), name)
    with pytest.raises(UnsupportedModel, match=r"is not a pre-norm block|which is not softmax attention"):
        describe(model)
