"""What the native models have in common: diffusers' ModelMixin over arrays."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Dict, Optional, Tuple, Union

import numpy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Config", "NativeModel", "OnProgress", "Output", "numbers"]

# Told how far a call is, from 0 to 1; False ends it.
OnProgress = Optional[Callable[[float], Optional[bool]]]


class Output:
    """What a forward returns: ``sample``, as an attribute, by name, by number, or as a tuple."""

    sample: Any

    def to_tuple(self) -> Tuple[Any]:
        return (self.sample,)

    def __getitem__(self, key: Union[int, str]) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())


class Config(Dict[str, Any]):
    """A configuration as diffusers has it: ``config["in_channels"]`` is ``config.in_channels``. For reading."""

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None


def numbers(values: Any, dtype: Any) -> Any:
    """Python numbers and lists of them as an array; arrays as they are."""
    return numpy.asarray(values, dtype) if isinstance(values, (int, float, list, tuple)) else values


class NativeModel:
    """A model of the library. Immutable, and any number of threads may call it at once."""

    _kind: ClassVar[Any]  # the library's class
    _model: Any

    def _draw(
        self, config: Mapping[str, Any], seed: int, dtype: str, engine: str, compute_dtype: str, isa: str
    ) -> None:
        """Weights drawn from a seed."""
        self._model = self._kind.from_config(json.dumps(dict(config)), seed, dtype, engine, compute_dtype, isa)

    @classmethod
    def _over(cls, model: Any) -> "Self":
        self = cls.__new__(cls)
        self._model = model
        return self

    @classmethod
    def from_state_dict(
        cls,
        config: Mapping[str, Any],
        state_dict: Mapping[str, Any],
        *,
        engine: str = "auto",
        compute_dtype: str = "auto",
        isa: str = "",
    ) -> "Self":
        """A model over arrays named as in diffusers' state dict. They must not change while the model lives.

        Raises:
            ConfigError, CheckpointError, ArgumentError
        """
        return cls._over(
            cls._kind.from_state_dict(json.dumps(dict(config)), list(state_dict.items()), engine, compute_dtype, isa)
        )

    def save_pretrained(self, path: Union[str, "os.PathLike[str]"], variant: str = "") -> None:
        """Writes config.json and diffusion_pytorch_model[.variant].safetensors, each whole or not at all."""
        self._model.save_pretrained(os.fspath(path), variant)

    @property
    def config(self) -> Config:
        return Config(json.loads(self._model.config))

    def state_dict(self) -> Dict[str, Any]:
        """Read-only arrays over the model's memory; bf16, which NumPy lacks, as objects with ``__dlpack__``."""
        return dict(self._model.parameters())

    def num_parameters(self) -> int:
        return int(self._model.num_parameters)

    @property
    def dtype(self) -> str:
        """What most parameters are stored in: "f32", "f16" or "bf16"."""
        return str(self._model.dtype)

    @property
    def compute_dtype(self) -> str:
        return str(self._model.compute_dtype)

    @property
    def engine(self) -> str:
        return str(self._model.engine)

    @property
    def isa(self) -> str:
        """The instruction set that the engine chose, such as "avx2"."""
        return str(self._model.isa)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_parameters():,} parameters, {self.dtype}, "
            f"engine {self.engine}, {self.isa})"
        )
