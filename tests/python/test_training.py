"""Training through torch: native gradients, against diffusers' own modules and torch's autograd."""

import copy
import gc
import io
import pathlib
import pickle
import sys

import kineograph
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D  # noqa: E402
from diffusers.training_utils import EMAModel  # noqa: E402
from kineograph import operators  # noqa: E402
from kineograph.diffusers import native as packing  # noqa: E402

sys.path.append(str(pathlib.Path(__file__).parent))
from test_diffusers import (  # noqa: E402  # noqa: E402
    BASE,
    CONFIGS,
    EXTRAS,
    as_diffusers,
    clip,
    close,
    fell_back,
    lora,
    native,
    pair,
    ran_natively,
    text,
)

GRADIENTS = {
    **{name: CONFIGS[name] for name in ("plain", "positions", "cross", "single", "no_affine", "swiglu", "gelu")},
    "layers": dict(num_layers=2, attention_bias=True, positional_embeddings="sinusoidal", num_positional_embeddings=8),
    "double_self_cross": {},
}


@pytest.fixture(autouse=True, params=kineograph.engines())
def engine(request, monkeypatch):
    monkeypatch.setattr(packing, "ENGINE", request.param)
    return request.param


class Spy:
    """Counts what native models are made, and which gradients they are asked for."""

    def __init__(self, monkeypatch):
        self.made, self.wanted = 0, []
        original_make = kineograph._native.Model.from_state_dict

        def make(*arguments):
            self.made += 1
            return original_make(*arguments)

        original_backward = packing.run_backward

        def backward(model, names, *given, num_frames, ranks=None):
            wanted = zip(("hidden_states", "encoder_hidden_states", *names), given[-1])
            self.wanted.append([name for name, one in wanted if one])
            return original_backward(model, names, *given, num_frames, ranks)

        namespace = {
            "Model": type("Model", (), {"from_state_dict": staticmethod(make)}),
            "fingerprint": staticmethod(kineograph._native.fingerprint),
        }
        monkeypatch.setattr(packing, "_native", type("Native", (), namespace))
        monkeypatch.setattr(packing, "run_backward", backward)


@pytest.fixture
def spy(monkeypatch):
    return Spy(monkeypatch)


def target(like):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(7)).to(like.dtype)


def gradients(model, x, **arguments):
    """Every gradient of a loss by name, the input's and the encoder's too."""
    x = x.clone().requires_grad_(x.is_floating_point())
    arguments = {
        key: value.clone().requires_grad_() if key == "encoder_hidden_states" else value
        for key, value in arguments.items()
    }
    model.zero_grad()
    out = model(x, **arguments)
    sample = out if isinstance(out, torch.Tensor) else out.sample
    (sample.float() - target(sample).float()).square().mean().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    inputs = {"hidden_states": x, "encoder_hidden_states": arguments.get("encoder_hidden_states")}
    return found | {
        name: tensor.grad for name, tensor in inputs.items() if tensor is not None and tensor.grad is not None
    }


def assert_close(found, wanted, tolerance=2e-5):
    """Within `tolerance` of the largest gradient: biases before a softmax have gradients that are rounding alone."""
    assert found.keys() == wanted.keys()
    largest = max(value.abs().max().item() for value in wanted.values())
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        off = (found[name].double() - value.double()).abs().max().item()
        assert off <= tolerance * largest, f"{name} is off by {off:.1e}, the largest gradient is {largest:.1e}"


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_torchs(name):
    theirs, ours = pair(**GRADIENTS[name])
    arguments = {"num_frames": 3}
    if "cross" in name:
        arguments["encoder_hidden_states"] = text(30, 32 if "double_self" in name else 12)
    wanted = gradients(theirs, clip(), **arguments)
    assert {"hidden_states", "proj_in.weight"} < wanted.keys() and ("encoder_hidden_states" in wanted) == (
        "cross" in name
    )
    assert_close(gradients(ours, clip(), **arguments), wanted)
    assert kineograph.stats() == kineograph.Stats(native=1, backward=1)


