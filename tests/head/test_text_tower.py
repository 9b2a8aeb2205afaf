"""Text towers of open_clip and transformers, against these libraries, with small random models in folders."""

import json
import shutil
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_towers import (
    CLIP_MEAN,
    CLIP_STD,
    CONTEXT,
    EMBEDDING,
    TOWER,
    TRUNK,
    fake_tower,
    hugging_face_folder,
    open_clip_folder,
)

from pipeline.head.text_tower import TextTower
from schemas.errors import UsageError
from schemas.text_tower import TextTowerSpec

TEXTS = ["a cat", "a photo of the dog on a mat", "the mat"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails at the first connection or name lookup."""

    def refuse(*given: Any, **more: Any) -> None:
        raise AssertionError(f"the network was used: {given}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def spec_of(folder: Path, library: str) -> TextTowerSpec:
    return TextTowerSpec(library=library, name=f"local-dir:{folder}" if library == "open_clip" else str(folder))  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_network")
def test_a_tower_of_open_clip_embeds_as_the_library_does(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    model = open_clip_folder(tmp_path / "clip")
    tower = TextTower.load(spec_of(tmp_path / "clip", "open_clip"))
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'clip'}")(TEXTS)
        expected = model.encode_text(tokens, normalize=True)
    computed = tower.embed(TEXTS)
    assert (computed.dtype, computed.shape) == (torch.float32, (3, EMBEDDING))
    assert torch.allclose(computed, expected, rtol=0, atol=1e-6)
    assert torch.allclose(tower.logit_scale, model.logit_scale.exp())
    assert (tower.logit_bias, tower.activation, tower.context) == (None, "softmax", CONTEXT)
    side = tower.image_side
    assert (side.read_out, side.width, side.projection) == ("token", 32, "backbone head.weight")
    assert (side.activation_function, side.mean, side.std) == ("QuickGELU", tuple(CLIP_MEAN), tuple(CLIP_STD))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("siglip", [False, True])
def test_a_tower_of_transformers_embeds_as_the_library_does(siglip: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = hugging_face_folder(tmp_path / "model", siglip)
    tower = TextTower.load(spec_of(tmp_path / "model", "hugging_face"))
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")(
        TEXTS, padding="max_length", max_length=CONTEXT, return_tensors="pt"
    )
    with torch.no_grad():
        output = model.get_text_features(input_ids=tokens.input_ids)
    expected = getattr(output, "pooler_output", output)
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert torch.allclose(tower.embed(TEXTS), expected, rtol=0, atol=1e-6)
    assert torch.allclose(tower.logit_scale, model.logit_scale.exp().reshape(()))
    assert tower.activation == ("sigmoid" if siglip else "softmax")
    assert tower.logit_bias is None or float(tower.logit_bias.detach()) == -2.5
    side = tower.image_side
    read_out, projection = ("pool", "none") if siglip else ("token", "backbone head.weight")
    assert (side.read_out, side.width, side.projection) == (read_out, 32, projection)
    mean = (0.5,) * 3 if siglip else tuple(CLIP_MEAN)
    assert (side.activation_function, side.mean) == ("GELUTanh" if siglip else "QuickGELU", mean)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("siglip", [False, True])
def test_a_text_may_be_as_long_as_the_context_and_no_longer(siglip: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    hugging_face_folder(tmp_path / "model", siglip)
    tower = TextTower.load(spec_of(tmp_path / "model", "hugging_face"))
    longest = CONTEXT - (1 if siglip else 2)
    assert tower.fault("cat " * longest) is None
    assert tower.embed(["cat " * longest]).shape[0] == 1
    with pytest.raises(UsageError, match=f"^'dog dog .* has {CONTEXT + 1} tokens, and the text tower reads {CONTEXT}"):
        tower.embed(["cat", "dog " * (longest + 1)])


@pytest.mark.usefixtures("no_network")
def test_the_tokenizer_of_clip_counts_its_tokens(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    open_clip_folder(tmp_path / "clip")
    tower = TextTower.load(spec_of(tmp_path / "clip", "open_clip"))
    tokens = open_clip.get_tokenizer("ViT-B-32")(["indistinguishable"], context_length=77)
    pieces = int((tokens != 0).sum()) - 2
    assert pieces > 1
    words = (CONTEXT - 2) // pieces
    assert tower.fault("indistinguishable " * words) is None
    assert f"has {(words + 1) * pieces + 2} tokens" in str(tower.fault("indistinguishable " * (words + 1)))


def test_an_empty_text_is_refused() -> None:
    for text in ("", " ", "\n"):
        with pytest.raises(UsageError, match="is empty"):
            fake_tower().embed(["a cat", text])
    with pytest.raises(UsageError, match="no text to embed"):
        fake_tower().embed([])


def test_a_text_in_an_error_is_escaped_and_short() -> None:
    with pytest.raises(UsageError) as caught:
        fake_tower(context=3).embed(["\x1b[2J " * 100])
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_embeddings_that_are_not_finite_are_refused() -> None:
    fake = fake_tower()
    parts = replace(fake._parts, encode=lambda texts: torch.full((len(texts), 4), torch.nan))
    with pytest.raises(UsageError, match="not finite; its weights are damaged"):
        TextTower(fake.spec, parts).embed(["a"])


@pytest.mark.parametrize("library", ["open_clip", "hugging_face"])
def test_a_spec_in_json_names_the_same_tower_until_a_file_changes(library: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip" if library == "open_clip" else "transformers")
    folder = tmp_path / "model"
    (open_clip_folder if library == "open_clip" else hugging_face_folder)(folder)
    tower = TextTower.load(spec_of(folder, library))
    spec = TextTowerSpec.read(tower.spec.to_bytes(), "run.json")
    assert spec == tower.spec
    assert spec.sha256.startswith("sha256:")
    assert torch.equal(TextTower.load(spec).embed(TEXTS), tower.embed(TEXTS))
    (folder / "README.md").write_text("changes nothing")
    assert TextTower.load(spec).spec == spec
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    assert TextTower.load(spec_of(moved, library)).spec.sha256 == spec.sha256
    weights = next(folder.glob("*.safetensors"))
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(UsageError, match="files have changed since the tower was used first"):
        TextTower.load(spec)


@pytest.mark.usefixtures("no_network")
def test_an_architecture_with_a_weights_file(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    path = tmp_path / "weights.safetensors"
    save_file({"logit_scale": torch.ones(())}, path)
    with pytest.raises(UsageError, match=r"is not a checkpoint of ViT-S-32-alt of open_clip: \d+ tensors are missing"):
        TextTower.load(TextTowerSpec.of_flags("ViT-S-32-alt", str(path), None))
    with pytest.raises(UsageError, match="no architecture 'ViT-S-32-alr'; did you mean ViT-S-32-alt"):
        TextTower.load(TextTowerSpec.of_flags("ViT-S-32-alr", str(path), None))
    with pytest.raises(UsageError, match="open_clip has no architecture 'hf-hub:org/name'"):
        TextTower.load(TextTowerSpec.of_flags("hf-hub:org/name", str(path), None))
    model = open_clip.CLIP(**open_clip.get_model_config("ViT-S-32-alt"))
    torch.save(
        {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}},
        f"{path}.pt",
    )
    tower = TextTower.load(TextTowerSpec.of_flags("ViT-S-32-alt", f"{path}.pt", None))
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(TEXTS), normalize=True)
    assert torch.allclose(tower.embed(TEXTS), expected, rtol=0, atol=1e-6)


def broken(folder: Path, **changes: Any) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"] |= changes
    path.write_text(json.dumps(config))


@pytest.mark.usefixtures("no_network")
def test_what_open_clip_cannot_load_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    folder = tmp_path / "clip"
    open_clip_folder(folder)
    text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    cases = [
        ({"text_cfg": {**text, "hf_tokenizer_name": "org/name"}}, "put its files (there|into)"),
        ({"text_cfg": {**text, "tokenizer_kwargs": {"reduction_mask": "syntax"}}}, "leaves out words"),
        ({"text_cfg": {**text, "hf_model_name": "xlm-roberta-base"}}, "only CLIP and SigLIP are supported"),
        ({"text_cfg": {**text, "width": 40}}, "is not a checkpoint of"),
        ({"text_cfg": {**text, "wdth": 40}}, "open_clip cannot build it"),
        ({"text_cfg": 3}, "is not a config of open_clip"),
    ]
    for change, says in cases:
        broken(folder, **change)
        with pytest.raises(UsageError, match=says) as caught:
            TextTower.load(spec_of(folder, "open_clip"))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(UsageError, match="name a folder as open_clip saves it"):
        TextTower.load(spec_of(folder, "open_clip"))


@pytest.mark.usefixtures("no_network")
def test_a_tokenizer_on_the_hub_is_not_fetched(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    save_file({"logit_scale": torch.ones(())}, tmp_path / "weights.safetensors")
    spec = TextTowerSpec.of_flags("ViT-B-16-SigLIP", str(tmp_path / "weights.safetensors"), None)
    with pytest.raises(UsageError, match=r"its tokenizer timm/ViT-B-16-SigLIP is not on this machine .* hf download"):
        TextTower.load(spec)


@pytest.mark.usefixtures("no_network")
def test_what_transformers_cannot_load_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "model"
    hugging_face_folder(folder)

    def refusal() -> str:
        with pytest.raises(UsageError) as caught:
            TextTower.load(spec_of(folder, "hugging_face"))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights = load_file(folder / "model.safetensors")
    save_file({name: weights[name] for name in sorted(weights)[2:]}, folder / "model.safetensors", {"format": "pt"})
    assert "its weights are not of a whole CLIPModel" in refusal()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "tokenizer.json").rename(folder / "none")
    assert "has no tokenizer" in refusal()
    (folder / "tokenizer_config.json").unlink()
    assert "has no tokenizer that knows words; put its files there" in refusal()
    (folder / "none").rename(folder / "tokenizer.json")
    (folder / "adapter_config.json").write_text("{}")
    assert "has an adapter; merge it" in refusal()
    (folder / "adapter_config.json").unlink()
    (folder / "model.safetensors").unlink()
    assert "transformers cannot load it" in refusal()
    (folder / "config.json").write_text('{"model_type": "vit"}')
    assert "is a model of the type 'vit'; only clip, siglip" in refusal()
    (folder / "config.json").unlink()
    assert "no such file; name a folder as save_pretrained" in refusal()


def test_flags_that_name_no_tower_or_two_are_refused(tmp_path: Path) -> None:
    for flags in [(None, None, None), ("ViT-B-32", "w.pt", "folder")]:
        with pytest.raises(UsageError, match="name one text tower: --open-clip NAME --weights FILE, or --hugging-face"):
            TextTowerSpec.of_flags(*flags)
    with pytest.raises(UsageError, match="ViT-B-32 has no weights; give them with --weights FILE"):
        TextTowerSpec.of_flags("ViT-B-32", None, None)
    with pytest.raises(UsageError, match="has its own weights; leave out --weights"):
        TextTowerSpec.of_flags(None, "w.pt", "folder")
    with pytest.raises(UsageError, match="none: No such file or directory"):
        TextTower.load(TextTowerSpec.of_flags(None, None, str(tmp_path / "none")))


@pytest.mark.parametrize("library", ["open_clip", "hugging_face"])
def test_a_missing_package_is_one_sentence(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open_clip", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"need a missing package; pip install 'vit-atlas\[clip\]'"):
        TextTower.load(spec_of(tmp_path, library))


CONVOLUTIONS = TRUNK | {"timm_model_name": "test_resnet", "timm_pool": "avg"}
SIDES: dict[str, tuple[dict[str, Any], tuple[str, int, str]]] = {
    "mean, as CLIPA": (
        {"vision_cfg": TOWER | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}},
        ("mean", 32, "backbone head.weight"),
    ),
    "projection of open_clip behind a trunk": ({"vision_cfg": TRUNK}, ("token", 64, "tensor")),
    "projection of the trunk": ({"vision_cfg": TRUNK | {"timm_proj": None}}, ("token", 64, "backbone head.weight")),
    "a mean of convolutions": ({"vision_cfg": CONVOLUTIONS}, ("mean", 96, "tensor")),
    "no projection": ({"vision_cfg": TRUNK | {"timm_proj": "none"}, "embed_dim": 64}, ("token", 64, "none")),
}
REFUSED = {
    "a ResNet": (TOWER | {"layers": [1, 1, 1, 1], "head_width": 64, "width": 64}, "ModifiedResNet, is neither a plain"),
    "the pooler of CoCa": (
        TOWER | {"attentional_pool": True, "attn_pooler_heads": 4},
        "is neither a plain vision transf",
    ),
    "two layers": (TRUNK | {"timm_proj": "mlp"}, "projects by mlp; a head has one linear layer"),
    "a maximum": (CONVOLUTIONS | {"timm_pool": "max"}, "ResNet can have no head file: its classifier does not read"),
}


@pytest.mark.parametrize("case", SIDES)
def test_the_image_tower_beside_it_is_described(case: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    changes, expected = SIDES[case]
    model = open_clip_folder(tmp_path / "clip", **changes)
    side = TextTower.load(spec_of(tmp_path / "clip", "open_clip")).image_side
    assert (side.read_out, side.width, side.projection) == expected
    if side.projection == "tensor":
        assert torch.equal(side.tensors["projection"], model.visual.head.proj.weight)


@pytest.mark.parametrize("case", REFUSED)
def test_a_tower_whose_images_no_head_is_for_still_embeds_texts(case: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    vision, says = REFUSED[case]
    open_clip_folder(tmp_path / "clip", vision_cfg=vision)
    tower = TextTower.load(spec_of(tmp_path / "clip", "open_clip"))
    assert tower.embed(TEXTS).shape == (3, EMBEDDING)
    with pytest.raises(UsageError, match=says):
        _ = tower.image_side


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("library", ["open_clip", "hugging_face"])
def test_files_of_a_stranger_run_no_code(library: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip" if library == "open_clip" else "transformers")
    folder, sprung = tmp_path / "model", tmp_path / "sprung"
    (open_clip_folder if library == "open_clip" else hugging_face_folder)(folder)
    weights = next(folder.glob("*.safetensors"))
    pickled = "open_clip_pytorch_model.bin" if library == "open_clip" else "pytorch_model.bin"
    torch.save(load_file(weights) | {"trap": Trap(sprung)}, folder / pickled)
    weights.unlink()
    with pytest.raises(UsageError) as caught:
        TextTower.load(spec_of(folder, library))
    assert not sprung.exists()
    assert "\n" not in str(caught.value)


def test_the_code_of_a_folder_is_not_imported(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder, sprung = tmp_path / "model", tmp_path / "sprung"
    hugging_face_folder(folder)
    (folder / "trap.py").write_text(f"open({str(sprung)!r}, 'w')\nclass Trap: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "trap.Trap", "AutoModel": "trap.Trap"}
    (folder / "config.json").write_text(json.dumps(config))
    assert TextTower.load(spec_of(folder, "hugging_face")).embed(TEXTS).shape[0] == 3
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["trap.Trap", "trap.Trap"]}}
    path.write_text(json.dumps(content | {"tokenizer_class": "Trap"}))
    with suppress(UsageError):  # or transformers takes the class that tokenizer.json is for
        TextTower.load(spec_of(folder, "hugging_face"))
    assert not sprung.exists()
