"""PSNR, SSIM and boil of restored frames (F, H, W, 3) in 8 bits beside the wanted ones."""

import numpy as np
from skimage.metrics import structural_similarity


def psnr(found, wanted):
    if np.array_equal(found, wanted):
        return float("inf")
    return 10 * np.log10(255**2 / np.mean((found.astype(np.float64) - wanted) ** 2))


def ssim(found, wanted, stride=1):
    return float(
        np.mean(
            [
                structural_similarity(a, b, channel_axis=2, data_range=255)
                for a, b in zip(found[::stride], wanted[::stride])
            ]
        )
    )


def boil(found, wanted):
    """How far the error's low frequencies, means over 8 x 8 pixels, change from frame to frame: in levels."""
    error = found.astype(np.float64) - wanted
    count, height, width, _ = error.shape
    cells = error[:, : height // 8 * 8, : width // 8 * 8].reshape(count, height // 8, 8, width // 8, 8, 3)
    return float(np.sqrt(np.mean(np.diff(cells.mean((2, 4)), axis=0) ** 2))) if count > 1 else 0.0


def score(made, pristine):
    return {"psnr": psnr(made, pristine), "ssim": ssim(made, pristine), "boil": boil(made, pristine)}