def test_gradients_of_animatediffs_module():
    theirs, ours = pair(AnimateDiffTransformer3D, **GRADIENTS["positions"])
    assert_close(gradients(ours, clip(), num_frames=6), gradients(theirs, clip(), num_frames=6))


@pytest.mark.parametrize("name", EXTRAS)
def test_gradients_of_what_diffusers_lacks(name):
    torch.manual_seed(0)
    ours = native.TransformerTemporalModel(**(BASE | EXTRAS[name])).eval()
    discrete = "discrete" in name
    x = torch.randint(0, 7, (6, 9)) if discrete else clip()
    arguments = {"num_frames": 3}
    if "ada" in name or "cross" in name:
        arguments |= {"timestep": torch.tensor([3, 41]), "class_labels": torch.tensor([1, 5])}
    if "cross" in name:
        arguments["encoder_hidden_states"] = text(2)  # a row a video
    with as_diffusers(ours):
        wanted = gradients(ours, x, **arguments)
    kineograph.stats(reset=True)
    assert_close(gradients(ours, x, **arguments), wanted)
    assert kineograph.stats() == kineograph.Stats(native=1, backward=1)


def test_finite_differences():
    torch.manual_seed(0)
    tiny = dict(num_attention_heads=2, attention_head_dim=3, in_channels=4, norm_num_groups=2, num_layers=2)
    ours = native.TransformerTemporalModel(
        **tiny, double_self_attention=False, cross_attention_dim=5, dropout=0.25
    ).train()
    x, encoder = torch.randn(3, 4, 2, 2), torch.randn(4, 2, 5)
    direction = {name: torch.randn_like(value) for name, value in ours.named_parameters()}
    inputs = {"hidden_states": x, "encoder_hidden_states": encoder}
    direction |= {name: torch.randn_like(value) for name, value in inputs.items()}

    def loss():
        torch.manual_seed(5)  # the same is dropped each time
        return (ours(**inputs, num_frames=3).sample * target(x)).sum()

    for tensor in inputs.values():
        tensor.requires_grad_()
    loss().backward()
    everything = dict(ours.named_parameters()) | inputs
    for name, tensor in everything.items():
        slope, values = (tensor.grad * direction[name]).sum().item(), []
        kept = tensor.detach().clone()
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                tensor.copy_(kept + step * direction[name])
                values.append(loss().double().item())
        with torch.no_grad():
            tensor.copy_(kept)
        # f32 losses of about 10 are good to 1e-5: 1e-3 of a slope over 2e-2, and the third derivative comes on top.
        assert slope == pytest.approx((values[0] - values[1]) / 2e-2, abs=2e-2, rel=2e-2), name
    assert kineograph.stats().backward == 1 and not kineograph.stats().fallbacks


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_twenty_steps_as_torch_takes_them(kind, spy):
    losses = []
    for model in pair(**GRADIENTS["positions"]):
        model.train()
        optimizer = kind(model.parameters(), lr=0.05 if kind is torch.optim.SGD else 1e-3)
        losses.append([])
        for step in range(20):
            x = torch.randn(4, 32, 2, 2, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss = (model(x, num_frames=4).sample - target(x)).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=3e-5) and losses[1][-1] < losses[1][0]
    assert kineograph.stats() == kineograph.Stats(native=20, backward=20)
    assert spy.made == 20  # a pack a step: none for the backward


def test_accumulated_gradients_pack_once(spy):
    theirs, ours = pair()
    for model in (theirs, ours):
        for seed in range(3):
            x = torch.randn(6, 32, 2, 2, generator=torch.Generator().manual_seed(seed))
            (model(x, num_frames=6).sample * target(x)).sum().backward()
    assert_close(*({name: p.grad for name, p in model.named_parameters()} for model in (ours, theirs)))
    assert spy.made == 1


def test_two_passes_then_backward_through_both():
    theirs, ours = pair()
    found = []
    for model in (theirs, ours):
        x = clip().requires_grad_()
        y = model(model(x, num_frames=6).sample, num_frames=3).sample
        (y * target(y)).mean().backward()
        found.append({"x": x.grad} | {name: p.grad for name, p in model.named_parameters()})
    assert_close(found[1], found[0])


