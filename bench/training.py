#!/usr/bin/env python3
"""Times one forward and backward: kineograph, PyTorch eager, eager with gradient checkpointing, torch.compile.

    pip install .[diffusers,plot]
    bench/training.py --output docs/training_speed  # docs/training_speed.json, .md and .png
    bench/training.py --shapes 1x8x64x8x8:4x16 --rounds 3          # a small one

All through torch, with the same weights, input and gradient by the sample; all parameters and the input get gradients.
Every program runs in a process of its own, stopped while another is timed; what it does not need between its turns it
gives back, so that the gigabytes of two are never held at once. Gradients are compared with eager's in f32 before
anything is timed, and a wrong program is left out with its error. Rounds are interleaved; the figure is their median.
FLOP are three times the forward's: a forward computed a second time does not count.
Memory is a process's growth during its first step, less gradients, sample and input gradient, which all programs need.
Copies of the weights that a program keeps count. A step of another, narrow module comes first, so that code loaded
late does not; a compiled graph's first step is at this shape, for one of which it is made.
"""

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import figures
import vs_peers
from vs_peers import cpu_name, memory_kib, model_arguments, reset_peak, shape_of

PROGRAMS = {
    "kineograph": "kineograph",
    "eager": "PyTorch eager",
    "checkpoint": "eager, checkpointed",
    "compile": "torch.compile",
}
# How far gradients may be off eager's in f32: root mean square, of the input's gradient and of all parameters'.
ALLOWED = {"f32": 1e-5, "bf16": 5e-2}


# --- A program's process --------------------------------------------------------------------------------------------


def make_step(program, shape, dtype):
    """A function from input and gradient to the sample, after which gradients are where torch puts them; the model."""
    import torch
    from diffusers import TransformerTemporalModel
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    model = TransformerTemporalModel(**model_arguments(shape))
    model = model.to(torch.bfloat16).to(dtype).train()  # the same values in either precision
    if program == "kineograph":
        import kineograph

        kineograph.accelerate(model)
    run = torch.compile(model) if program == "compile" else model

    def step(x, gradient):
        x.grad = None
        model.zero_grad(set_to_none=True)
        arguments = (x, None, None, None, shape.frames, None, False)
        (y,) = checkpoint(run, *arguments, use_reentrant=False) if program == "checkpoint" else run(*arguments)
        y.backward(gradient)
        return y.detach()

    return step, model


def drawn(shape, dtype):
    """An input and a gradient by the sample, of values that bf16 has."""
    import torch

    size = (shape.videos * shape.frames, shape.channels, shape.height, shape.width)
    generator = torch.Generator().manual_seed(1)
    x, gradient = (torch.randn(size, generator=generator).to(torch.bfloat16).to(dtype) for _ in range(2))
    return x.requires_grad_(), gradient


