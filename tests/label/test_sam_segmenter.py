"""SAM and SAM 2 give what transformers gives for the same image and prompt, and the best of their masks is taken."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from some_sams import write_sam, write_sam2

from schemas.errors import UsageError
from schemas.policy import Policy, Sam, Threshold

transformers = pytest.importorskip("transformers", reason="the extra sam is not installed")

from pipeline.label.refine import compute_address, make_segmenter, pin_checkpoint  # noqa: E402
from pipeline.label.sam_segmenter import SamSegmenter  # noqa: E402

KINDS = {
    "sam": (write_sam, "SamProcessor", "SamModel"),
    "sam2": (write_sam2, "Sam2Processor", "Sam2Model"),
}
PROMPTS = [
    {"box": [3, 4, 30, 20], "point_coords": [[10, 12], [20, 15], [2, 2]], "point_labels": [1, 1, 0]},
    {"box": [40, 30, 50, 39], "point_coords": [[45, 35]], "point_labels": [1]},
]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 41, 57), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write(tmp_path_factory.mktemp(kind) / kind) for kind, (write, *_) in KINDS.items()}


def inputs_of(kind: str, folder: Path, pixels: np.ndarray, prompt: dict) -> dict:
    """What the processor of the library makes of an image and one prompt."""
    processor = getattr(transformers, KINDS[kind][1]).from_pretrained(folder)
    given = {"input_points": [[prompt["point_coords"]]], "input_labels": [[prompt["point_labels"]]]}
    boxes = {"input_boxes": [[[float(side) for side in prompt["box"]]]]}
    return processor(images=Image.fromarray(pixels.transpose(1, 2, 0)), **given, **boxes, return_tensors="pt")


def expected_mask(kind: str, folder: Path, pixels: np.ndarray, prompts: list[dict]) -> np.ndarray:
    """The whole way of the library's own example, for each prompt by itself."""
    model = getattr(transformers, KINDS[kind][2]).from_pretrained(folder, attn_implementation="sdpa").eval()
    processor = getattr(transformers, KINDS[kind][1]).from_pretrained(folder)
    mask = np.zeros(pixels.shape[1:], bool)
    for prompt in prompts:
        inputs = inputs_of(kind, folder, pixels, prompt)
        sizes = [inputs.pop(name) for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        inputs = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
        with torch.no_grad():
            output = model(**inputs)
        masks = processor.image_processor.post_process_masks([output.pred_masks[0]], *sizes)[0][0]
        mask |= masks[int(output.iou_scores[0, 0].argmax())].numpy()
    return mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[1:]], ids=["two prompts", "one"])
def test_the_mask_is_that_of_the_library(kind: str, prompts: list[dict], folders: dict[str, Path]) -> None:
    segment = SamSegmenter(str(folders[kind]))
    found = segment(PIXELS, prompts)
    assert (found.dtype, found.shape) == (bool, PIXELS.shape[1:])
    assert 0 < found.mean() < 1
    assert np.array_equal(found, expected_mask(kind, folders[kind], PIXELS, prompts))
    assert np.array_equal(found, segment(PIXELS, prompts))


class Recorder:
    """A model that keeps what it is given, and answers with masks of its own."""

    def __init__(self, scores: list[float], masks: torch.Tensor) -> None:
        self.output = SimpleNamespace(iou_scores=torch.tensor([[scores]]), pred_masks=masks[None, None])

    def get_image_embeddings(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        self.pixel_values = pixel_values
        return [pixel_values]

    def __call__(self, **inputs: object) -> SimpleNamespace:
        self.inputs = inputs
        return self.output


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(41, 57), (300, 200), (1300, 777), (3, 90)], ids=str)
def test_inputs_are_those_of_the_processor_at_its_own_size(
    kind: str, size: tuple[int, int], folders: dict[str, Path], tmp_path: Path
) -> None:
    """1024 pixels on the long side, normalized and padded; coordinates likewise."""
    folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
    (folder / "processor_config.json").unlink()
    processor = getattr(transformers, KINDS[kind][1])
    image_processor = getattr(transformers, KINDS[kind][1].replace("Processor", "ImageProcessor"))()
    processor(image_processor).save_pretrained(folder)
    segment = SamSegmenter(str(folder))
    segment._model = recorder = Recorder([0.0, 1.0, 0.0], torch.zeros(3, 8, 8))
    pixels = np.random.default_rng(1).integers(0, 256, (3, *size), dtype=np.uint8)
    prompt = {"box": [1, 0, size[1] - 1, size[0] - 1], "point_coords": [[2, 1], [0, 2]], "point_labels": [1, 0]}
    segment(pixels, [prompt])
    wanted = inputs_of(kind, folder, pixels, prompt)
    assert recorder.pixel_values.shape == (1, 3, 1024, 1024)
    assert torch.equal(recorder.pixel_values, wanted["pixel_values"])
    for name in ("input_points", "input_boxes"):
        assert torch.allclose(recorder.inputs[name], wanted[name].float(), rtol=1e-6, atol=0), name
    assert torch.equal(recorder.inputs["input_labels"], wanted["input_labels"])
    assert recorder.inputs["multimask_output"] is True