@pytest.mark.parametrize("trained", [["norm.weight"], ["transformer_blocks.0.attn1.to_q.weight", "proj_out.bias"], []])
def test_what_is_frozen_costs_nothing(trained, spy):
    theirs, ours = pair()
    for model in (theirs, ours):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
    wanted = gradients(theirs, clip(), num_frames=6)
    assert_close(gradients(ours, clip(), num_frames=6), wanted)
    assert spy.wanted == [["hidden_states", *trained]]
    if trained:
        ours(clip(), num_frames=6).sample.sum().backward()
        assert spy.wanted[1] == trained


def test_nothing_is_kept_but_the_arguments():
    _, ours = pair()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        x = clip(16, 32, 8, 8)
        ours(x, num_frames=16)
    parameters = {parameter.data_ptr() for parameter in ours.parameters()}
    assert {tensor.data_ptr() for tensor in kept} == parameters | {x.data_ptr()}


def test_lora_training(spy):
    pytest.importorskip("peft")
    found = []
    for model in pair(**GRADIENTS["positions"]):
        lora(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            sample = model(clip(), num_frames=6).sample
            loss = (sample - target(sample)).square().mean()
            loss.backward()
            losses.append(loss.item())
            last = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            optimizer.step()
        found.append((losses, last, {name: p.detach() for name, p in model.named_parameters() if "lora_" in name}))
    assert found[1][0] == pytest.approx(found[0][0], rel=3e-5)
    assert_close(found[1][1], found[0][1], 1e-4)
    assert all("lora_" in name for name in found[1][1])
    assert kineograph.stats() == kineograph.Stats(native=5, backward=5)
    # The merged projections' gradients, which the factors' come from, and no others.
    attentions = [
        f"transformer_blocks.0.attn{n}.{part}.weight" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")
    ]
    assert spy.wanted == [["proj_in.weight", *attentions]] * 5


def test_loras_that_fall_back():
    peft = pytest.importorskip("peft")
    for changes, words in (({"lora_dropout": 0.5}, "LoRA with dropout"), ({"use_dora": True}, "another kind")):
        theirs, ours = pair()
        for model in (theirs, ours):
            torch.manual_seed(3)
            config = peft.LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False, **changes)
            peft.inject_adapter_in_model(config, model.train())
        kineograph.stats(reset=True)
        torch.manual_seed(1)
        wanted = gradients(theirs, clip(), num_frames=6)
        torch.manual_seed(1)
        assert_close(gradients(ours, clip(), num_frames=6), wanted)
        assert fell_back(words)


def test_a_lora_with_dropout_is_native_in_eval():
    peft = pytest.importorskip("peft")
    _, ours = pair()
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=["to_q"], lora_dropout=0.5), ours)
    ours.eval()(clip(), num_frames=6)
    assert ran_natively()


def relative(found, truth):
    """How far gradients are off, all of them together, against the exact ones."""
    off = sum((found[name].double() - truth[name].double()).square().sum() for name in truth)
    return (off / sum(truth[name].double().square().sum() for name in truth)).sqrt().item()


def test_bf16_is_as_exact_as_torch():
    theirs, ours = pair(dtype=torch.bfloat16, **GRADIENTS["positions"])
    x = clip(16, 32, 4, 4, torch.bfloat16)
    truth = gradients(copy.deepcopy(theirs).double(), x.double(), num_frames=16)
    found, torchs = gradients(ours, x, num_frames=16), gradients(theirs, x, num_frames=16)
    assert kineograph.stats() == kineograph.Stats(native=1, backward=1)
    assert all(found[name].dtype == torchs[name].dtype == torch.bfloat16 for name in torchs)
    assert relative(found, truth) <= 1.2 * relative(torchs, truth)


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has no grad_dtype")
def test_bf16_weights_with_f32_gradients():
    _, ours = pair(dtype=torch.bfloat16)
    rounded = gradients(ours, clip(dtype=torch.bfloat16), num_frames=6)
    for parameter in ours.parameters():
        parameter.grad = None
        parameter.grad_dtype = torch.float32
    exact = gradients(ours, clip(dtype=torch.bfloat16), num_frames=6)
    for name, parameter in ours.named_parameters():
        assert exact[name].dtype == torch.float32 and torch.equal(exact[name].bfloat16(), rounded[name])
        assert parameter.ndim == 1 or not torch.equal(exact[name], rounded[name].float())


