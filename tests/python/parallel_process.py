"""One process of test_parallel: python parallel_process.py CFGxFRAMES..., with RANK, WORLD_SIZE and MASTER_PORT set."""

import os
import sys

import diffusers
import kineograph
import torch
import torch.distributed as dist
from animatediff import random_pipeline
from torch.distributed.device_mesh import init_device_mesh

VIDEOS, FRAMES = 2, 6
NAMES = ("cfg", "frames")


def call_of(seed=1):
    draw = torch.Generator().manual_seed(seed)
    sample = torch.randn(VIDEOS, 4, FRAMES, 8, 10, generator=draw)
    text = torch.randn(VIDEOS * FRAMES, 8, 16, generator=draw)  # a row a frame, as the pipelines give it
    return sample, torch.tensor([3, 7]), text


def assert_close(got, want, what):
    # Convolutions and products of torch's may add in another order where the batch is smaller.
    off = (got - want).abs().max().item()
    assert off <= 2e-5 * want.abs().max().item(), f"{what}: off by {off}"


def gradients(unet, call):
    unet.zero_grad()
    unet(*call).sample.square().mean().backward()
    return {name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None}


def check_numbers(unet, mesh, groups):
    call = call_of()
    with torch.no_grad():
        theirs = unet(*call).sample
    kineograph.accelerate(unet, spatial=False)
    with torch.no_grad():
        alone = unet(*call).sample
    wanted = gradients(unet, call)
    done = kineograph.parallelize(unet, mesh)
    assert (done.cfg, done.frames) == groups and not done.not_native, done
    assert len(done.temporal) == (11 if groups[1] > 1 else 0), done.temporal
    before = kineograph.stats()
    with torch.no_grad():
        together = unet(*call)
        assert_close(together.sample, alone, "sample")
        assert_close(unet(*call, return_dict=False)[0], alone, "tuple")
    after = kineograph.stats()
    assert after.fallbacks == before.fallbacks, after
    assert after.native > before.native
    sent = done.bytes_sent
    assert set(sent) == {name for name, size in zip(NAMES, groups) if size > 1} and min(sent.values()) > 0, sent
    found = gradients(unet, call)
    for name, want in wanted.items():
        whole = found[name].clone()
        dist.all_reduce(whole)
        off = (whole - want).abs().max().item()
        assert off <= 1e-4 * want.abs().max().item() + 1e-7, f"gradient of {name}: off by {off}"
    if groups[1] > 1:
        check_fallback(unet, call, alone)
    kineograph.revert(unet)
    with torch.no_grad():
        assert torch.equal(unet(*call).sample, theirs)


def check_fallback(unet, call, alone):
    """A module that cannot run natively is whole on every process, and gives the same numbers."""
    module = next(m for m in unet.modules() if isinstance(m, kineograph.diffusers.AnimateDiffTransformer3D))
    handle = module.proj_in.register_forward_hook(lambda *_: None)
    before = sum(kineograph.stats().fallbacks.values())
    with torch.no_grad():
        assert_close(unet(*call).sample, alone, "with a hook")
    assert sum(kineograph.stats().fallbacks.values()) > before
    handle.remove()


def check_bits(mesh):
    """A temporal module by itself: not a bit differs, however many processes share its rows."""
    from kineograph.diffusers import parallel

    group = parallel._groups(mesh, {"frames": "frames"}, 60.0)["frames"]
    module = kineograph.diffusers.TransformerTemporalModel(4, 8, in_channels=32).eval()
    for dtype in (torch.float32, torch.bfloat16):
        module.to(dtype)
        for height in (7, 1):  # fewer rows than processes: whole on each
            x = torch.randn(VIDEOS * FRAMES, 32, height, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
            with torch.no_grad():
                want = module(x, num_frames=FRAMES).sample
                own = x.unflatten(0, (VIDEOS, FRAMES)).chunk(group.size, 1)[group.rank].flatten(0, 1)
                exchange = parallel.Exchange(group)
                got = exchange.run(module, own, None, None, None, FRAMES // group.size, None)
            part = want.unflatten(0, (VIDEOS, FRAMES)).chunk(group.size, 1)[group.rank].flatten(0, 1)
            assert torch.equal(got, part), (dtype, height)


def check_context_parallel(unet):
    """diffusers' own description of the processes, with a mesh and without."""
    config_class = getattr(diffusers, "ContextParallelConfig", None)
    size, call = dist.get_world_size(), call_of()
    if config_class is None or FRAMES % size != 0:  # a diffusers that has none
        return
    with torch.no_grad():
        alone = unet(*call).sample
    theirs = init_device_mesh("cpu", (1, size), mesh_dim_names=("ring", "ulysses"))
    for config in (config_class(ulysses_degree=size), config_class(ulysses_degree=size, mesh=theirs)):
        done = kineograph.parallelize(unet, config)
        assert (done.cfg, done.frames) == (1, size), done
        with torch.no_grad():
            assert_close(unet(*call).sample, alone, "by ContextParallelConfig")
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
            off = (found_of(p.grad) - wanted[name]).abs().max().item()
            assert off <= 1e-4 * wanted[name].abs().max().item() + 1e-7, f"gradient of {name}: off by {off}"

    before = kineograph.stats().backward
    check(DistributedDataParallel(module), lambda gradient: gradient)  # its hooks end with it
    assert kineograph.stats().backward == before + 1
    if hasattr(fsdp, "fully_shard"):  # from torch 2.6 on
        before = sum(kineograph.stats().fallbacks.values())
        sharded = fsdp.fully_shard(module, mesh=init_device_mesh("cpu", (size,)))
        check(sharded, lambda gradient: gradient.full_tensor())
        assert sum(kineograph.stats().fallbacks.values()) > before, "diffusers' own forward, and said so"


def check_refusals(unet, mesh, groups):
    kineograph.parallelize(unet, mesh)
    sample, time, text = call_of()
    for wrong, size in ((sample[:, :, :5], groups[1]), (sample[:1], groups[0])):
        if size > 1:
            try:
                unet(wrong, time[:1], text)
                raise AssertionError("expected ValueError")
            except ValueError as error:
                assert "divide" in str(error) or "row a frame" in str(error), error
    kineograph.revert(unet)


def check_death(unet, mesh):
    """Last: the process of the highest number ends in the middle of a call; the others say so."""
    kineograph.parallelize(unet, mesh, timeout=20.0)
    call = call_of()
    if dist.get_rank() == dist.get_world_size() - 1:
        unet.mid_block.register_forward_pre_hook(lambda *_: os._exit(0))
    try:
        with torch.no_grad():
            unet(*call)
        raise AssertionError("expected CommunicationError")
    except kineograph.CommunicationError:
        pass


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for shape in sys.argv[1:]:
        groups = tuple(int(size) for size in shape.split("x"))
        names = [name for name, size in zip(NAMES, groups) if size > 1]
        mesh = init_device_mesh("cpu", tuple(size for size in groups if size > 1), mesh_dim_names=tuple(names))
        unet = random_pipeline().unet.eval()
        check_numbers(unet, mesh, groups)
        if groups[1] > 1:
            check_bits(mesh)
            check_trained_by_torch()
            check_context_parallel(unet)
        check_refusals(unet, mesh, groups)
    check_death(unet, mesh)
    print("all held", flush=True)
    os._exit(0)  # a process group of which one is dead has nothing to destroy


if __name__ == "__main__":
    main()
