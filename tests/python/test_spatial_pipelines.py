"""IP-Adapters, LoRAs, control networks and guidance that people add to pipelines: native, or a counted fallback."""

import kineograph
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0  # noqa: E402
from diffusers.models.embeddings import ImageProjection  # noqa: E402
from small_pipelines import (  # noqa: E402
    BLOCKS_2D,
    EMBEDS,
    WIDTHS,
    animatediff,
    frames_of,
    picture,
    same,
    scheduler,
    small_unet,
    stable_diffusion,
    without_text,
)


def compared(pipe, arguments, fallbacks=(), tolerance=2e-4, **more):
    """Frames are the same with accelerate; what falls back is counted for reasons that hold one of `fallbacks` each.
    Returns the plain frames."""
    wanted = frames_of(pipe, arguments, **more)
    report = kineograph.accelerate(pipe)
    kineograph.stats(reset=True)
    assert same(frames_of(pipe, arguments, **more), wanted, tolerance)
    stats = kineograph.stats()
    assert stats.native > 0 or fallbacks, report
    assert len(stats.fallbacks) == len(fallbacks), stats
    assert all(any(part in reason for reason in stats.fallbacks) for part in fallbacks), stats
    return wanted


def ip_adapter(unet):
    """An IP-Adapter's state, as its files have it, for pictures of 16 numbers."""
    torch.manual_seed(3)
    widths = {
        name: unet.get_submodule(name.removesuffix(".processor")).to_q.in_features for name in unet.attn_processors
    }
    layers = {}
    crossing = [name for name in unet.attn_processors if "attn2" in name and "motion_modules" not in name]
    for number, name in enumerate(crossing):
        processor = IPAdapterAttnProcessor2_0(widths[name], unet.config.cross_attention_dim)
        for each in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * number + 1}.{each}.weight"] = processor.state_dict()[f"{each}.0.weight"] * 3
    projection = ImageProjection(cross_attention_dim=16, image_embed_dim=16, num_image_text_embeds=4).state_dict()
    names = {"image_embeds": "proj", "norm": "norm"}
    return {
        "image_proj": {
            f"{names[name.split('.')[0]]}.{name.split('.')[1]}": value for name, value in projection.items()
        },
        "ip_adapter": layers,
    }


# Two images, of the unconditional and the conditional row.
IMAGES = {"ip_adapter_image_embeds": [torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(5))]}


@pytest.mark.parametrize("make", [stable_diffusion, animatediff])
def test_ip_adapters_run_natively(make):
    pipe, arguments = make()
    plain = frames_of(pipe, arguments)
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
    pipe.set_ip_adapter_scale(0.8)
    wanted = compared(pipe, arguments | IMAGES)
    assert not same(wanted, plain, 1e-3)
    pipe.set_ip_adapter_scale(0.0)  # diffusers leaves the adapter out
    assert same(frames_of(pipe, arguments | IMAGES), plain) and not kineograph.stats().fallbacks


def lora_of(unet, targets, rank=2):
    torch.manual_seed(1)
    state = {}
    for name, module in unet.named_modules():
        if ".attentions." in name and name.endswith(targets):
            state[f"unet.{name}.lora_A.weight"] = torch.randn(rank, module.in_features) * 0.2
            state[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, rank) * 0.2
    return state


@pytest.mark.parametrize("make", [stable_diffusion, animatediff])
def test_loras_of_spatial_layers_run_natively(make):
    pytest.importorskip("peft")
    pipe, arguments = make()
    plain = frames_of(pipe, arguments)
    state = lora_of(pipe.unet, ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"))
    pipe.load_lora_weights(state, adapter_name="style")
    wanted = compared(pipe, arguments)
    assert not same(wanted, plain, 1e-3)
    pipe.set_adapters(["style"], adapter_weights=[0.5])
    half = frames_of(pipe, arguments)
    pipe.fuse_lora()
    assert same(frames_of(pipe, arguments), half) and not same(half, wanted, 1e-3)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    assert same(frames_of(pipe, arguments), plain) and not kineograph.stats().fallbacks


def test_free_u():
    pipe, arguments = stable_diffusion()
    plain = frames_of(pipe, arguments)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    compared(pipe, arguments)
    pipe.disable_freeu()
    assert same(frames_of(pipe, arguments), plain) and not kineograph.stats().fallbacks


def given_values(module):
    """A control network ends in zeros; here it says something."""
    for parameter in module.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    return module.eval()


def test_control_net():
    torch.manual_seed(4)
    control = diffusers.ControlNetModel(
        **{key: value for key, value in WIDTHS.items() if key != "sample_size"},
        down_block_types=BLOCKS_2D["down_block_types"],
        conditioning_embedding_out_channels=(16, 32),
        attention_head_dim=4,
        norm_num_groups=8,
    )
    pipe, arguments = stable_diffusion(diffusers.StableDiffusionControlNetPipeline, controlnet=given_values(control))
    compared(pipe, arguments | {"image": picture()})
    assert any(path.startswith("controlnet.") for path in kineograph.accelerate(pipe).native)


def test_sparse_control_net():
    base, arguments = animatediff()
    torch.manual_seed(4)
    control = diffusers.SparseControlNetModel(
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
        motion_num_attention_heads=4,
    )
    pipe = diffusers.AnimateDiffSparseControlNetPipeline(
        **without_text(unet=base.unet, vae=base.vae, scheduler=scheduler()),
        motion_adapter=base.components["motion_adapter"],
        controlnet=given_values(control),
    )
    compared(pipe, arguments | {"conditioning_frames": [picture()], "controlnet_frame_indices": [0]})
    native = kineograph.accelerate(pipe).native
    assert any(path.startswith("controlnet.") and "motion_modules" in path for path in native)
    assert any(path.startswith("controlnet.") and "attentions" in path for path in native)


def test_perturbed_attention_guidance_is_a_counted_fallback():
    pipe, arguments = stable_diffusion(diffusers.StableDiffusionPAGPipeline, pag_applied_layers=["mid"])
    compared(pipe, arguments, ["a processor of its own"], pag_scale=3.0)
    assert kineograph.stats().native == 2 * 3  # the others stay native


def test_gligen_is_a_counted_fallback():
    pipe, arguments = stable_diffusion(unet=small_unet(attention_type="gated"))
    compared(pipe, arguments, ["fuser"])


def test_image_to_image_and_inpainting_components():
    """Whatever holds a UNet: a pipeline made of another's components goes on natively."""
    pipe, _ = stable_diffusion()
    kineograph.accelerate(pipe)
    other = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    given = dict(image=picture(), strength=1.0, num_inference_steps=2, output_type="pt", guidance_scale=7.5)
    found = other(**EMBEDS, **given, generator=torch.Generator().manual_seed(0)).images
    assert kineograph.stats() == kineograph.Stats(native=8)
    kineograph.revert(other)
    assert same(other(**EMBEDS, **given, generator=torch.Generator().manual_seed(0)).images, found)
