"""A dense conditional random field: every pixel is drawn to those that look alike and to those that are near."""

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.errors import UsageError
from schemas.policy import Crf


class CrfRefiner:
    """Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NIPS 2011.

    Two classes with Potts compatibility. The unary of a pixel is its map, squeezed to [1 - confidence, confidence]; the
    kernels are those of equation 3. What comes out is the probability of the object by mean-field inference. One
    picture after the other, on one core.

    Raises:
        UsageError: the extra ``crf`` is not installed.
    """

    def __init__(self, spec: Crf) -> None:
        try:
            from pydensecrf.densecrf import DenseCRF2D
        except ImportError:
            raise UsageError("refine: crf needs a package that is not there; pip install 'vit-atlas[crf]'") from None
        self.spec, self._field = spec, DenseCRF2D

    def __call__(self, maps: NDArray[np.float32], pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Refine maps, see ``Refiner``."""
        return np.stack([self._refine(*pair) for pair in zip(maps, pixels.transpose(0, 2, 3, 1), strict=True)])

    def _refine(self, values: NDArray[np.float32], picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        spec, (height, width) = self.spec, picture.shape[:2]
        large = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR).clip(0, 1)
        sure = (1 - spec.confidence) + (2 * spec.confidence - 1) * large
        field = self._field(width, height, 2)
        field.setUnaryEnergy(-np.log(np.stack([1 - sure, sure]), dtype=np.float32).reshape(2, -1))
        if spec.gaussian_compat:
            field.addPairwiseGaussian(sxy=spec.gaussian_sxy, compat=spec.gaussian_compat)
        if spec.bilateral_compat:
            image = np.ascontiguousarray(picture)
            field.addPairwiseBilateral(
                sxy=spec.bilateral_sxy, srgb=spec.bilateral_srgb, rgbim=image, compat=spec.bilateral_compat
            )
        probability: NDArray[np.float32] = np.array(field.inference(spec.iterations), np.float32)[1]
        return probability.reshape(height, width)
