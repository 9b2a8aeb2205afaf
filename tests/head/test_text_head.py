"""``vitatlas head text``: the mean of the prompts, and logits against open_clip and transformers in float64."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_towers import TRUNK, embed_words, fake_tower, hugging_face_folder, open_clip_folder
from some_networks import random_images
from support import images_for
from torch import Tensor, nn

from pipeline.explain import Head, UnsupportedModel, describe, explain
from pipeline.explain.checkpoint import ModelConfig, load_checkpoint
from pipeline.head.prompts import Prompts, read_templates
from pipeline.head.text_head import EMPTY_PROMPT, text_head
from pipeline.head.text_tower import TextTower
from pipeline.head.tower_parts import describe_timm
from schemas.base import sha256
from schemas.errors import UsageError
from schemas.head import HeadRecord
from schemas.text_tower import TextTowerSpec

NAMES = ("cat", "dog", "mat", "cat")
TEMPLATES = ("a photo of a {}", "the {}", "{} on a mat")


def unit(values: Tensor) -> Tensor:
    return values / values.norm(dim=-1, keepdim=True)


def test_a_class_is_the_direction_of_the_mean_of_its_unit_embeddings() -> None:
    """Radford et al. 2021, section 3.1.4. The fake tower's raw embeddings have other lengths, so order matters."""
    head = text_head(fake_tower(), Prompts.of_names(NAMES, TEMPLATES))
    for name, row in zip(NAMES, head.tensors["text"], strict=True):
        texts = [template.replace("{}", name) for template in TEMPLATES]
        expected = unit(unit(embed_words(texts)).mean(0))
        assert torch.allclose(row, expected, rtol=0, atol=1e-6)
        assert not torch.allclose(row, unit(embed_words(texts).mean(0)), rtol=0, atol=1e-3)
    assert torch.allclose(head.tensors["empty"], unit(embed_words([EMPTY_PROMPT])), atol=1e-6)
    assert head.classes == NAMES


def test_many_texts_are_embedded_in_batches_and_belong_to_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = text_head(fake_tower(), Prompts.of_names(NAMES, TEMPLATES)).tensors["text"]
    monkeypatch.setattr("pipeline.head.text_head.BATCH", 5)
    told: list[tuple[int, int]] = []
    parts = text_head(fake_tower(), Prompts.of_names(NAMES, TEMPLATES), lambda *count: told.append(count))
    assert torch.allclose(parts.tensors["text"], whole, rtol=0, atol=1e-6)
    assert told == [(5, 12), (10, 12), (12, 12)]


@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_head_file_says_where_it_is_from(sigmoid: bool, tmp_path: Path) -> None:
    head = text_head(fake_tower(sigmoid), Prompts.of_names(NAMES, TEMPLATES))
    head.save(tmp_path / "head.safetensors")
    loaded = Head.load(tmp_path / "head.safetensors")
    record = loaded.record
    assert record == head.record
    assert (record.templates, record.templates_sha256) == (TEMPLATES, sha256("\n".join(TEMPLATES).encode()))
    assert (record.text_model, record.text_model_sha256) == ("fake", "sha256:" + 64 * "0")
    assert (record.activation_function, record.mean, record.std) == ("QuickGELU", (0.5,) * 3, None)
    assert record.activation == ("sigmoid" if sigmoid else "softmax")
    assert torch.allclose(loaded.tensors["logit_scale"], torch.tensor(3.0).exp())
    assert loaded.tensors.get("logit_bias") == (torch.tensor(-4.0) if sigmoid else None)


