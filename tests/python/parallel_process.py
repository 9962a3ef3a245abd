"""One process of test_parallel: python parallel_process.py CFGxFRAMES..., with RANK, WORLD_SIZE and MASTER_PORT set."""

import copy
import os
import sys

import diffusers
import kineograph
import torch
import torch.distributed as dist
from animatediff import random_pipeline
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLTransformerTemporalEncoder
from kineograph.diffusers import exchange, modules, parallel, temporal_layers
from small_unets import image_to_video_unet, text_to_video_unet
from torch.distributed.device_mesh import init_device_mesh

VIDEOS, FRAMES = 2, 6
NAMES = ("cfg", "frames")


def drawn(unet):
    """The UNet with all weights random: as made, the last convolution over frames is zero and would hide the others."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.05)
    return unet.eval()


def motion():
    """AnimateDiff's UNet, its call, and how many temporal modules it has."""
    return random_pipeline().unet.eval(), {"encoder_hidden_states": random(VIDEOS * FRAMES, 8, 16)}, 11


def conditioned_3d():
    return drawn(text_to_video_unet()), {"encoder_hidden_states": random(VIDEOS, 8, 16)}, 13


def image_to_video_xl():
    more = {
        "fps": torch.tensor([7, 8]),
        "image_latents": random(VIDEOS, 4, FRAMES, 8, 10, seed=3),
        "image_embeddings": random(VIDEOS, 16, seed=4),
        "encoder_hidden_states": random(VIDEOS, 8, 16),
    }
    return drawn(image_to_video_unet()), more, 14


