"""diffusers' spatial transformers with a native forward: the same numbers, or a counted fallback."""

import copy

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import kineograph  # noqa: E402
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0  # noqa: E402
from diffusers.models.transformers.transformer_temporal import (  # noqa: E402
    TransformerSpatioTemporalModel,
)
from kineograph.diffusers import acceleration, native  # noqa: E402

SMALL = dict(num_attention_heads=2, attention_head_dim=8, in_channels=32, cross_attention_dim=12)


@pytest.fixture(autouse=True)
def _on_the_reference_engine(monkeypatch):
    monkeypatch.setattr(native, "ENGINE", "reference")
    kineograph.stats(reset=True)
    with torch.no_grad():
        yield


def spatial(**changes):
    torch.manual_seed(0)
    return diffusers.Transformer2DModel(**(SMALL | changes)).eval()


def video(**changes):
    torch.manual_seed(0)
    config = dict(num_attention_heads=2, attention_head_dim=16, in_channels=32, cross_attention_dim=12)
    model = TransformerSpatioTemporalModel(**(config | changes)).eval()
    model.time_mixer.mix_factor.fill_(-0.4)
    return model


def accelerated(module):
    mine = copy.deepcopy(module)
    report = kineograph.accelerate(mine)
    assert report.native == [""] and not report.not_native, str(report)
    return mine


def check(module, *call, **more):
    """A native forward is diffusers' own, and was one."""
    mine = accelerated(module)
    before = kineograph.stats()
    wanted, found = module(*call, **more), mine(*call, **more)
    assert kineograph.stats().native == before.native + 1, kineograph.stats()
    assert type(found).__mro__[-2] is type(wanted).__mro__[-2]
    difference = (found.sample - wanted.sample).abs().max() / wanted.sample.abs().max()
    assert difference < (2e-2 if wanted.sample.dtype == torch.bfloat16 else 1e-5)
    assert (found[0] == found.sample).all()
    return mine


def falls_back(module, reason, *call, **more):
    mine = copy.deepcopy(module)
    kineograph.accelerate(mine)
    kineograph.stats(reset=True)
    wanted, found = module(*call, **more), mine(*call, **more)
    found, wanted = found[0], wanted[0]
    assert torch.equal(found, wanted)
    (counted,) = kineograph.stats().fallbacks
    assert reason in counted, counted


def images(rows=2, channels=32, height=3, width=5, dtype=torch.float32):
    return torch.randn(rows, channels, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def texts(rows=2, tokens=7, width=12, dtype=torch.float32):
    return torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_linear_projection": True},
        {"num_layers": 2, "attention_bias": True},
        {"activation_fn": "gelu"},
        {"norm_elementwise_affine": False},
        {"norm_num_groups": 8},
        {"attention_head_dim": 5},
    ],
)
def test_a_native_forward_is_diffusers(config):
    check(spatial(**config), images(), encoder_hidden_states=texts())


def test_self_attention_and_positional_arguments():
    check(spatial(cross_attention_dim=None), images())
    check(spatial(cross_attention_dim=None, double_self_attention=True), images())
    check(spatial(), images(), texts())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes(dtype):
    mine = accelerated(spatial().to(dtype))
    x, text = images(dtype=dtype), texts(dtype=dtype)
    exact = spatial().to(dtype).double()(x.double(), text.double()).sample
    assert ((mine(x, text).sample.double() - exact).abs().max() / exact.abs().max()) < 8e-3


def test_masks():
    keep = torch.tensor([[1, 1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 0, 0, 1]])
    bias = (1 - keep.float())[:, None] * -10000.0
    check(spatial(), images(), texts(), encoder_attention_mask=keep)
    check(spatial(), images(), texts(), encoder_attention_mask=bias)
    check(spatial(), images(), texts(), attention_mask=torch.randn(2, 1, 15))
    with pytest.raises((RuntimeError, ValueError)):  # diffusers' own words for a mask that it cannot spread
        accelerated(spatial())(images(), texts(), encoder_attention_mask=bias[:, :, :5])


def with_ip_adapters(module, tokens=(4, 3), scale=(0.7, -0.5)):
    torch.manual_seed(1)
    for layer, block in enumerate(module.transformer_blocks):
        processor = IPAdapterAttnProcessor2_0(16, 12, num_tokens=tokens, scale=[one + layer for one in scale])
        block.attn2.set_processor(processor)
    return module.eval()


def test_ip_adapters():
    module = with_ip_adapters(spatial(num_layers=2))
    states = (texts(), [texts(2, 4), texts(2, 3)])
    mine = check(module, images(), encoder_hidden_states=states)
    for one in (module, mine):
        one.transformer_blocks[1].attn2.processor.scale = [0.0, 2.0]
    assert (module(images(), states).sample - mine(images(), states).sample).abs().max() < 1e-5
    masks = [torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)]
    one_image = (states[0], [one[:, None] for one in states[1]])
    check(module, images(), encoder_hidden_states=one_image)
    several = (states[0], [torch.cat([one[:, None], -one[:, None]], 1) for one in states[1]])
    check(module, images(), encoder_hidden_states=several)
    falls_back(module, "ip_adapter_masks", images(), one_image, cross_attention_kwargs={"ip_adapter_masks": masks})
    mixed = with_ip_adapters(spatial(num_layers=2))
    mixed.transformer_blocks[0].attn2.set_processor(spatial().transformer_blocks[0].attn2.processor)
    kineograph.accelerate(mixed)
    assert "IP-Adapters" in str(kineograph.accelerate(mixed))