def test_prompts_of_each_class(tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text("cat: [a cat, 'the cat: on {}']\ndog: a dog\n1: ['a mat']\nyes: |-\n  a yes\n")
    prompts = Prompts.read(str(path))
    assert prompts.classes == ("cat", "dog", "1", "yes")
    assert prompts.prompts == (("a cat", "the cat: on {}"), ("a dog",), ("a mat",), ("a yes",))
    head = text_head(fake_tower(), prompts)
    expected = unit(unit(embed_words(["a cat", "the cat: on {}"])).mean(0))
    assert torch.allclose(head.tensors["text"][0], expected, atol=1e-6)
    assert (head.record.prompts, head.record.templates) == (prompts.prompts, ())


BROKEN = {
    "a name twice": ("cat: a cat\ndog: a dog\ncat: the cat\n", "'cat' is there twice"),
    "an empty list": ("cat: []\n", "'cat' has no prompts"),
    "nothing": ("cat:\n", "'cat' has no prompts"),
    "an empty prompt": ("cat: [a cat, '']\n", "'cat': the prompt '' is empty"),
    "a blank prompt": ("cat: [a cat, '  ']\n", "'cat': the prompt '  ' is empty"),
    "an empty name": ("'': [a cat]\n", "the class name '' is empty"),
    "an escape": ('cat: ["a \\e[2J cat"]\n', r"the prompt 'a \\x1b\[2J cat' has a line break or a control character"),
    "two lines": ('cat: ["a\\ncat"]\n', "has a line break or a control character"),
    "a list": ("- cat\n", "must be a mapping of class names to prompts"),
    "an empty file": ("", "must be a mapping of class names to prompts"),
    "a mapping of mappings": ("cat: {a: b}\n", "line 1: must be a name and its prompts"),
    "a list of lists": ("dog: a dog\ncat: [[a cat]]\n", "line 2: must be a name and its prompts"),
    "itself": ("cat: &a [*a]\n", "line 1: must be a name and its prompts"),
    "no YAML": ("cat: [a\n", "is not YAML"),
    "depth": ("cat: " + "[" * 2_000, "is not YAML"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_prompt_file_is_one_sentence(case: str, tmp_path: Path) -> None:
    text, says = BROKEN[case]
    (tmp_path / "prompts.yaml").write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        Prompts.read(str(tmp_path / "prompts.yaml"))
    assert str(caught.value).isprintable()


def test_a_file_of_templates(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("a photo of a {}.\r\nthe {c} {}\n")
    assert read_templates(str(path)) == ("a photo of a {}.", "the {c} {}")
    texts = [text for _, text in Prompts.of_names(["{}", "cat"], read_templates(str(path))).texts()]
    assert texts == ["a photo of a {}.", "the {c} {}", "a photo of a cat.", "the {c} cat"]
    for text, says in {
        "a cat\n": "line 1: 'a cat' must have {} once",
        "{} and {}\n": "must have {} once",
        "a {}\n\nthe {}\n": "line 2: the template '' is empty",
        "a \x1b[2J{}\n": "control character",
    }.items():
        path.write_text(text)
        with pytest.raises(UsageError, match=says.replace("{", r"\{")) as caught:
            read_templates(str(path))
        assert str(caught.value).isprintable()
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not text in UTF-8"):
        read_templates(str(path))
    with pytest.raises(UsageError, match="there are no such templates; did you mean openai"):
        read_templates("opnai")
    with pytest.raises(UsageError, match="there are no such templates; name a file, or openai or simple"):
        read_templates(str(tmp_path / "none"))


def test_a_prompt_that_is_too_long_is_named_with_its_class() -> None:
    with pytest.raises(
        UsageError, match=r"^'mat on a dog': the prompt 'a photo .* has 8 tokens, and the text tower reads 7"
    ):
        text_head(fake_tower(context=7), Prompts.of_names(("cat", "mat on a dog"), ("a photo of the {}", "{}")))


def test_ready_made_templates_are_those_of_open_clip() -> None:
    open_clip = pytest.importorskip("open_clip")
    for name, count, functions in (
        ("openai", 80, open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("simple", 7, open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        templates = read_templates(name)
        assert len(templates) == count
        texts = [text for _, text in Prompts.of_names(["zebra crossing"], templates).texts()]
        assert texts == [function("zebra crossing") for function in functions]


def in_double(folder: Path, library: str) -> TextTower:
    """A tower that computes in float64, so that only rounding differs."""
    name = f"local-dir:{folder}" if library == "open_clip" else str(folder)
    tower = TextTower.load(TextTowerSpec(library=library, name=name))  # type: ignore[arg-type]
    tower._parts.model.double()
    return tower


SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}


def twin(weights: Path, architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """The image tower of a file as timm's network, in float64."""
    network, _ = load_checkpoint(ModelConfig(architecture=architecture, model_args=arguments), str(weights), None)
    return network.double().eval()


OPEN_CLIP: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "CLIP": ({}, "vit_base_patch16_clip_quickgelu_224", SHAPE),
    "SigLIP": ({"siglip": True}, "test_vit3", {}),
    "projection of open_clip behind a trunk": ({"vision_cfg": TRUNK}, "test_vit", {}),
    "ConvNeXt": ({"vision_cfg": TRUNK | {"timm_model_name": "test_convnext", "timm_pool": ""}}, "test_convnext", {}),
    "ResNet": ({"vision_cfg": TRUNK | {"timm_model_name": "test_resnet", "timm_pool": ""}}, "test_resnet", {}),
}


@pytest.mark.parametrize("kind", OPEN_CLIP)
def test_logits_are_those_of_open_clip(kind: str, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    options, architecture, arguments = OPEN_CLIP[kind]
    folder = tmp_path / "model"
    model = open_clip_folder(folder, **options).double()
    head = text_head(in_double(folder, "open_clip"), Prompts.of_names(NAMES, TEMPLATES))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    classifier = open_clip.build_zero_shot_classifier(model, tokenizer, NAMES, TEMPLATES)
    assert (head.tensors["text"] - classifier.T).abs().max() <= 1e-12
    network = twin(folder / "open_clip_model.safetensors", architecture, arguments)
    images = random_images(3, describe(head.attach(copy.deepcopy(network))).input_size)
    siglip = kind == "SigLIP"
    with torch.no_grad():
        cosines = model.encode_image(images, normalize=True) @ classifier
        expected = model.logit_scale.exp() * cosines + (model.logit_bias if siglip else 0)
        computed = head.attach(network)(images)
    assert expected.std() > 0.5
    assert (computed - expected).abs().max() <= 1e-9
    assert head.record.activation == ("sigmoid" if siglip else "softmax")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("architecture", ["test_convnext", "test_resnet"])
def test_logits_of_a_convolutional_tower_are_its_image_features_times_the_texts(
    architecture: str, bias: bool, tmp_path: Path
) -> None:
    """The tensors of a whole model as open_clip names them, with a trunk of timm and a projection behind its mean."""
    torch.manual_seed(0)
    trunk: Any = timm.create_model(architecture, num_classes=0).double().eval()
    projection = nn.Linear(trunk.num_features, 24, bias).double()
    weights = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    weights |= {f"visual.head.proj.{name}": tensor.detach() for name, tensor in projection.state_dict().items()}
    path = str(tmp_path / "model.safetensors")
    save_file(weights | {"logit_scale": torch.tensor(3.0), "text_projection": torch.zeros(8, 24)}, path)
    network, conversion = load_checkpoint(ModelConfig(architecture=architecture), path, None)
    assert conversion is not None
    assert conversion.layout == "open_clip with a timm trunk"
    with pytest.raises(UnsupportedModel, match="projects into an embedding space of 24 channels"):
        describe(network)
    side = describe_timm(trunk, "tower")
    assert (side.read_out, side.width, side.projection) == ("mean", trunk.num_features, "none")
    texts, images = unit(torch.randn(3, 24).double()), random_images(2, (160, 160))
    expected = 20 * unit(projection(trunk(images))) @ texts.T
    own = {"projection": projection.weight.detach()} | ({"projection_bias": projection.bias.detach()} if bias else {})
    fields: dict[str, Any] = {"kind": "zero_shot", "classes": ("cat", "dog", "mat"), "read_out": "mean"}
    fields |= {"input_width": side.width, "normalise": "l2"}
    for kind, tensors in (("tensor", own), ("backbone head.weight", {})):  # of the head file, or of the checkpoint
        tensors = tensors | {"text": texts, "logit_scale": torch.tensor(20.0)}
        model = load_checkpoint(ModelConfig(architecture=architecture), path, None)[0].double().eval()
        model = Head(HeadRecord(**fields, projection=kind), tensors).attach(model)
        assert torch.allclose(model(images), expected, rtol=1e-9, atol=1e-9)
        described = describe(model)
        assert (described.readout, described.has_linear_readout, described.classes) == ("mean", False, 3)
        assert explain(model, images, 1, "reciprocam")["reciprocam"].isfinite().all()


def test_a_tower_that_pools_by_attention_can_have_no_head() -> None:
    trunk = timm.create_model("test_vit3", global_pool="")
    with pytest.raises(UsageError, match="tower: its image tower, VisionTransformer, reads out nothing"):
        describe_timm(trunk, "tower")
    with torch.device("meta"):
        trunk = timm.create_model("resnet50_clip", num_classes=0)
    with pytest.raises(UsageError, match="tower: its image tower cannot have a head: ByobNet can have no head file"):
        describe_timm(trunk, "tower")


@pytest.mark.parametrize("siglip", [False, True])
def test_logits_are_those_of_transformers(siglip: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "model"
    model = hugging_face_folder(folder, siglip).double()
    texts = ["a photo of a cat", "the dog on the mat", "mat"]
    head = text_head(in_double(folder, "hugging_face"), Prompts.of_names(texts))
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding="max_length", max_length=16)
    architecture = "vit_base_patch32_siglip_256" if siglip else "vit_base_patch16_clip_quickgelu_224"
    network = twin(folder / "model.safetensors", architecture, SHAPE)
    images = images_for(network)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(tokens["input_ids"]), pixel_values=images).logits_per_image
        computed = head.attach(network)(images)
    assert expected.std() > 0.1
    assert (computed - expected).abs().max() <= 1e-9
    assert describe(network).classes == 3


def test_the_command_from_files_to_a_network_that_names_its_logits(vitatlas, tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    folder = tmp_path / "model"
    open_clip_folder(folder)
    (tmp_path / "names.txt").write_text("cat\ndog\ncat\n")
    given = ["--open-clip", f"local-dir:{folder}", "--classes", tmp_path / "names.txt", "--out", tmp_path / "head.st"]
    code, printed, err = vitatlas("head", "text", *given, "--templates", "simple")
    assert code == 0, err
    assert "21 texts embedded by model of open_clip" in printed
    assert "token of tokens of width 32, of a tower with QuickGELU" in printed
    assert "1 class names occur before" in err
    model = Head.load(tmp_path / "head.st").attach(twin(folder / "open_clip_model.safetensors", *OPEN_CLIP["CLIP"][1:]))
    assert model.head.classes == ("cat", "dog", "cat")
    code, printed, err = vitatlas("head", "text", *given, "--json")
    assert (code, json.loads(printed)["classes"]) == (0, 3)
    assert Head.load(tmp_path / "head.st").record.prompts == (("cat",), ("dog",), ("cat",))


def test_mistakes_of_the_command(vitatlas, tmp_path: Path) -> None:
    (tmp_path / "prompts.yaml").write_text("cat: [a cat]\n")
    (tmp_path / "names.txt").write_text("cat\n\x1b[2J\n")
    out = ["--out", tmp_path / "head.st"]
    for given, says in (
        ([tmp_path / "prompts.yaml", "--templates", "openai", *out], "has whole prompts; leave out --templates openai"),
        ([tmp_path / "PROMPTS.YAML", "--templates", "openai", *out], "has whole prompts"),
        ([tmp_path / "prompts.yaml", *out], "name one text tower: --open-clip NAME --weights FILE, or --hugging-face"),
        ([tmp_path / "names.txt", *out], r"line 2: '\x1b[2J' is not a class name"),
        ([tmp_path / "none.txt", *out], "none.txt: No such file"),
    ):
        code, _, err = vitatlas("head", "text", "--classes", *given)
        assert (code, says in err, "\x1b" in err) == (2, True, False)
    assert not (tmp_path / "head.st").exists()
