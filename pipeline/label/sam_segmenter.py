"""Segmentation of an image by SAM or SAM 2, from prompts. Nothing is downloaded, and no code of a checkpoint is run."""

from collections.abc import Sequence
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from pipeline.label.sam_checkpoint import CLASSES, model_type
from pipeline.utils.transformers_folder import quiet
from schemas.errors import UsageError
from schemas.text import first_line


def has_gpu() -> bool:
    """Return whether there is a GPU for a segmenter here."""
    return torch.cuda.is_available()


class SamSegmenter:
    """Kirillov et al., "Segment anything", ICCV 2023; Ravi et al., "SAM 2", ICLR 2025.

    An image is encoded once; each prompt is decoded by itself, so that padding changes nothing. Of the three masks of a
    prompt the one with the highest predicted IoU is taken, of equal ones the first. It runs on a GPU if there is one,
    in float32.

    Args:
        folder: of the checkpoint.

    Raises:
        UsageError: ``transformers`` cannot load the checkpoint, or its weights are not those of a whole model.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        model_class, processor_class = (getattr(transformers, name) for name in CLASSES[model_type(folder)])
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            with quiet(transformers.utils.logging):
                # The attention is named here, because a config.json could name code of the hub.
                model, loaded = model_class.from_pretrained(
                    folder, output_loading_info=True, use_safetensors=True, attn_implementation="sdpa", **local
                )
                self._processor = processor_class.from_pretrained(folder, **local)
        except Exception as error:  # whatever files of a stranger make of a loader
            raise UsageError(f"{folder}: transformers cannot load it ({first_line(error)})") from None
        if missing := sorted(loaded["missing_keys"]) or sorted(str(key) for key in loaded["mismatched_keys"]):
            raise UsageError(
                f"{folder}: its weights are not of a whole {model_class.__name__}: {missing[0]} is missing"
            )
        self.device = torch.device("cuda" if has_gpu() else "cpu")
        self._model = model.float().eval().to(self.device)
        if parent_process() is not None:  # the other cores have processes of their own
            torch.set_num_threads(1)

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8], prompts: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
        """Segment one image, see ``Segmenter``.

        Raises:
            UsageError: the predicted IoU is not finite.
        """
        inputs = self._processor(torch.from_numpy(pixels), input_data_format="channels_first", return_tensors="pt")
        embeddings = self._model.get_image_embeddings(inputs["pixel_values"].to(self.device))
        # SAM pads behind the resized image, SAM 2 has none to pad.
        sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
        resized = sizes[1][0] if len(sizes) > 1 else torch.tensor(inputs["pixel_values"].shape[-2:])
        scale = (resized.double() / torch.tensor(pixels.shape[1:])).flip(0)
        mask = torch.zeros(pixels.shape[1:], dtype=torch.bool)
        for prompt in prompts:
            logits = self._decode(embeddings, prompt, scale)
            (found,) = self._processor.post_process_masks([logits], *sizes)
            mask |= found[0, 0].cpu()
        return mask.numpy()

    def _decode(self, embeddings: Any, prompt: dict[str, Any], scale: Tensor) -> Tensor:
        """Return the logits of the best mask of a prompt, float32 [1, 1, h, w]."""
        points = torch.tensor(prompt["point_coords"], dtype=torch.float64).reshape(-1, 2) * scale
        box = (torch.tensor(prompt["box"], dtype=torch.float64).reshape(2, 2) * scale).reshape(4)
        output = self._model(
            image_embeddings=embeddings,
            input_points=points.float()[None, None].to(self.device),
            input_labels=torch.tensor(prompt["point_labels"])[None, None].to(self.device),
            input_boxes=box.float()[None, None].to(self.device),
            multimask_output=True,
        )
        scores = output.iou_scores[0, 0]
        if not torch.isfinite(scores).all():
            raise UsageError(f"{self.folder}: predicts an IoU that is not finite; take another checkpoint")
        best = int(scores.argmax())
        logits: Tensor = output.pred_masks[:, 0, best : best + 1]
        return logits