@pytest.mark.parametrize(("scores", "best"), [([0.1, 0.9, 0.5], 1), ([0.7, 0.2, 0.7], 0), ([-2.0, -3.0, -1.0], 2)])
def test_the_mask_of_the_highest_predicted_iou_is_taken(
    scores: list[float], best: int, folders: dict[str, Path]
) -> None:
    masks = torch.full((3, 16, 16), -1.0)
    for place in range(3):
        masks[place, 4 * place : 4 * place + 4] = 1
    segment = SamSegmenter(str(folders["sam2"]))
    segment._model = Recorder(scores, masks)
    rows = np.flatnonzero(segment(np.zeros((3, 64, 64), np.uint8), PROMPTS[:1]).any(1))
    assert (rows.min(), rows.max()) == (16 * best, 16 * best + 15)


def test_scores_that_are_not_finite_are_refused(folders: dict[str, Path]) -> None:
    segment = SamSegmenter(str(folders["sam"]))
    segment._model = Recorder([0.1, float("nan"), 0.2], torch.zeros(3, 16, 16))
    with pytest.raises(UsageError, match="predicts an IoU that is not finite"):
        segment(PIXELS, PROMPTS)


def test_a_video_model_has_an_image_model_in_it(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sam2"], tmp_path / "video"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "sam2_video"}))
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"memory_encoder.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    found = SamSegmenter(str(folder))(PIXELS, PROMPTS)
    assert np.array_equal(found, SamSegmenter(str(folders["sam2"]))(PIXELS, PROMPTS))


def test_weights_that_lack_a_tensor_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sam"], tmp_path / "part"))
    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"not of a whole SamModel: mask_decoder.iou_token.weight is missing"):
        SamSegmenter(str(folder))
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UsageError, match="transformers cannot load it"):
        SamSegmenter(str(folder))


def test_a_checkpoint_is_pinned_and_another_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sam"], tmp_path / "sam"))
    make_segmenter.cache_clear()
    policy = Policy(
        name="p", methods=("legrad",), refine=Sam(kind="sam", checkpoint=str(folder)), threshold=Threshold(kind="otsu")
    )
    pinned = pin_checkpoint(policy).refine
    assert pinned.sha256.startswith("sha256:")
    assert make_segmenter(pinned) is make_segmenter(pinned)
    make_segmenter.cache_clear()
    config = json.loads((folder / "processor_config.json").read_text())
    config["image_processor"]["image_mean"] = [0.0, 0.0, 0.0]
    (folder / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"is sha256:\w+, not the checkpoint of the policy, sha256:"):
        make_segmenter(pinned)


def test_beside_a_gpu_it_runs_on_ray(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which gives each process a GPU of its own."""
    plain = Policy(name="p", methods=("legrad",), threshold=Threshold(kind="otsu"))
    policy = plain.model_copy(update={"refine": Sam(kind="sam", checkpoint=str(folders["sam"]))})
    monkeypatch.setattr("pipeline.label.sam_segmenter.has_gpu", lambda: True)
    assert [compute_address(each, None) for each in (plain, policy)] == [None, "local"]
    assert compute_address(policy, "auto") == "auto"
    monkeypatch.setattr("pipeline.label.sam_segmenter.has_gpu", lambda: False)
    assert compute_address(policy, None) is None