def test_autocast(engine):
    theirs, ours = pair(**GRADIENTS["positions"])
    x = clip(16, 32, 4, 4)
    truth = gradients(theirs, x, num_frames=16)
    found = []
    for model in (theirs, ours):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(gradients(model, x, num_frames=16))
    assert kineograph.stats() == kineograph.Stats(native=1, backward=1)
    assert all(gradient.dtype == torch.float32 for gradient in found[1].values())
    assert relative(found[1], truth) <= 1.2 * relative(found[0], truth)
    assert engine == "reference" or relative(found[1], truth) > 1e-4


def test_dropout_is_drawn_from_torchs_generator(spy):
    _, ours = pair(dropout=0.5)
    ours.train()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(gradients(ours, clip(), num_frames=6))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not torch.equal(runs[0]["proj_in.weight"], runs[2]["proj_in.weight"])
    assert not torch.equal(ours(clip(), num_frames=6).sample, ours(clip(), num_frames=6).sample)
    ours.eval()
    assert torch.equal(ours(clip(), num_frames=6).sample, ours(clip(), num_frames=6).sample)
    assert not kineograph.stats().fallbacks and spy.made == 1


@torch.no_grad()
def test_dropout_has_torchs_distribution():
    """The mean over masks, of the output less the input, and its spread are torch's; other masks are drawn."""
    theirs, ours = pair(dropout=0.4)
    x, draws = clip(2, 32, 2, 2), []
    for model in (theirs.train(), ours.train()):
        torch.manual_seed(0)
        draws.append(torch.stack([model(x, num_frames=2).sample - x for _ in range(400)]))
    for statistic in (torch.mean, torch.std):
        wanted, found = (statistic(each, dim=0) for each in draws)
        # Of 400 draws, a mean is off by 1/20 of the spread, a spread by 1/28 of itself; 256 elements, both sides.
        assert (found - wanted).abs().max() <= 6 * 2**0.5 / 20 * draws[0].std(dim=0).max()
        assert found.mean().item() == pytest.approx(wanted.mean().item(), abs=0.02 * draws[0].std().item())


def test_dropout_of_several_rates_falls_back():
    _, ours = pair(dropout=0.5)
    ours.train()
    ours.transformer_blocks[0].attn1.eval()
    ours(clip(), num_frames=6)
    assert fell_back("several rates")
    ours.train()
    for module in ours.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.25  # another rate for all of them is followed
    ours(clip(), num_frames=6)
    assert ran_natively()


def test_labels_are_dropped_in_training():
    torch.manual_seed(0)
    ours = native.TransformerTemporalModel(**(BASE | EXTRAS["ada_norm_zero"])).train()
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, timestep = clip(1), torch.tensor([3])
    with torch.no_grad():
        ours.eval()
        kept, dropped = (ours(x, timestep=timestep, class_labels=torch.tensor([label])).sample for label in (1, 5))
        ours.train()
        samples = [ours(x, timestep=timestep, class_labels=torch.tensor([1])).sample for _ in range(200)]
    were_dropped = sum(torch.equal(sample, dropped) for sample in samples)
    assert were_dropped + sum(torch.equal(sample, kept) for sample in samples) == 200
    assert 5 <= were_dropped <= 40  # of 200 draws of one in ten: 20, give or take 4.2
    assert not kineograph.stats().fallbacks


