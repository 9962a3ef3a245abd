#!/usr/bin/env python3
"""The same training run with kineograph and with torch: the same weights, batches and optimizer, and the same losses.

    pip install .[diffusers,plot]
    bench/loss_curve.py --output docs/loss_curve     # docs/loss_curve.png, and the largest difference

A small module learns to take noise off drawn clips, with AdamW in f32. f32's own uncertainty is shown beside: torch
against torch from weights that are off by one rounding.
"""

import argparse
import copy

import diffusers
import figures
import kineograph
import torch
from vs_peers import cpu_name

FRAMES, CHANNELS, SIDE, VIDEOS = 8, 32, 8, 2


def batch(step):
    """Noisy clips and the noise, (B*F, C, H, W): waves of random direction and speed, in every channel another."""
    generator = torch.Generator().manual_seed(step)
    t, y, x = torch.meshgrid(torch.arange(FRAMES), torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    k = 0.8 * torch.randn(3, VIDEOS, 1, CHANNELS, 1, 1, generator=generator)
    phase = 6.3 * torch.rand(VIDEOS, 1, CHANNELS, 1, 1, generator=generator)
    t, y, x = (axis[None, :, None] for axis in (t, y, x))
    clean = torch.sin(k[0] * t + k[1] * y + k[2] * x + phase).flatten(0, 1)
    noise = 0.5 * torch.randn(clean.shape, generator=generator)
    return clean + noise, noise


def module(seed):
    torch.manual_seed(seed)
    return diffusers.TransformerTemporalModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=CHANNELS,
        norm_num_groups=8,
        positional_embeddings="sinusoidal",
        num_positional_embeddings=16,
    ).train()


def run(model, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(steps):
        noisy, noise = batch(step)
        predicted = model(noisy, num_frames=FRAMES).sample - noisy
        loss = torch.nn.functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def largest(a, b):
    return max(abs(x - y) / y for x, y in zip(a, b))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", default="loss_curve", help="OUTPUT.png is written (default: loss_curve)")
    arguments = parser.parse_args()

    start = module(0)
    nudged = copy.deepcopy(start)
    with torch.no_grad():
        for parameter in nudged.parameters():
            parameter.mul_(1 + 2**-23)
    ours = copy.deepcopy(start)
    kineograph.accelerate(ours)
    theirs, others = run(start, arguments.steps), run(nudged, arguments.steps)
    kineograph.stats(reset=True)
    found = run(ours, arguments.steps)
    counted = kineograph.stats()
    assert counted == kineograph.Stats(arguments.steps, {}, arguments.steps), counted

    figure, ((above,), (below,)) = figures.new(1, 2, (7.5, 6.6), sharex=True, height_ratios=(2, 1))
    above.plot(theirs, color="#52606d", linewidth=3, label="PyTorch")
    above.plot(found, color="#d1495b", linewidth=1, label="kineograph")
    above.set_ylabel("loss (logarithmic)")
    above.set_title("The same training run with kineograph and with PyTorch, f32", fontsize=11)
    above.set_yscale("log")
    above.legend(frameon=False)
    for losses, colour, label in (
        (found, "#d1495b", "kineograph − PyTorch"),
        (others, "#9aa5b1", "PyTorch from weights one rounding off − PyTorch"),
    ):
        # A loss that is the same to the last bit has no place on a logarithmic axis; the legend counts them.
        differences = [abs(a - b) / b for a, b in zip(losses, theirs)]
        equal = differences.count(0)
        below.plot(
            [difference or float("nan") for difference in differences],
            ".",
            color=colour,
            markersize=3,
            label=f"{label} ({equal} of {len(losses)} equal to the last bit, not shown)",
        )
    below.set_yscale("log")
    below.set_ylabel("difference, of the loss\n(logarithmic)")
    below.set_xlabel("step")
    below.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.3))
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
    figures.sign(figure, f"Made on: {cpu_name()}, {figures.today()}")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(arguments.output + ".png", dpi=110)
    print(
        f"{arguments.steps} steps, loss {theirs[0]:.4f} to {theirs[-1]:.4f}, {ours.num_parameters():,} parameters, f32"
    )
    print(f"largest difference, kineograph and PyTorch: {largest(found, theirs):.1e} of the loss")
    print(f"largest difference, PyTorch from weights one rounding off: {largest(others, theirs):.1e} of the loss")


if __name__ == "__main__":
    main()