def test_videos():
    zeros = torch.zeros(2, 3)
    call = (images(6), texts(6))
    check(video(), *call, zeros)
    check(video(num_layers=2), *call, image_only_indicator=torch.tensor([[1, 0, 0], [0, 1, 0]]))
    check(video(cross_attention_dim=None), *call, zeros)
    chunked = video()
    for block in chunked.temporal_transformer_blocks:
        block.set_chunk_feed_forward(1)
    check(chunked, *call, zeros)


def test_what_is_not_known_to_be_the_same_falls_back():
    x, text = images(), texts()
    falls_back(spatial(norm_eps=0.1), "epsilon", x, text)
    falls_back(spatial(only_cross_attention=True), "only_cross_attention", x, text)
    falls_back(spatial(norm_type="ada_norm", num_embeds_ada_norm=9), "norm_type", x, text, torch.tensor(3))
    gated = spatial(attention_type="gated")
    falls_back(gated, "fuser", x, text)
    hooked = spatial()
    hooked.transformer_blocks[0].attn1.register_forward_hook(lambda *_: None)
    falls_back(hooked, "hooks", x, text)
    mixed = video()
    mixed.time_mixer.merge_strategy = "fixed"
    falls_back(mixed, "merge_strategy", images(4), texts(4), torch.zeros(2, 2))
    with torch.enable_grad():
        falls_back(spatial(), "gradients", x.requires_grad_(), text)


def test_what_diffusers_refuses_is_refused_in_its_words():
    for module in (spatial(), accelerated(spatial())):
        with pytest.raises(RuntimeError):
            module(images(2, 31), texts())
        with pytest.raises(RuntimeError):
            module(images(), texts(2, 7, 11))
    for module in (video(), accelerated(video())):
        with pytest.raises((RuntimeError, AttributeError)):
            module(images(4), texts(4))


def test_weights_are_followed():
    module = spatial()
    mine = accelerated(module)
    x, text = images(), texts()
    mine(x, text)
    for one in (module, mine):
        one.transformer_blocks[0].attn2.to_k.weight.data.mul_(2)
        one.proj_in.bias.data.add_(0.5)
    assert (module(x, text).sample - mine(x, text).sample).abs().max() < 1e-4


def test_loras_of_peft():
    peft = pytest.importorskip("peft")
    module = spatial()
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=4, target_modules=["to_q", "to_v", "ff.net.2"], init_lora_weights=False), module
    )
    check(module, images(), texts())


def test_compiled_graphs_have_one_operator():
    mine = accelerated(spatial())
    x, text = images(), texts()
    graphs = []

    def backend(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    sample = torch.compile(mine, backend=backend, fullgraph=True)(x, text).sample
    assert any("transformer_spatial" in target for target in graphs[0]) and len(graphs) == 1
    assert torch.equal(sample, mine(x, text).sample)


def test_folders_of_diffusers_and_ours(tmp_path):
    module = spatial(num_layers=2)
    module.save_pretrained(tmp_path)
    mine = kineograph.Transformer2DModel.from_pretrained(tmp_path, engine="reference")
    x, text = images(), texts()
    assert (torch.from_numpy(mine(x.numpy(), text.numpy()).sample) - module(x, text).sample).abs().max() < 1e-5
    mine.save_pretrained(tmp_path / "again")
    again = diffusers.Transformer2DModel.from_pretrained(tmp_path / "again")
    for (name, a), (other, b) in zip(module.state_dict().items(), again.state_dict().items()):
        assert name == other and torch.equal(a, b)
    assert {k: v for k, v in module.config.items() if k[0] != "_"} == {
        k: v for k, v in again.config.items() if k[0] != "_"
    }


def test_unets_and_reverting():
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()
    call = (torch.randn(2, 4, 8, 8), 500, texts())
    wanted = unet(*call).sample
    assert kineograph.accelerate(unet, spatial=False).native == []
    report = kineograph.accelerate(unet)
    assert len(report.native) == 4 and "4 spatial transformers run natively" in str(report)
    assert (unet(*call).sample - wanted).abs().max() < 1e-4
    assert kineograph.stats().native == 4 and not kineograph.stats().fallbacks
    assert kineograph.revert(unet) == 4
    assert torch.equal(unet(*call).sample, wanted)


def test_without_an_engine_for_them_they_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(native, "runs_spatial", lambda kind: False)
    monkeypatch.setattr(acceleration, "runs_spatial", lambda kind: False)
    module = spatial()
    assert kineograph.accelerate(module).native == [] and type(module) is diffusers.Transformer2DModel
