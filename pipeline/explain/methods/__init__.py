"""One file a method. A new one registers itself, and is named here in the order of the tables."""

# isort: off
from pipeline.explain.methods.attention import Attention
from pipeline.explain.methods.rollout import Rollout
from pipeline.explain.methods.generic_attention import GenericAttention
from pipeline.explain.methods.transformer_attribution import TransformerAttribution
from pipeline.explain.methods.gradcam import AttentionGradCAM, GradCAM
from pipeline.explain.methods.agcam import AGCAM
from pipeline.explain.methods.legrad import LeGrad
from pipeline.explain.methods.reciprocam import ReciproCAM
from pipeline.explain.methods.patch_mask import PatchMask
from pipeline.explain.methods.patch_mask_zero_shot import PatchMaskValue, PatchMaskZeroShot
from pipeline.explain.methods.diffmask import DiffMask
from pipeline.explain.methods.grad_input import GradInput
from pipeline.explain.methods.integrated_gradients import IntegratedGradients
from pipeline.explain.methods.smoothgrad import SmoothGrad
from pipeline.explain.methods.cp_lrp import CPLRP
from pipeline.explain.methods.rise import Rise
from pipeline.explain.methods.vit_cx import ViTCX
from pipeline.explain.methods.tis import TiS
from pipeline.explain.methods.controls import Center, Edges, Random, Uniform
# isort: on

__all__ = [
    "AGCAM",
    "CPLRP",
    "Attention",
    "AttentionGradCAM",
    "Center",
    "DiffMask",
    "Edges",
    "GenericAttention",
    "GradCAM",
    "GradInput",
    "IntegratedGradients",
    "LeGrad",
    "PatchMask",
    "PatchMaskValue",
    "PatchMaskZeroShot",
    "Random",
    "ReciproCAM",
    "Rise",
    "Rollout",
    "SmoothGrad",
    "TiS",
    "TransformerAttribution",
    "Uniform",
    "ViTCX",
]
