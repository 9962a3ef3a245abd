#!/usr/bin/env python3
"""One temporal module on a CUDA device: PyTorch eager, torch.compile, kineograph's engine cuda. Times and peak memory.

    pip install .[diffusers] --config-settings=cmake.define.KINEOGRAPH_CUDA_ENGINE=ON
    bench/gpu_peers.py --output gpu_peers.json

PyTorch's modules get tensors in the device's memory. kineograph's engine takes host tensors only, so its time has both
copies in it and is not comparable before it takes device tensors: the table says "with copies". Answers are compared
first, in f32 on the host.
"""

import argparse
import json
import statistics
import sys
import time

# Name: videos, frames, pixels down and across, channels (heads of 40, 80, 160; SDXL's 10 of 32).
SHAPES = {
    "AD-0": (2, 16, 64, 64, 320, 8),
    "AD-1": (2, 16, 32, 32, 640, 8),
    "AD-2": (2, 16, 16, 16, 1280, 8),
    "AD-3": (2, 16, 8, 8, 1280, 8),
    "XL-0": (2, 16, 128, 128, 320, 10),
}
# Of the largest value: some twenty roundings of 2^-8 or 2^-11.
ALLOWED = {"bf16": 5e-2, "f16": 1e-2}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), help="default: all")
    parser.add_argument("--dtypes", nargs="+", choices=list(ALLOWED), default=list(ALLOWED), help="default: both")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls; the median counts")
    parser.add_argument("--output", default="gpu_peers.json", help="file of the results")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats: expected a whole number from 1, found {options.repeats}")
    return options


def timed(call, repeats, wait):
    """Median milliseconds of calls that are waited for, after three that are not counted."""
    times = []
    for i in range(repeats + 3):
        wait()
        start = time.perf_counter()
        call()
        wait()
        if i >= 3:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def make_module(torch, shape, dtype):
    from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel

    _, _, _, _, channels, heads = shape
    torch.manual_seed(0)
    module = TransformerTemporalModel(
        heads, channels // heads, in_channels=channels, positional_embeddings="sinusoidal", num_positional_embeddings=32
    )
    return module.eval().to(dtype)


def peer_rows(torch, name, module, x, frames, repeats):
    """A row each for eager and compiled."""
    for program in ("eager", "compile"):
        run = module if program == "eager" else torch.compile(module)

        def call(run=run):
            return run(x, num_frames=frames, return_dict=False)[0]

        with torch.no_grad():
            call()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            milliseconds = timed(call, repeats, torch.cuda.synchronize)
            peak = torch.cuda.max_memory_allocated() - before
            yield {"shape": name, "program": program, "milliseconds": milliseconds, "peak_bytes": peak}


def our_row(kineograph, name, module, x, want, frames, repeats, allowed, engine="cuda"):
    model = kineograph.TransformerTemporalModel.from_state_dict(
        dict(module.config), {key: value.cpu() for key, value in module.state_dict().items()}, engine=engine
    )
    host = x.cpu()
    sample = model(host, num_frames=frames).sample
    error = float((want.float().cpu() - sample.float()).abs().max() / want.float().abs().max())
    if not error <= allowed:
        sys.exit(f"gpu_peers: {name}: kineograph is off by {error:.1e} of the largest value, allowed {allowed:.0e}")
    milliseconds = timed(lambda: model(host, num_frames=frames), repeats, lambda: None)
    return {"shape": name, "program": "kineograph, with copies", "milliseconds": milliseconds, "error": error}


def main():
    options = arguments()
    try:
        import torch
    except ModuleNotFoundError:
        sys.exit("gpu_peers: PyTorch is not installed; nothing was measured")
    if not torch.cuda.is_available():
        sys.exit("gpu_peers: this machine has no CUDA device that PyTorch can use; nothing was measured")
    import kineograph

    ours = "cuda" in kineograph.engines()
    if not ours:
        print("gpu_peers: this build of kineograph has no engine cuda; the others are measured alone", file=sys.stderr)
    results = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": []}
    for dtype in options.dtypes:
        for name in options.shapes:
            shape = SHAPES[name]
            module = make_module(torch, shape, {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]).cuda()
            videos, frames, height, width, channels, _ = shape
            x = torch.randn(videos * frames, channels, height, width, device="cuda").to(module.dtype)
            rows = list(peer_rows(torch, name, module, x, frames, options.repeats))
            if ours:
                with torch.no_grad():
                    want = module(x, num_frames=frames, return_dict=False)[0]
                rows.append(our_row(kineograph, name, module, x, want, frames, options.repeats, ALLOWED[dtype]))
            for row in rows:
                peak = f"{row['peak_bytes'] / 2**20:8.0f} MiB" if "peak_bytes" in row else " " * 12
                print(f"{dtype:5} {name:5} {row['program']:24} {row['milliseconds']:9.2f} ms {peak}", flush=True)
                results["rows"].append({"dtype": dtype, **row})
            with open(options.output, "w") as file:
                json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
