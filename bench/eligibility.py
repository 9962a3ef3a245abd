"""The cost of deciding: eligibility and binding of a module beside its forward, and the hash of its weights.

A forward through torch first walks the module's whole state, then hashes the weights, then computes. The first is timed
by letting the second and third do nothing; the hash by itself; medians of `--repeats` calls.

usage: python bench/eligibility.py [--threads N] [--json]
"""

import argparse
import json
import statistics
import time

import kineograph
import torch
from kineograph import diffusers as drop_in
from kineograph.diffusers import eligibility, native

# name: (heads, head_dim, channels, groups, batch, frames, height, width, dtype)
SHAPES = {
    "smallest": (4, 8, 32, 8, 1, 8, 2, 2, torch.float32),
    "AD-3 bf16": (8, 160, 1280, 32, 2, 16, 8, 8, torch.bfloat16),
}


def median(call, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measured(shape, repeats):
    heads, head_dim, channels, groups, batch, frames, height, width, dtype = shape
    torch.manual_seed(0)
    model = drop_in.AnimateDiffTransformer3D(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=channels,
        norm_num_groups=groups,
        positional_embeddings="sinusoidal",
        num_positional_embeddings=32,
    )
    model = model.eval().to(dtype)
    x = torch.randn(batch * frames, channels, height, width).to(dtype)

    def call():
        return model(x, num_frames=frames)

    with torch.no_grad():
        exact = super(drop_in.AnimateDiffTransformer3D, model).forward(x, num_frames=frames)
        kineograph.stats(reset=True)
        off = (call() - exact).abs().max() / exact.abs().max()
        assert kineograph.stats(reset=True).native == 1 and off < 3e-2, f"the answer is off by {off}"
        found = eligibility.examine(model)
        weights = found.weights()
        whole = median(call, repeats)
        hashing = median(lambda: native._mark(weights, []), repeats)
        run, packed = native.run, native.packed_model
        native.run, native.packed_model = (lambda *_: x), (lambda *_: None)
        try:
            deciding = median(call, max(repeats, 200))
        finally:
            native.run, native.packed_model = run, packed
    return {
        "forward_ms": 1e3 * whole,
        "eligibility_us": 1e6 * deciding,
        "eligibility_share": deciding / whole,
        "hash_us": 1e6 * hashing,
        "hash_GB_per_s": sum(weight.nbytes for weight in weights) / hashing / 1e9,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="of every call; 0 for as many as torch takes")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    kineograph.set_num_threads(arguments.threads)
    results = {name: measured(shape, arguments.repeats) for name, shape in SHAPES.items()}
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print("| module | forward | eligibility and binding | hash of the weights |\n|---|---|---|---|")
    for name, one in results.items():
        print(
            f"| {name} | {one['forward_ms']:.2f} ms | {one['eligibility_us']:.0f} us, {one['eligibility_share']:.2%} | "
            f"{one['hash_us']:.0f} us, {one['hash_GB_per_s']:.1f} GB/s |"
        )


if __name__ == "__main__":
    main()
