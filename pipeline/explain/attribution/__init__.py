"""Attribution methods, one file each. One line here registers and exports a method; the order is that of the tables."""

from typing import TYPE_CHECKING

from pipeline.explain.registry import methods

# isort: off
from pipeline.explain.attribution.attention import RawAttention as RawAttention
from pipeline.explain.attribution.rollout import Rollout as Rollout
from pipeline.explain.attribution.generic_attention import GenericAttention as GenericAttention
from pipeline.explain.attribution.token_tm import TokenTM as TokenTM
from pipeline.explain.attribution.beyond_intuition import BeyondIntuition as BeyondIntuition
from pipeline.explain.attribution.transformer_attribution import TransformerAttribution as TransformerAttribution
from pipeline.explain.attribution.cam import CAM as CAM
from pipeline.explain.attribution.gradcam import GradCAM as GradCAM, AttentionGradCAM as AttentionGradCAM
from pipeline.explain.attribution.gradcam_variants import GradCAMPlusPlus as GradCAMPlusPlus, LayerCAM as LayerCAM
from pipeline.explain.attribution.agcam import AGCAM as AGCAM
from pipeline.explain.attribution.legrad import LeGrad as LeGrad
from pipeline.explain.attribution.reciprocam import ReciproCAM as ReciproCAM
from pipeline.explain.attribution.patch_mask import PatchMask as PatchMask
from pipeline.explain.attribution.patch_mask_original_weights import PatchMaskZeroShot as PatchMaskZeroShot
from pipeline.explain.attribution.patch_mask_original_weights import PatchMaskValue as PatchMaskValue
from pipeline.explain.attribution.ts_cam import TSCAM as TSCAM
from pipeline.explain.attribution.diffmask import DiffMask as DiffMask
from pipeline.explain.attribution.grad_input import GradInput as GradInput
from pipeline.explain.attribution.integrated_gradients import IntegratedGradients as IntegratedGradients
from pipeline.explain.attribution.smoothgrad import SmoothGrad as SmoothGrad
from pipeline.explain.attribution.lrp import CPLRP as CPLRP, AttnLRP as AttnLRP
from pipeline.explain.attribution.libra_fullgrad import LibraFullGrad as LibraFullGrad
from pipeline.explain.attribution.rise import RISE as RISE
from pipeline.explain.attribution.occlusion import Occlusion as Occlusion
from pipeline.explain.attribution.scorecam import ScoreCAM as ScoreCAM
from pipeline.explain.attribution.vit_cx import ViTCX as ViTCX
from pipeline.explain.attribution.tis import TiS as TiS
from pipeline.explain.attribution.controls import Center as Center, Uniform as Uniform, Random as Random, Edges as Edges
# isort: on

if not TYPE_CHECKING:  # type checkers read the re-exports above; ``import *`` at run time needs the list
    __all__ = [method.__name__ for method in methods.values()]