def test_ema():
    found = []
    for model in pair():
        ema = EMAModel(model.parameters(), decay=0.6)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(4):
            optimizer.zero_grad()
            x = torch.randn(4, 32, 2, 2, generator=torch.Generator().manual_seed(step))
            (model(x, num_frames=4).sample - target(x)).square().mean().backward()
            optimizer.step()
            ema.step(model.parameters())
        ema.store(model.parameters())
        trained = model(clip(), num_frames=6).sample
        ema.copy_to(model.parameters())
        averaged = model(clip(), num_frames=6).sample
        ema.restore(model.parameters())
        assert torch.equal(model(clip(), num_frames=6).sample, trained) and not torch.equal(averaged, trained)
        found.append((trained, averaged))
    for wanted, ours in zip(*found):
        assert close(ours, wanted, 1e-5)
    assert not kineograph.stats().fallbacks


def test_gradient_checkpointing_is_accepted():
    theirs, ours = pair()
    wanted = gradients(theirs, clip(), num_frames=6)
    ours.enable_gradient_checkpointing()
    assert ours.is_gradient_checkpointing
    assert_close(gradients(ours, clip(), num_frames=6), wanted)
    assert kineograph.stats(reset=True) == kineograph.Stats(native=1, backward=1)  # once each: nothing to save
    with as_diffusers(ours):  # what falls back is checkpointed
        calls = []
        handle = ours.proj_in.register_forward_hook(lambda *_: calls.append(1))
        assert_close(gradients(ours, clip(), num_frames=6), wanted)
        assert len(calls) == 2
        ours.disable_gradient_checkpointing()
        assert_close(gradients(ours, clip(), num_frames=6), wanted)
        assert len(calls) == 3
        handle.remove()


@pytest.mark.parametrize("reentrant", [False, True])
def test_torchs_own_checkpoint(reentrant):
    theirs, ours = pair(dropout=0.3)
    ours.train()
    torch.manual_seed(4)
    wanted = gradients(ours, clip(), num_frames=6)

    torch.manual_seed(4)
    for parameter in ours.parameters():
        parameter.grad = None
    x = clip().requires_grad_()
    (sample,) = torch.utils.checkpoint.checkpoint(ours, x, None, None, None, 6, None, False, use_reentrant=reentrant)
    (sample - target(sample)).square().mean().backward()
    found = {name: p.grad for name, p in ours.named_parameters()} | {"hidden_states": x.grad}
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_compiled_training():
    theirs, ours = pair(**GRADIENTS["cross"])
    theirs.proj_in.requires_grad_(False), ours.proj_in.requires_grad_(False)
    arguments = {"num_frames": 3, "encoder_hidden_states": text(30)}
    wanted = gradients(theirs, clip(), **arguments)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    found = {name.removeprefix("_orig_mod."): value for name, value in gradients(compiled, clip(), **arguments).items()}
    assert_close(found, wanted)
    assert kineograph.stats() == kineograph.Stats(native=1, backward=1)


def test_compiled_training_packs_once_and_follows_the_weights(spy):
    _, ours = pair(dropout=0.5)
    ours.train()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(gradients(compiled, clip(), num_frames=6))
    name = "_orig_mod.proj_in.weight"
    assert torch.equal(runs[0][name], runs[1][name]) and not torch.equal(runs[0][name], runs[2][name])
    assert spy.made == 1
    ours.proj_in.weight.data.mul_(2)
    torch.manual_seed(1)
    assert not torch.equal(gradients(compiled, clip(), num_frames=6)[name], runs[0][name]) and spy.made == 2


def test_a_compiled_fallback_is_counted_when_it_is_traced():
    _, ours = pair()
    ours.transformer_blocks[0].attn1.residual_connection = True
    kineograph.stats(reset=True)
    compiled = torch.compile(ours, backend="aot_eager")
    for _ in range(2):
        compiled(clip(), num_frames=6).sample.sum().backward()
    assert fell_back("residual_connection")