def worker(arguments):
    """Speaks lines of JSON: first what the first step took, then one time for each line it reads."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    give_back = ctypes.CDLL(None).malloc_trim
    try:
        import torch
        from safetensors.torch import save_file

        torch.set_num_threads(arguments.threads)
        shape = shape_of(arguments.kineograph, arguments.shapes)
        dtype = torch.bfloat16 if arguments.dtypes == "bf16" else torch.float32
        step, model = make_step(arguments.worker, shape, dtype)
        x, gradient = drawn(shape, dtype)
        if arguments.worker == "compile":
            step(x, gradient)
        else:
            narrow = shape._replace(videos=1, height=1, width=1, channels=64, heads=8, head_dim=8)
            make_step(arguments.worker, narrow, dtype)[0](*drawn(narrow, dtype))
        x.grad = None
        model.zero_grad(set_to_none=True)
        gc.collect()
        give_back(0)
        reset_peak()
        before = memory_kib("VmRSS")
        y = step(x, gradient)
        grown = (memory_kib("VmHWM") - before) * 1024
        wanted = [y, x.grad, *(parameter.grad for parameter in model.parameters())]
        known = sum(tensor.nbytes for tensor in wanted)
        if arguments.worker == "kineograph":
            import kineograph

            counted = kineograph.stats()
            if counted.fallbacks or counted.backward != 2:
                raise RuntimeError(f"not all of it ran natively: {counted}")
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        save_file(
            {"sample": y, "hidden_states": x.grad, **gradients},
            Path(arguments.folder) / f"{arguments.worker}.safetensors",
        )
        first = {
            "grown_bytes": grown,
            "known_bytes": known,
            "memory_bytes": max(0, grown - known),
            "weight_bytes": sum(parameter.nbytes for parameter in model.parameters()),
        }
        del y, wanted, gradients
        print(json.dumps(first), file=answers, flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            step(x, gradient)
            seconds = time.perf_counter() - start
            give_back(0)
            print(json.dumps({"seconds": seconds}), file=answers, flush=True)
    except Exception as error:  # a program that cannot run is a row that says why
        print(json.dumps({"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}), file=answers, flush=True)


# --- Timing ---------------------------------------------------------------------------------------------------------


def command(name, folder, shape_id, dtype, threads, program):
    return [
        sys.executable,
        __file__,
        "--worker",
        name,
        "--folder",
        str(folder),
        "--shapes",
        shape_id,
        "--dtypes",
        dtype,
        "--threads",
        str(threads),
        "--kineograph",
        program,
    ]


def errors(folder, name, truth):
    """Root mean square errors, of the truth's: of the sample, the input's gradient, and all parameters' gradients."""
    from safetensors.torch import load_file

    found = load_file(Path(folder) / f"{name}.safetensors")
    rms = {}
    for kind in ("sample", "hidden_states", "parameters"):
        keys = [
            key for key in truth if key == kind or (kind == "parameters" and key not in ("sample", "hidden_states"))
        ]
        off = sum((found[key].double() - truth[key].double()).square().sum().item() for key in keys)
        rms[kind] = (off / sum(truth[key].double().square().sum().item() for key in keys)) ** 0.5
    return rms


def peak_gflops(program, dtype, threads):
    """Rate of multiply-adds on registers now, and their instruction set."""
    tiny = ["--shape", "1x8x64x8x8:4x16", "--repeats", "1", "--dtype", dtype, "--threads", str(threads)]
    (row,) = vs_peers.bench(program, *tiny)
    return row["peak_gflops"], row["isa"]


def measure(shape_id, dtype, names, rounds, threads, program, say):
    from safetensors.torch import load_file

    flops = 3 * shape_of(program, shape_id).flops
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        exact = vs_peers.Stopped(command("eager", folder, shape_id, "f32", threads, program), threads)
        if exact.error is not None:
            raise SystemExit(f"{shape_id}: eager in f32, which the others are compared with: {exact.error}")
        exact.close()
        truth = load_file(folder / "eager.safetensors")
        rows, running = [], []
        for name in names:
            process = vs_peers.Stopped(command(name, folder, shape_id, dtype, threads, program), threads)
            row = {"shape": shape_id, "dtype": dtype, "program": PROGRAMS[name], **process.first}
            rows.append(row)
            if process.error is None:
                row["rms_error"] = errors(folder, name, truth)
                if not max(row["rms_error"].values()) <= ALLOWED[dtype]:
                    row["error"] = f"off by {max(row['rms_error'].values()):.1e}"
            if "error" in row:
                process.close()
            else:
                running.append((row, process, []))
            say(f"{shape_id} {dtype} {row['program']}: {row.get('error') or row['rms_error']}")
        del truth
        peaks = []
        for turn in range(rounds + 1):  # the first warms up
            for _, process, seconds in running:
                seconds.append(process.seconds())
            peak, isa = peak_gflops(program, dtype, threads)
            peaks.append(peak)
            say(
                f"{shape_id} {dtype} round {turn}: " + "  ".join(f"{r['program']} {s[-1]:.3f} s" for r, _, s in running)
            )
        for row, process, seconds in running:
            row["seconds"] = statistics.median(seconds[1:])
            row["all_seconds"] = seconds[1:]
            row["gflops"] = flops / row["seconds"] / 1e9
            process.close()
        for row in rows:
            row.update(peak_gflops=statistics.median(peaks), isa=isa, threads=threads)
        return rows


def measure_memory(rows, arguments):
    """Puts what a first step takes now into the rows."""
    names = {title: name for name, title in PROGRAMS.items()}
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            of_row = row["shape"], row["dtype"], arguments.threads, arguments.kineograph
            process = vs_peers.Stopped(command(names[row["program"]], folder, *of_row), arguments.threads)
            process.close()
        if process.error is not None:
            raise SystemExit(f"{row['shape']} {row['dtype']} {row['program']}: {process.error}")
        row.update(process.first)
        print(row["shape"], row["dtype"], row["program"], row["memory_bytes"], file=sys.stderr, flush=True)


