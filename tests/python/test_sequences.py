"""Sequences of what users do to a UNet, compared with diffusers' own after every step."""

import copy
import os
import pickle
import warnings

import kineograph
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule  # noqa: E402
from temporal_modules import answer, difference, run_unet, unet  # noqa: E402

MADE = unet()
TARGETS = r".*motion_modules.*\.(to_q|to_k|to_v|to_out\.0)"
NAMES = st.sampled_from(["a", "b"])


class Users(RuleBasedStateMachine):
    """`theirs` stays diffusers' own; what is done is done to both."""

    def __init__(self):
        super().__init__()
        self.theirs, self.ours = copy.deepcopy(MADE), copy.deepcopy(MADE)
        self.accelerated = False
        self.compiled = None
        self.handles = []
        self.adapters = []
        self.fused = False

    def both(self, change):
        """The same to both: they have to agree on whether it can be done."""
        outcomes = [answer(lambda model: change(model) or torch.zeros(1), model) for model in (self.theirs, self.ours)]
        kinds = [type(one) for one in outcomes]
        assert kinds[0] is kinds[1], outcomes
        return not isinstance(outcomes[0], Exception)

    def parts(self):
        return [model.down_blocks[0].motion_modules[0] for model in (self.theirs, self.ours)]

    @rule()
    def accelerate(self):
        kineograph.accelerate(self.ours)
        self.accelerated = True

    @rule()
    def revert(self):
        kineograph.revert(self.ours)
        self.accelerated = False

    @rule(name=NAMES, seed=st.integers(0, 3))
    @precondition(lambda self: not self.fused)
    def add_adapter(self, name, seed):
        if name in self.adapters:
            return
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
        self.both(lambda model: model.add_adapter(config, adapter_name=name))
        self.adapters.append(name)
        for model in (self.theirs, self.ours):
            generator = torch.Generator().manual_seed(seed)
            for key, parameter in model.named_parameters():
                if "lora_" in key and f".{name}." in key:
                    parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    @rule(names=st.lists(NAMES, min_size=1, max_size=2), weight=st.sampled_from([0.25, 1.0, 2.0]))
    @precondition(lambda self: self.adapters)
    def set_adapters(self, names, weight):
        known = [name for name in dict.fromkeys(names) if name in self.adapters]
        if known:
            self.both(lambda model: model.set_adapters(known, weight))

    @rule(name=NAMES)
    @precondition(lambda self: self.adapters and not self.fused)
    def delete_adapter(self, name):
        if name in self.adapters and len(self.adapters) > 1:
            self.both(lambda model: model.delete_adapters(name))
            self.adapters.remove(name)

    @rule()
    @precondition(lambda self: self.adapters and not self.fused)
    def fuse(self):
        self.both(lambda model: model.fuse_lora())
        self.fused = True

    @rule()
    @precondition(lambda self: self.fused)
    def unfuse(self):
        self.both(lambda model: model.unfuse_lora())
        self.fused = False

    @rule(on=st.booleans())
    @precondition(lambda self: self.adapters)
    def enable(self, on):
        self.both(lambda model: model.enable_lora() if on else model.disable_lora())

    @rule(factor=st.sampled_from([0.5, 2.0]))
    @precondition(lambda self: self.adapters)
    def scale(self, factor):
        from diffusers.utils.peft_utils import scale_lora_layers

        self.both(lambda model: scale_lora_layers(model, factor))

    @rule()
    @precondition(lambda self: self.adapters)
    def scalings_as_tensors(self):
        for model in (self.theirs, self.ours):
            for layer in model.modules():
                for name, scaling in getattr(layer, "scaling", {}).items():
                    layer.scaling[name] = torch.as_tensor(float(scaling))

    @rule(dtype=st.sampled_from([torch.float32, torch.bfloat16]))
    def cast(self, dtype):
        self.both(lambda model: model.to(dtype) and None)

    @rule(factor=st.sampled_from([0.5, 1.1]))
    def load_state_dict(self, factor):
        state = {
            key: value * factor if value.is_floating_point() else value
            for key, value in self.theirs.state_dict().items()
        }
        self.both(lambda model: model.load_state_dict(state) and None)

    @rule(inside=st.booleans())
    def hook(self, inside):
        for module in self.parts():
            one = module.transformer_blocks[0].ff if inside else module
            self.handles.append(one.register_forward_hook(lambda module, given, output: output * 1.5))

    @rule()
    @precondition(lambda self: self.handles)
    def take_hooks_off(self):
        for handle in self.handles:
            handle.remove()
        self.handles = []

    @rule(training=st.booleans())
    def train(self, training):
        self.both(lambda model: model.train(training) and None)

    @rule()
    def slices(self):
        self.both(
            lambda model: (
                [one.set_attention_slice(2) for one in model.modules() if hasattr(one, "set_processor")] and None
            )
        )

    @rule()
    def positions_off(self):
        for module in self.parts():
            module.transformer_blocks[0].pos_embed = None

    @rule()
    def copied(self):
        if not self.handles:
            self.ours = copy.deepcopy(self.ours)
            self.compiled = None

    @rule()
    def pickled(self):
        if not self.handles:
            self.ours = pickle.loads(pickle.dumps(self.ours))
            self.compiled = None

    @rule()
    def compiled_and_back(self):
        """One temporal module through torch.compile, as it is now, against the same module not compiled."""
        torch._dynamo.reset()
        theirs, ours = self.parts()
        dtype = next(ours.parameters()).dtype
        x = torch.randn(4, 32, 2, 2, generator=torch.Generator().manual_seed(1)).to(dtype)
        with torch.no_grad():
            wanted = answer(lambda model: model(x, num_frames=4), theirs)
            found = answer(lambda model: torch.compile(model, backend="eager")(x, num_frames=4), ours)
        assert difference(wanted, found) is None

    @invariant()
    def same(self):
        kineograph.stats(reset=True)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted, found = answer(run_unet, self.theirs), answer(run_unet, self.ours)
        off = difference(wanted, found)
        assert off is None, off
        stats = kineograph.stats()
        if self.accelerated and not isinstance(found, Exception):
            assert stats.native > 0, stats
        if not self.accelerated:
            assert stats.native == 0


EVERYTHING = os.environ.get("KINEOGRAPH_MUTATIONS") == "all"
TestUsers = Users.TestCase
TestUsers.settings = settings(
    max_examples=60 if EVERYTHING else 2,
    stateful_step_count=20 if EVERYTHING else 10,
    deadline=None,
    derandomize=not EVERYTHING,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
