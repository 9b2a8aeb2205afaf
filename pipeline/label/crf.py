"""Refinement by a dense conditional random field."""

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.errors import UsageError
from schemas.policy import Crf


class CrfRefiner:
    """Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NIPS 2011.

    There are two classes with Potts compatibility. The unary of a pixel is its heatmap value, scaled to
    [1 - confidence, confidence]; the kernels are those of equation 3. The result is the probability of the object by
    mean-field inference. Images are refined one by one, on one core.

    Raises:
        UsageError: the extra ``crf`` is not installed.
    """

    def __init__(self, spec: Crf) -> None:
        try:
            from pydensecrf.densecrf import DenseCRF2D
        except ImportError:
            raise UsageError("refine: crf needs a missing package; pip install 'vit-atlas[crf]'") from None
        self.spec, self._field = spec, DenseCRF2D

    def __call__(self, heatmaps: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refine heatmaps, see ``Refiner``."""
        return np.stack([self._refine(*pair) for pair in zip(heatmaps, pixels.transpose(0, 2, 3, 1), strict=True)])

    def _refine(self, values: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
        spec, (height, width) = self.spec, image.shape[:2]
        resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1)
        foreground = (1 - spec.confidence) + (2 * spec.confidence - 1) * resized
        field = self._field(width, height, 2)
        field.setUnaryEnergy(-np.log(np.stack([1 - foreground, foreground]), dtype=np.float32).reshape(2, -1))
        if spec.gaussian_compat:
            field.addPairwiseGaussian(sxy=spec.gaussian_sxy, compat=spec.gaussian_compat)
        if spec.bilateral_compat:
            field.addPairwiseBilateral(
                sxy=spec.bilateral_sxy,
                srgb=spec.bilateral_srgb,
                rgbim=np.ascontiguousarray(image),
                compat=spec.bilateral_compat,
            )
        probability: NDArray[np.float32] = np.array(field.inference(spec.iterations), np.float32)[1]
        return probability.reshape(height, width)