# --- Tables and pictures --------------------------------------------------------------------------------------------


def table(rows):
    lines = [
        "| shape | precision | program | seconds | GFLOP/s | of peak | kineograph is "
        "| rms error of gradients | memory beyond |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    ours = {(r["shape"], r["dtype"]): r["seconds"] for r in rows if r["program"] == "kineograph" and "seconds" in r}
    for r in rows:
        start = f"| {r['shape']} | {r['dtype']} | {r['program']} |"
        if "error" in r:
            lines.append(f"{start} {r['error']} | | | | | |")
            continue
        mine = ours.get((r["shape"], r["dtype"]))
        faster = f"{r['seconds'] / mine:.2f} × as fast" if mine and r["program"] != "kineograph" else ""
        off = max(r["rms_error"]["hidden_states"], r["rms_error"]["parameters"])
        lines.append(
            f"{start} {r['seconds']:.3f} | {r['gflops']:.0f} | {100 * r['gflops'] / r['peak_gflops']:.0f} % | {faster} "
            f"| {off:.1e} | {r['memory_bytes'] / 1e6:.0f} MB |"
        )
    return "\n".join(lines) + "\n"


def memory_of(row):
    return row["memory_bytes"] / 1e6 if "memory_bytes" in row else "failed"


def plot(rows, path, made_on):
    dtypes = list(dict.fromkeys(r["dtype"] for r in rows))
    figure, axes = figures.new(len(dtypes), 2)
    for column, dtype in enumerate(dtypes):
        mine = [r for r in rows if r["dtype"] == dtype]
        speed, memory = axes[0][column], axes[1][column]
        figures.bars(speed, mine, lambda r: r.get("gflops", "failed"), "GFLOP/s of 3 × the forward's work")
        figures.peak(speed, mine)
        speed.set_title(f"forward and backward, {dtype}", fontsize=10)
        figures.bars(memory, mine, memory_of, "MB beyond weights and gradients", log=True)
    figures.save(figure, axes, "Training one temporal module of AnimateDiff through torch", made_on, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="AD-0s,AD-1s,AD-2s", help="those of kineograph bench")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--kineograph",
        default=str(Path(sys.executable).with_name("kineograph")),
        help="the program, which measures the machine's peak (default: the one of this Python)",
    )
    parser.add_argument(
        "--output", default="training", help="OUTPUT.json, .md and .png are written (default: training)"
    )
    parser.add_argument("--memory", action="store_true", help="measure memory alone anew, and keep OUTPUT.json's times")
    parser.add_argument("--redraw", action="store_true", help="only draw OUTPUT.png, of what was measured before")
    for hidden in ("--worker", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)

    if arguments.memory or arguments.redraw:
        table_path, rows_path = (Path(arguments.output + ending) for ending in (".md", ".json"))
        rows = json.loads(rows_path.read_text())
        head = table_path.read_text().split("\n")[0]
        if arguments.memory:
            head = f"{head.partition('; memory')[0].rstrip('.')}; memory on {figures.today()}."
            measure_memory(rows, arguments)
            rows_path.write_text(json.dumps(rows, indent=1) + "\n")
            table_path.write_text(head + "\n\n" + table(rows))
        return plot(rows, arguments.output + ".png", head)

    def say(line):
        print(line, file=sys.stderr, flush=True)

    rows = []
    for shape_id in arguments.shapes.split(","):
        for dtype in arguments.dtypes.split(","):
            rows += measure(
                shape_id,
                dtype,
                arguments.programs.split(","),
                arguments.rounds,
                arguments.threads,
                arguments.kineograph,
                say,
            )
            # After each, so that an interrupted run keeps what it has.
            head = f"Made on: {cpu_name()}, {arguments.threads} threads, {rows[0]['isa']}, {figures.today()}."
            Path(arguments.output + ".json").write_text(json.dumps(rows, indent=1) + "\n")
            Path(arguments.output + ".md").write_text(head + "\n\n" + table(rows))
            plot(rows, arguments.output + ".png", head)
    print(head + "\n\n" + table(rows), end="")


if __name__ == "__main__":
    main()
