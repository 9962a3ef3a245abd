"""FreeNoise: attention in windows of frames."""

from dataclasses import dataclass

__all__ = ["ContextOptions"]


@dataclass(frozen=True)
class ContextOptions:
    """Windows that the attentions of a forward run in, for clips longer than those a model was trained with. Each has
    positions of its own; frames in several windows are averaged. The numbers are diffusers' FreeNoiseTransformerBlock's.

    Attributes:
        length: frames of a window, at most num_frames.
        stride: frames from one window to the next, 1 to `length`; the last window is flush with the clip's end.
        weighting: weights of a window's frames in the average: "flat", "pyramid" (1, 2, 3, 2, 1) or
            "delayed_reverse_sawtooth" (0.01, 0.01, 3, 2, 1).
    """

    length: int = 16
    stride: int = 4
    weighting: str = "pyramid"