def test_operators_are_well_formed():
    _, ours = pair()
    found = native.modules.eligibility.examine(ours)
    tensors = [tensor.detach().requires_grad_() for tensor in found.weights()]
    spec = found.binding.spec
    seed = torch.tensor(3)
    torch.library.opcheck(
        operators.transformer_temporal, (clip().requires_grad_(), None, None, None, tensors, seed, spec, "f32", 6)
    )
    wanted = [True, False] + [i % 2 == 0 for i in range(len(tensors))]
    plain = [tensor.detach() for tensor in tensors]
    torch.library.opcheck(
        operators.transformer_temporal_backward,
        (clip(), clip(), None, None, None, plain, seed, wanted, spec, "f32", 6),
    )


def test_what_autograd_refuses():
    _, ours = pair()
    x = clip().requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x, num_frames=6).sample.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    loss = ours(clip(), num_frames=6).sample.sum()
    with torch.no_grad():
        ours.proj_in.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_on_gradients():
    theirs, ours = pair(AnimateDiffTransformer3D)
    seen = []
    ours.proj_in.weight.register_hook(lambda gradient: gradient * 2)
    ours.register_full_backward_hook(lambda *_: seen.append("module"))
    wanted, found = gradients(theirs, clip(), num_frames=6), gradients(ours, clip(), num_frames=6)
    assert_close({"w": found["proj_in.weight"]}, {"w": 2 * wanted["proj_in.weight"]}, 1e-4)
    assert seen == ["module"] and kineograph.stats(reset=True) == kineograph.Stats(native=1, backward=1)
    ours.proj_in.register_full_backward_hook(lambda *_: seen.append("inside"))
    gradients(ours, clip(), num_frames=6)
    assert seen[-2:] == ["inside", "module"] and fell_back("proj_in has hooks")


def test_functional_transforms_fall_back():
    theirs, ours = pair()
    found = []
    for model in (theirs, ours):

        def loss(parameters, model=model):
            return torch.func.functional_call(model, parameters, (clip(),), {"num_frames": 6}).sample.square().mean()

        found.append(torch.func.grad(loss)({name: p.detach() for name, p in model.named_parameters()}))
    assert_close(found[1], found[0])
    assert fell_back("another kind")


def test_pickles_and_packed_models_go_on():
    _, ours = pair()
    gradients(ours, clip(), num_frames=6)
    again = pickle.load(io.BytesIO(pickle.dumps(ours)))
    assert_close(gradients(again, clip(), num_frames=6), gradients(ours, clip(), num_frames=6), 0)
    gc.collect()
    held = len(packing._packed)
    del again
    gc.collect()
    assert len(packing._packed) == held - 1


def test_the_recorder_hears_of_training_forwards():
    _, ours = pair()
    with kineograph.record_attention(ours) as maps:
        gradients(ours, clip(), num_frames=6)
    assert maps["transformer_blocks.0.attn1"].shape == (1, 15, 4, 6, 6)


def test_an_accelerated_unet_trains():
    torch.manual_seed(0)
    unet = diffusers.UNetMotionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=8,
        cross_attention_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        num_attention_heads=2,
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        motion_num_attention_heads=2,
        use_motion_mid_block=True,
    )
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    unet.enable_gradient_checkpointing()
    x, encoder = torch.randn(1, 4, 4, 8, 8), torch.randn(4, 3, 8)
    found = []
    for _ in range(2):
        unet.zero_grad()
        unet(x, torch.tensor([10]), encoder, return_dict=False)[0].square().mean().backward()
        found.append({name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None})
        kinds = kineograph.accelerate(unet).kinds
    assert_close(found[1], found[0], 1e-4)
    stats = kineograph.stats()
    spatial = kinds["spatial transformer"]
    modules = sum(kinds.values()) - spatial
    # diffusers checkpoints the module in the middle alone, whose forward is then computed once more.
    assert stats.backward == modules and stats.native in (modules, modules + 1)
    assert sum(stats.fallbacks.values()) == spatial > 0
    assert list(stats.fallbacks) == ["gradients of a spatial transformer are recorded"]
    kineograph.revert(unet)
    assert not any(
        "gradient_checkpointing" in module.__dict__
        for module in unet.modules()
        if isinstance(module, AnimateDiffTransformer3D)
    )