def random(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def call_of(more):
    return {"sample": random(VIDEOS, 4, FRAMES, 8, 10, seed=1), "timestep": torch.tensor([3, 7])} | more


def assert_close(got, want, what):
    # Convolutions and products of torch's may add in another order where the batch is smaller.
    off = (got - want).abs().max().item()
    assert off <= 2e-5 * want.abs().max().item(), f"{what}: off by {off}"


def gradients(unet, call):
    unet.zero_grad()
    unet(**call).sample.square().mean().backward()
    return {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}


def assert_gradient(found, want, what):
    off = (found - want).abs().max().item()
    assert off <= 1e-4 * want.abs().max().item() + 1e-7, f"gradient of {what}: off by {off}"


def assert_added_gradients(found, wanted, what):
    """Of parameters by name, of which each process has a share of the gradient."""
    for name, want in wanted.items():
        whole = found[name].clone()
        dist.all_reduce(whole)
        assert_gradient(whole, want, f"{name} {what}")


def assert_gradients(unet, call, wanted, what):
    assert_added_gradients(gradients(unet, call), wanted, what)


def check_numbers(unet, call, temporal, mesh, groups):
    with torch.no_grad():
        theirs = unet(**call).sample
    kineograph.accelerate(unet, spatial=False)
    with torch.no_grad():
        alone = unet(**call).sample
    wanted = gradients(unet, call)
    done = kineograph.parallelize(unet, mesh)
    assert (done.cfg, done.frames) == groups and not done.whole, done
    assert len(done.temporal) == (temporal if groups[1] > 1 else 0), len(done.temporal)
    before = kineograph.stats()
    with torch.no_grad():
        together = unet(**call)
        assert_close(together.sample, alone, "sample")
        assert_close(unet(*call.values(), return_dict=False)[0], alone, "tuple")
    after = kineograph.stats()
    assert after.fallbacks == before.fallbacks, after
    assert after.native > before.native
    sent = done.bytes_sent
    assert set(sent) == {name for name, size in zip(NAMES, groups) if size > 1} and min(sent.values()) > 0, sent
    assert_gradients(unet, call, wanted, "")
    if groups[1] > 1:
        check_whole(unet, call, alone, wanted)
    kineograph.revert(unet)
    with torch.no_grad():
        assert torch.equal(unet(**call).sample, theirs)
    assert not any("kineograph" in type(module).__module__ for module in unet.modules())


def check_whole(unet, call, alone, wanted):
    """Modules with hooks are whole on every process, and give the same numbers and gradients."""
    kinds = (kineograph.diffusers.TransformerTemporalModel, kineograph.diffusers.AnimateDiffTransformer3D)
    inner = [next(m for m in unet.modules() if isinstance(m, kinds)).proj_in]
    inner += [m.conv2[0] for m in unet.modules() if isinstance(m, TemporalConvLayer)][1:3]
    inner += [m.ff for m in unet.modules() if isinstance(m, I2VGenXLTransformerTemporalEncoder)]
    handles = [module.register_forward_hook(lambda *_: None) for module in inner]
    before = sum(kineograph.stats().fallbacks.values())
    with torch.no_grad():
        assert_close(unet(**call).sample, alone, "with a hook")
    assert sum(kineograph.stats().fallbacks.values()) > before
    assert_gradients(unet, call, wanted, "with a hook")
    for handle in handles:
        handle.remove()


def check_training(unet, call, mesh):
    """Dropout between convolutions over frames: what one process drops. That of others is refused."""
    unet.train()
    kineograph.accelerate(unet, spatial=False)

    def run():
        torch.manual_seed(9)
        return gradients(unet, call)

    wanted = run()
    kineograph.parallelize(unet, mesh)
    assert_added_gradients(run(), wanted, "in training")
    layer = unet.mid_block.resnets[0].dropout
    layer.p = 0.5
    assert_refused(unet, call, "mid_block.resnets.0.dropout, dropout of 0.5")
    layer.p = 0.0
    kineograph.revert(unet.eval())


def own_frames(x, group):
    return x.unflatten(0, (VIDEOS, FRAMES)).chunk(group.size, 1)[group.rank].flatten(0, 1)


def check_convolutions(group):
    """Convolutions over frames by themselves: as near to the numbers in double as torch's own, far from zero too, where
    sums of squares would have lost the variance."""
    layer = drawn(TemporalConvLayer(32, 32, norm_num_groups=8))
    for dtype in (torch.float32, torch.bfloat16):
        layer.to(dtype)
        for height in (7, 1):  # fewer rows than processes: whole on each
            x = (random(VIDEOS * FRAMES, 32, height, 5) + 300 * (dtype == torch.float32)).to(dtype)
            with torch.no_grad():
                want = copy.deepcopy(layer).double()(x.double(), num_frames=FRAMES)
                theirs = (layer(x, num_frames=FRAMES) - want).abs().max().item()
                layer.__class__ = temporal_layers.SharedTemporalConvLayer
                setattr(layer, modules.EXCHANGE, exchange.Exchange(group))
                got = layer(own_frames(x, group), num_frames=FRAMES // group.size)
            delattr(layer, modules.EXCHANGE)
            layer.__class__ = TemporalConvLayer
            off = (got - own_frames(want, group)).abs().max().item()
            assert got.dtype == dtype and off <= 2 * theirs, (dtype, height, off, theirs)


def check_bits(group):
    """A temporal module by itself: not a bit differs, however many processes share its rows."""
    module = kineograph.diffusers.TransformerTemporalModel(4, 8, in_channels=32).eval()
    for dtype in (torch.float32, torch.bfloat16):
        module.to(dtype)
        for height in (7, 1):  # fewer rows than processes: whole on each
            x = torch.randn(VIDEOS * FRAMES, 32, height, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
            with torch.no_grad():
                want = module(x, num_frames=FRAMES).sample
                given = (own_frames(x, group), None, None, None, FRAMES // group.size, None)
                got = exchange.Exchange(group).run(module, *given)
            assert torch.equal(got, own_frames(want, group)), (dtype, height)


def check_context_parallel(unet, call):
    """diffusers' own description of the processes, with a mesh and without."""
    config_class = getattr(diffusers, "ContextParallelConfig", None)
    size = dist.get_world_size()
    if config_class is None or FRAMES % size != 0:  # a diffusers that has none
        return
    with torch.no_grad():
        alone = unet(**call).sample
    theirs = init_device_mesh("cpu", (1, size), mesh_dim_names=("ring", "ulysses"))
    for config in (config_class(ulysses_degree=size), config_class(ulysses_degree=size, mesh=theirs)):
        done = kineograph.parallelize(unet, config)
        assert (done.cfg, done.frames) == (1, size), done
        with torch.no_grad():
            assert_close(unet(**call).sample, alone, "by ContextParallelConfig")
        assert done.bytes_sent["frames"] > 0
        kineograph.revert(unet)
    for wrong in (config_class(ring_degree=size), config_class(ulysses_degree=size + 1, mesh=theirs)):
        try:
            kineograph.parallelize(unet, wrong)
            raise AssertionError("expected ValueError")
        except ValueError as error:
            assert "ring" in str(error), error


def check_trained_by_torch():
    """Native modules in torch's wrappers, a video a process: the gradients of one process with all videos."""
    from torch.distributed import fsdp
    from torch.nn.parallel import DistributedDataParallel

    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    module = kineograph.diffusers.TransformerTemporalModel(4, 8, in_channels=32)
    x = torch.randn(size * FRAMES, 32, 4, 5, generator=torch.Generator().manual_seed(3))
    module(x, num_frames=FRAMES).sample.square().mean().backward()
    wanted = {name: p.grad.clone() for name, p in module.named_parameters()}

    def check(wrapped, found_of):
        module.zero_grad()
        wrapped(x[rank * FRAMES : (rank + 1) * FRAMES], num_frames=FRAMES).sample.square().mean().backward()
        for name, p in module.named_parameters():
            assert_gradient(found_of(p.grad), wanted[name], name)

    before = kineograph.stats().backward
    check(DistributedDataParallel(module), lambda gradient: gradient)  # its hooks end with it
    assert kineograph.stats().backward == before + 1
    if hasattr(fsdp, "fully_shard"):  # from torch 2.6 on
        before = sum(kineograph.stats().fallbacks.values())
        sharded = fsdp.fully_shard(module, mesh=init_device_mesh("cpu", (size,)))
        check(sharded, lambda gradient: gradient.full_tensor())
        assert sum(kineograph.stats().fallbacks.values()) > before, "diffusers' own forward, and said so"


def assert_refused(unet, call, *words):
    try:
        unet(**call)
    except ValueError as error:
        assert any(word in str(error) for word in words), error
    else:
        raise AssertionError("expected ValueError")


class Mixing:
    """An attention's processor that is not known: it might look at other frames."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        return hidden_states


def check_refusals(unet, call, mesh, groups):
    kineograph.parallelize(unet, mesh)
    sample = call["sample"]
    for wrong, size in ((sample[:, :, :5], groups[1]), (sample[:1], groups[0])):
        if size > 1:
            assert_refused(unet, call | {"sample": wrong}, "divide", "row a frame", "as sample has")
    assert_refused(unet, call | {"sample": sample.to("meta")}, "on a device of the mesh, cpu, found one on meta")
    assert_refused(unet, call | {"sample": sample[0]}, "sample: expected (B, C, F, H, W), found [4, 6, 8, 10]")
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    theirs, attention.processor = attention.processor, Mixing()
    assert_refused(unet, call, "attn1, a Attention: it has the processor Mixing")
    attention.processor = theirs
    if groups[0] > 1 and hasattr(unet.mid_block, "temp_convs"):  # two processes would drop the same of their videos
        unet.train()
        assert_refused(unet, call, "temp_convs.0.conv2.2, dropout of 0.1")
        unet.eval()
    try:
        kineograph.revert(unet.mid_block)
        assert groups[1] == 1, "expected ValueError"
    except ValueError as error:
        assert "the whole UNet" in str(error), error
    kineograph.revert(unet)
    unet.up_blocks[0].strange = torch.nn.Conv3d(1, 1, 3)
    try:
        kineograph.parallelize(unet, mesh)
        raise AssertionError("expected ValueError")
    except ValueError as error:
        assert "up_blocks.0.strange, a Conv3d" in str(error), error
    del unet.up_blocks[0].strange


def check_death(unet, call, mesh):
    """Last: the process of the highest number ends in the middle of a call; the others say so."""
    kineograph.parallelize(unet, mesh, timeout=20.0)
    if dist.get_rank() == dist.get_world_size() - 1:
        unet.mid_block.register_forward_pre_hook(lambda *_: os._exit(0))
    try:
        with torch.no_grad():
            unet(**call)
        raise AssertionError("expected CommunicationError")
    except kineograph.CommunicationError:
        pass


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    size = dist.get_world_size()
    for shape in sys.argv[1:]:
        groups = tuple(int(size) for size in shape.split("x"))
        names = [name for name, size in zip(NAMES, groups) if size > 1]
        mesh = init_device_mesh("cpu", tuple(size for size in groups if size > 1), mesh_dim_names=tuple(names))
        for kind in (conditioned_3d, image_to_video_xl, motion):
            unet, more, temporal = kind()
            call = call_of(more)
            check_numbers(unet, call, temporal, mesh, groups)
            check_refusals(unet, call, mesh, groups)
            if groups == (1, size) and kind is conditioned_3d:
                check_training(unet, call, mesh)
        if groups[1] > 1:
            group = parallel._groups(mesh, {"frames": "frames"}, 60.0)["frames"]
            check_convolutions(group)
            check_bits(group)
            check_trained_by_torch()
            check_context_parallel(unet, call)
    check_death(unet, call, mesh)
    print("all held", flush=True)
    os._exit(0)  # a process group of which one is dead has nothing to destroy


if __name__ == "__main__":
    main()
