"""The classes of diffusers that native forwards stand for. The one place that imports them.

diffusers moves classes between its files. Every class is therefore looked for where another class uses it, which holds
wherever it is kept: the temporal model's module has the block, the block's module the attention and the feed-forward.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import diffusers

from .. import _native, errors

# The tests of this package pass with 0.42; with 0.30, 0.31, 0.33, 0.35, 0.38 and 0.40 both temporal classes were run beside
# diffusers' own.
KNOWN_TO_WORK = "0.30 to 0.42"


def _found(name: str, *users: "str | type") -> Any:
    """`name` from the first module that has it: of `users`, names of modules, or classes whose module is meant."""
    for user in users:
        module: ModuleType | None
        if isinstance(user, str):
            try:
                module = importlib.import_module(user)
            except ImportError:
                continue
        else:
            module = sys.modules.get(user.__module__)
        if hasattr(module, name):
            return getattr(module, name)
    places = ", ".join(user if isinstance(user, str) else f"the module of {user.__name__}" for user in users)
    version = getattr(diffusers, "__version__", "unknown")
    raise errors.UpstreamError(
        f"diffusers {version}: expected {name} in {places}, found none. kineograph {_native.version()} is known to work "
        f"with diffusers {KNOWN_TO_WORK}.",
        where=f"diffusers {version}",
        expected=name,
        found="none",
        hint=f"known to work: diffusers {KNOWN_TO_WORK}",
    )


_OLD = "diffusers.models"

UNetMotionModel: Any = _found("UNetMotionModel", "diffusers")
UNet3DConditionModel: Any = _found("UNet3DConditionModel", "diffusers")
I2VGenXLUNet: Any = _found("I2VGenXLUNet", "diffusers", f"{_OLD}.unets.unet_i2vgen_xl")
# The classes that kineograph's are made from, and give; a type checker looks for them where they are in diffusers 0.42.
if TYPE_CHECKING:
    from diffusers.models.attention import BasicTransformerBlock as BasicTransformerBlock
    from diffusers.models.modeling_outputs import Transformer2DModelOutput as Transformer2DModelOutput
    from diffusers.models.resnet import TemporalConvLayer as TemporalConvLayer
    from diffusers.models.transformers.transformer_2d import Transformer2DModel as Transformer2DModel
    from diffusers.models.transformers.transformer_temporal import (
        TransformerSpatioTemporalModel as TransformerSpatioTemporalModel,
    )
    from diffusers.models.transformers.transformer_temporal import (
        TransformerTemporalModel as TransformerTemporalModel,
    )
    from diffusers.models.transformers.transformer_temporal import (
        TransformerTemporalModelOutput as TransformerTemporalModelOutput,
    )
    from diffusers.models.unets.unet_i2vgen_xl import (
        I2VGenXLTransformerTemporalEncoder as I2VGenXLTransformerTemporalEncoder,
    )
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D as AnimateDiffTransformer3D
else:
    TransformerTemporalModel = _found("TransformerTemporalModel", "diffusers", _OLD)
    AnimateDiffTransformer3D = _found(
        "AnimateDiffTransformer3D", UNetMotionModel, f"{_OLD}.unets.unet_motion_model", f"{_OLD}.transformers"
    )
    TemporalConvLayer = _found("TemporalConvLayer", f"{_OLD}.resnet", f"{_OLD}.unets.unet_3d_blocks")
    I2VGenXLTransformerTemporalEncoder = _found("I2VGenXLTransformerTemporalEncoder", I2VGenXLUNet)
    Transformer2DModel = _found("Transformer2DModel", "diffusers")
    TransformerSpatioTemporalModel = _found(
        "TransformerSpatioTemporalModel", TransformerTemporalModel, f"{_OLD}.transformers.transformer_temporal"
    )
    BasicTransformerBlock = _found(
        "BasicTransformerBlock", TransformerTemporalModel, AnimateDiffTransformer3D, f"{_OLD}.attention"
    )
    TransformerTemporalModelOutput = _found("TransformerTemporalModelOutput", TransformerTemporalModel)
    Transformer2DModelOutput = _found("Transformer2DModelOutput", f"{_OLD}.modeling_outputs", Transformer2DModel)

MotionAdapter: Any = _found("MotionAdapter", "diffusers")
AlphaBlender: Any = _found("AlphaBlender", TransformerSpatioTemporalModel, f"{_OLD}.resnet")
TemporalBasicTransformerBlock: Any = _found(
    "TemporalBasicTransformerBlock", TransformerSpatioTemporalModel, f"{_OLD}.attention"
)

# Since diffusers 0.30.1.
FreeNoiseTransformerBlock: Any = getattr(
    sys.modules[BasicTransformerBlock.__module__], "FreeNoiseTransformerBlock", None
)
Attention: Any = _found("Attention", BasicTransformerBlock, f"{_OLD}.attention_processor", f"{_OLD}.attention")
FeedForward: Any = _found("FeedForward", BasicTransformerBlock, f"{_OLD}.attention")
SinusoidalPositionalEmbedding: Any = _found(
    "SinusoidalPositionalEmbedding", BasicTransformerBlock, f"{_OLD}.embeddings"
)
AdaLayerNorm: Any = _found("AdaLayerNorm", BasicTransformerBlock, f"{_OLD}.normalization")
AdaLayerNormZero: Any = _found("AdaLayerNormZero", BasicTransformerBlock, f"{_OLD}.normalization")
CombinedTimestepLabelEmbeddings: Any = _found("CombinedTimestepLabelEmbeddings", AdaLayerNormZero, f"{_OLD}.embeddings")
TimestepEmbedding: Any = _found("TimestepEmbedding", CombinedTimestepLabelEmbeddings, f"{_OLD}.embeddings")
Timesteps: Any = _found("Timesteps", CombinedTimestepLabelEmbeddings, f"{_OLD}.embeddings")
LabelEmbedding: Any = _found("LabelEmbedding", CombinedTimestepLabelEmbeddings, f"{_OLD}.embeddings")
ImagePositionalEmbeddings: Any = _found(
    "ImagePositionalEmbeddings", SinusoidalPositionalEmbedding, f"{_OLD}.embeddings"
)

GEGLU: Any = _found("GEGLU", FeedForward, f"{_OLD}.activations")
GELU: Any = _found("GELU", FeedForward, f"{_OLD}.activations")
ApproximateGELU: Any = _found("ApproximateGELU", FeedForward, f"{_OLD}.activations")
SwiGLU: Any = _found("SwiGLU", FeedForward, f"{_OLD}.activations")
LinearActivation: Any = getattr(sys.modules[FeedForward.__module__], "LinearActivation", None)  # since 0.31

AttnProcessor: Any = _found("AttnProcessor", Attention, f"{_OLD}.attention_processor")
AttnProcessor2_0: Any = _found("AttnProcessor2_0", Attention, f"{_OLD}.attention_processor")
SlicedAttnProcessor: Any = _found("SlicedAttnProcessor", Attention, f"{_OLD}.attention_processor")
FusedAttnProcessor2_0: Any = _found("FusedAttnProcessor2_0", Attention, f"{_OLD}.attention_processor")
IPAdapterAttnProcessor2_0: Any = _found("IPAdapterAttnProcessor2_0", Attention, f"{_OLD}.attention_processor")
XFormersAttnProcessor: Any = _found("XFormersAttnProcessor", Attention, f"{_OLD}.attention_processor")

# The loggers that warn of cross_attention_kwargs: a block's, and an attention's.
block_logger: Any = _found("logger", BasicTransformerBlock)
attention_logger: Any = _found("logger", Attention)


def xformers_is_there() -> bool:
    """Whether XFormersAttnProcessor can run: diffusers imports xformers where it is installed."""
    return getattr(sys.modules[XFormersAttnProcessor.__module__], "xformers", None) is not None


def split_inference() -> "type | None":
    """FreeNoise's SplitInferenceModule, once something has imported it: importing it would load all pipelines."""
    module = sys.modules.get("diffusers.pipelines.free_noise_utils")
    return getattr(module, "SplitInferenceModule", None)


def peft_linear() -> "type | None":
    """PEFT's LoRA around a Linear, once something has imported it."""
    module = sys.modules.get("peft.tuners.lora.layer")
    return getattr(module, "Linear", None)
