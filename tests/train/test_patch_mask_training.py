"""The network's own classifier learns to answer at each patch, and stays the network that it was."""

import copy

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from support import images_for, small_vit
from torch import nn

from pipeline.explain import describe, explain
from pipeline.explain.load import describe_loaded
from pipeline.explain.network_trace import gather_class_values
from pipeline.explain.readout import PatchReadout, classifier_logits
from pipeline.read import PreprocessConfig
from pipeline.train.masked_images import BOXED, MASKED, UNKNOWN, MaskedImages
from pipeline.train.patch_mask_training import PatchMaskTraining, patch_loss, sample_absent_classes
from schemas.training import PatchMaskSettings

GRID = (6, 6)


def training(model: nn.Module, steps: int = 100, **settings: object) -> PatchMaskTraining:
    loaded = describe_loaded("small", model)
    frame = PreprocessConfig.for_model(loaded.record, "squash")
    quick = {"warmup_steps": 0, "min_crop_area": 1.0, "weight_decay": 0.0, "layer_decay": 1.0, "learning_rate": 3e-3}
    return PatchMaskTraining(loaded, PatchMaskSettings(**(quick | settings)), steps, (frame, frame))  # type: ignore[arg-type]


def pictures(count: int = 4, seed: int = 0) -> MaskedImages:
    """A bright block on noise in each, the class by its colour; planes say where."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (count, 3, 48, 48), dtype=np.uint8)
    planes = np.zeros((count, 2, 48, 48), np.uint8)
    for place in range(count):
        y, x = 8 * rng.integers(0, 4, 2)
        pixels[place, place % 3, y : y + 24, x : x + 16] = 255
        planes[place, 0, y : y + 24, x : x + 16] = 255
    return MaskedImages(pixels, np.arange(count) % 3, planes, np.full(count, MASKED))


def loss_of(logits: torch.Tensor, **change: object) -> torch.Tensor:
    count = len(logits)
    content = {
        "covered": torch.zeros(logits.shape[:2], dtype=torch.float64),
        "valid": torch.ones(logits.shape[:2], dtype=torch.bool),
        "mask_kinds": torch.full((count,), MASKED),
        "negative_weight": 0.25,
        "grid": GRID,
    }
    negatives = change.pop("negatives", torch.zeros(count, 0, dtype=torch.int64))
    absent = gather_class_values(logits, negatives)  # type: ignore[arg-type]
    return patch_loss(logits[..., 0], absent, **(content | change))  # type: ignore[arg-type]


def random_logits(count: int = 3) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(count, 36, 5, dtype=torch.float64, requires_grad=True)


def test_reading_patches_changes_nothing_of_the_image(family: nn.Module) -> None:
    images = images_for(family)
    with torch.no_grad():
        logits, patches = PatchReadout(family, describe(family))(images)
        assert torch.equal(logits, family(images))
    assert patches.shape == (3, describe(family).patches, 10)


def test_a_patch_alone_reads_as_it_does_among_all(family: nn.Module) -> None:
    """A loop over single tokens through norm, pooler and classifier."""
    anatomy, images = describe(family), images_for(family, 1)
    tokens = []
    handle = family.blocks[-1].register_forward_hook(lambda module, args, output: tokens.append(output))
    with torch.no_grad():
        patches = PatchReadout(family, anatomy)(images)[1][0]
        handle.remove()
        for place, token in enumerate(tokens[0][0, anatomy.patch_tokens]):
            vector = family.norm(token[None, None])
            vector = family.attn_pool(vector) if anatomy.readout == "pool" else vector[:, 0]
            both = anatomy.readout == "token+mean"
            features = torch.cat([vector, vector], 1) if both else family.fc_norm(vector)
            alone = classifier_logits(family, features)[0]
            assert torch.allclose(alone, patches[place], atol=1e-12)


def test_the_gradient_is_probability_minus_share() -> None:
    logits = random_logits(1)
    covered = torch.rand(1, 36, dtype=torch.float64)
    loss_of(logits, covered=covered).backward()
    expected = (logits[0, :, 0].sigmoid() - covered[0]) / 36
    assert torch.allclose(logits.grad[0, :, 0], expected, atol=1e-12)
    assert not logits.grad[0, :, 1:].any()


def test_ignored_patches_do_not_count() -> None:
    logits = random_logits()
    counts = torch.rand(3, 36) < 0.5
    loss_of(logits, valid=counts).backward()
    assert not logits.grad[~counts].any()
    assert logits.grad[..., 0][counts].all()


def test_pictures_of_which_nothing_is_known_do_not_count() -> None:
    logits = random_logits()
    negatives = torch.tensor([[1, 2]] * 3)
    loss_of(logits, mask_kinds=torch.tensor([MASKED, UNKNOWN, BOXED]), negatives=negatives).backward()
    assert not logits.grad[1].any()
    assert logits.grad[0].any()
    assert logits.grad[2].any()
    nothing = loss_of(random_logits(), mask_kinds=torch.full((3,), UNKNOWN), negatives=negatives)
    assert nothing == 0


def test_absent_classes_are_pushed_down_everywhere() -> None:
    logits = random_logits()
    loss_of(logits, negatives=torch.tensor([[3]] * 3), valid=torch.zeros(3, 36, dtype=torch.bool)).backward()
    expected = 0.25 * logits[..., 3].sigmoid() / 36 / 3
    assert torch.allclose(logits.grad[..., 3], expected, atol=1e-12)


def test_absent_classes_are_never_the_label() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(64, 100), torch.randint(0, 100, (64,))
    drawn = sample_absent_classes(logits, labels, 16, np.random.default_rng(0))
    assert drawn.shape == (64, 16)
    assert not (drawn == labels[:, None]).any()
    assert all(len(set(row.tolist())) == 16 for row in drawn)
    ranks = (logits.scatter(1, labels[:, None], -99).gather(1, drawn)[..., None] < logits[:, None]).sum(-1)
    assert (ranks <= 50).all()
    assert sample_absent_classes(torch.randn(2, 3), torch.tensor([0, 2]), 16, np.random.default_rng(0)).shape == (2, 2)


def test_of_a_box_only_its_sides_and_what_is_outside_are_asked() -> None:
    """A cross that touches all four sides of its box is as good as the whole box."""
    covered = torch.zeros(1, 6, 6, dtype=torch.float64)
    covered[:, 1:5, 1:5] = 1
    cross = torch.full((1, 6, 6, 2), -9.0, dtype=torch.float64)
    cross[:, 1:5, 2], cross[:, 2, 1:5] = 9, 9
    full = torch.where(covered[..., None] > 0, 9.0, -9.0).expand(-1, -1, -1, 2)
    boxed = {"covered": covered.flatten(1), "mask_kinds": torch.tensor([BOXED])}
    for logits in (cross, full):
        assert loss_of(logits.flatten(1, 2), **boxed) < 1e-3
    short = cross.clone()
    short[:, 4, 2] = -9
    beside = cross.clone()
    beside[:, 0, 0] = 9
    for wrong in (short, beside):
        assert loss_of(wrong.flatten(1, 2), **boxed) > 0.3


def test_names_and_shapes_stay_and_timm_takes_the_result() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    loaded = describe_loaded("test_vit", model)
    frame = PreprocessConfig.for_model(loaded.record, "squash")
    trained = PatchMaskTraining(loaded, PatchMaskSettings(), 10, (frame, frame))
    size = loaded.anatomy.input_size
    some = pictures()
    some = MaskedImages(
        np.repeat(np.repeat(some.pixels, 4, 2), 4, 3)[..., : size[0], : size[1]], some.labels,
        np.repeat(np.repeat(some.planes, 4, 2), 4, 3)[..., : size[0], : size[1]], some.mask_kinds,
    )  # fmt: skip
    with trained.session():
        trained.train_step(some)
        after = trained.tensors()
    assert {name: tensor.shape for name, tensor in after.items()} == before
    vanilla = timm.create_model("test_vit", num_classes=3)
    vanilla.load_state_dict(after)
    images = torch.randn(2, 3, *size)
    assert torch.equal(vanilla.eval()(images), model.eval()(images))


def test_four_pictures_are_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=3
    )
    trained, batch = training(model, steps=150), pictures()
    with trained.session():
        for _ in range(150):
            trained.train_step(batch)
    images = trained.normalize(batch.pixels)
    maps = explain(model, images, torch.from_numpy(batch.labels)[:, None], "pm_zs")["pm_zs"][:, 0]
    truth = F.avg_pool2d(torch.from_numpy(batch.planes[:, 0] / 255), 8) > 0.5
    overlap = ((maps > 0.5) & truth).sum() / ((maps > 0.5) | truth).sum()
    assert overlap > 0.95
    assert (model(images).argmax(1) == torch.from_numpy(batch.labels)).all()


def test_empty_masks_drive_the_map_to_nothing() -> None:
    model = small_vit().float()
    trained, batch = training(model), pictures()
    empty = MaskedImages(batch.pixels, batch.labels, np.zeros_like(batch.planes), batch.mask_kinds)
    with trained.session():
        for _ in range(60):
            trained.train_step(empty)
        maps = PatchReadout(model, trained.anatomy)(trained.normalize(batch.pixels))[1].sigmoid()
    assert maps[torch.arange(4), :, torch.from_numpy(batch.labels)].mean() < 0.05


def test_labels_alone_teach_the_patches_nothing() -> None:
    """Of a class-token network the last block's patch tokens reach no image logit."""
    model = small_vit()
    anatomy, images = describe(model), images_for(model)
    outputs = []
    handle = model.blocks[-1].register_forward_hook(lambda module, args, output: outputs.append(output))
    logits, _ = PatchReadout(model, anatomy)(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1, 2])), outputs)
    assert gradient[:, 0].any()
    assert not gradient[:, 1:].any()


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    model = small_vit().float()
    trained, batch = training(model), pictures()
    before = copy.deepcopy(model.state_dict())
    trained.normalize.std = trained.normalize.std * float("nan")
    with trained.session(), pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        trained.train_step(batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_network_is_handed_back_as_it_came() -> None:
    model = small_vit().float().train()
    trained = training(model)
    with trained.session():
        trained.train_step(pictures())
    assert model.training
