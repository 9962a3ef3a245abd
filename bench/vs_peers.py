#!/usr/bin/env python3
"""Times kineograph beside PyTorch eager, torch.compile, ONNX Runtime and OpenVINO: same weights, same input, one run.

    python3 -m pip install -r bench/requirements.txt
    python3 bench/vs_peers.py build/release/bin/kineograph --output peers            # peers.json, peers.md, peers.png
    python3 bench/vs_peers.py build/release/bin/kineograph --shapes small --dtypes f32 --rounds 3 --output peers

Every program runs in a process of its own, stopped (SIGSTOP) while another is timed, so that no pool of spinning
threads takes a core from its neighbour. Answers are compared with diffusers in float64 before anything is timed, and a
wrong one is left out with its error. Rounds are interleaved; the figure is the median over them. Memory is a process's
growth during its first forward, the output not counted; for kineograph, its workspace_bytes.
Weights and input are bf16 values in either precision, so that both have the same answer.
"""

import argparse
import gc
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import figures

PEERS = {"eager": "PyTorch eager", "compile": "torch.compile", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
ALLOWED = {"f32": 1e-4, "bf16": 5e-2}  # of the largest output


class Shape(NamedTuple):
    """One of the shapes that `kineograph bench` measures; flops are a forward's."""

    shape: str
    videos: int
    frames: int
    channels: int
    height: int
    width: int
    heads: int
    head_dim: int
    positions: int
    flops: float


def bench(program, *arguments):
    """What `kineograph bench` measures, or lists: a row a shape."""
    done = subprocess.run([program, "bench", *arguments, "--json"], stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)  # the program has said why
    return json.loads(done.stdout)


def shape_of(program, name):
    """A shape by its name in `kineograph bench --list`, or as BxFxCxHxW:headsxdim."""
    return Shape(**bench(program, "--list", "--shape", name)[0])


# --- A peer's process -----------------------------------------------------------------------------------------------


def load_diffusers(folder, dtype):
    import torch
    from diffusers import TransformerTemporalModel

    class Fixed(torch.nn.Module):
        """One tensor in, one out, as exporters want it."""

        def __init__(self, frames):
            super().__init__()
            self.model = TransformerTemporalModel.from_pretrained(folder).to(dtype).eval()
            self.frames = frames

        def forward(self, hidden_states):
            return self.model(hidden_states, num_frames=self.frames, return_dict=False)[0]

    return Fixed


def prepare(name, folder, frames, x, dtype, threads):
    """A function from nothing to the output as a torch tensor."""
    import torch

    torch.set_num_threads(threads)
    lowp = dtype == "bf16"
    if name in ("eager", "compile"):
        model = load_diffusers(folder, torch.bfloat16 if lowp else torch.float32)(frames)
        x = x.to(torch.bfloat16 if lowp else torch.float32)
        if name == "compile":
            model = torch.compile(model)
        return lambda: model(x)
    model = load_diffusers(folder, torch.float32)(frames)
    array = x.float().numpy()
    if name == "onnx":
        import onnxruntime

        if lowp:
            raise RuntimeError("no bf16 kernels for CPUs")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (x.float(),), str(path), dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        key = session.get_inputs()[0].name
        return lambda: torch.from_numpy(session.run(None, {key: array})[0])
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        openvino.convert_model(model, example_input=x.float()),
        "CPU",
        {"INFERENCE_PRECISION_HINT": dtype, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"},
    )
    request = compiled.create_infer_request()
    return lambda: torch.from_numpy(next(iter(request.infer({0: array}, share_inputs=True).values())))


def memory_kib(key):
    """VmRSS, what this process holds now, or VmHWM, the most since the last reset_peak()."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status: expected {key}, found none")


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")


def worker(arguments):
    """Speaks lines of JSON: first the answer, then one time for each line it reads."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no answer
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(arguments.folder)
    x = load_file(folder / "input.safetensors")["hidden_states"]
    try:
        with torch.inference_mode():
            forward = prepare(arguments.worker, str(folder), arguments.frames, x, arguments.dtype, arguments.threads)
            if arguments.worker == "compile":
                forward()  # compiling takes memory of its own
                gc.collect()
            # Elsewhere the first forward is the one: arenas that a program keeps afterwards are made in it.
            reset_peak()
            before = memory_kib("VmRSS")
            y = forward()
            memory = max(0, (memory_kib("VmHWM") - before) * 1024 - y.numel() * y.element_size())
            save_file({"sample": y.contiguous()}, folder / "answer.safetensors")
            print(json.dumps({"memory_bytes": memory}), file=answers, flush=True)
            for _ in sys.stdin:
                start = time.perf_counter()
                forward()
                print(json.dumps({"seconds": time.perf_counter() - start}), file=answers, flush=True)
    except Exception as error:  # a peer that cannot run is a row that says why
        print(json.dumps({"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}), file=answers, flush=True)


# --- Timing ---------------------------------------------------------------------------------------------------------


class Stopped:
    """A process that speaks lines of JSON, stopped between its turns."""

    def __init__(self, command, threads):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.first = self._read()
        self.error = self.first.get("error")
        if self.error is None:
            self.process.send_signal(signal.SIGSTOP)

    def _read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process ended"}

    def seconds(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds = self._read()["seconds"]
        self.process.send_signal(signal.SIGSTOP)
        return seconds

    def close(self):
        self.process.kill()
        self.process.wait()


class Peer(Stopped):
    """Another program."""

    def __init__(self, name, folder, frames, dtype, threads):
        self.title = PEERS[name]
        self.folder = folder
        command = [sys.executable, __file__, "-", "--worker", name, "--folder", str(folder)]
        command += ["--frames", str(frames), "--dtype", dtype, "--threads", str(threads)]
        super().__init__(command, threads)
        self.memory_bytes = self.first.get("memory_bytes")

    def answer(self):
        from safetensors.torch import load_file

        return load_file(self.folder / "answer.safetensors")["sample"]


class Kineograph:
    """The program: `run` for the answer, `bench` for each round's time, which it takes beside the machine's peak."""

    title = "kineograph"
    error = None

    def __init__(self, program, folder, shape, dtype, threads):
        self.program, self.folder = program, folder
        self.bench = ["--shape", shape.shape, "--dtype", dtype, "--threads", str(threads), "--repeats", "3"]
        self.run = ["run", "--model", folder, "--input", folder / "input.safetensors", "--output"]
        self.run += [folder / "answer.safetensors", "--num-frames", str(shape.frames), "--dtype", dtype]
        self.memory_bytes, self.peak_gflops, self.isa = None, [], ""

    def answer(self):
        from safetensors.torch import load_file

        subprocess.run([self.program, *self.run], check=True, stderr=subprocess.DEVNULL)
        return load_file(self.folder / "answer.safetensors")["sample"]

    def seconds(self):
        (row,) = bench(self.program, *self.bench)
        self.memory_bytes, self.isa = row["workspace_bytes"], row["isa"]
        self.peak_gflops.append(row["peak_gflops"])
        return row["seconds_median"]

    def close(self):
        pass


def model_arguments(shape):
    """Arguments of diffusers' class."""
    positions = {"positional_embeddings": "sinusoidal", "num_positional_embeddings": shape.positions}
    return {
        "num_attention_heads": shape.heads,
        "attention_head_dim": shape.head_dim,
        "in_channels": shape.channels,
        "norm_num_groups": 1 if shape.channels % 32 else 32,
        **(positions if shape.positions else {}),
    }


def make_problem(folder, shape, dtype):
    """Writes model and input (as `dtype`, which the answer then has too), returns the answer in float64."""
    import torch
    from diffusers import TransformerTemporalModel
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = TransformerTemporalModel(**model_arguments(shape)).eval()
    model.to(torch.bfloat16).to(torch.float32).save_pretrained(folder)
    x = torch.randn(shape.videos * shape.frames, shape.channels, shape.height, shape.width).to(torch.bfloat16)
    x = x if dtype == "bf16" else x.float()
    save_file({"hidden_states": x}, Path(folder) / "input.safetensors")
    with torch.inference_mode():
        return model.double()(x.double(), num_frames=shape.frames, return_dict=False)[0]


def measure(program, shape_id, dtype, names, rounds, threads, say):
    shape = shape_of(program, shape_id)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        truth = make_problem(folder, shape, dtype)
        rows, running = [], []
        for name in ["kineograph", *names]:
            if name == "kineograph":
                peer = Kineograph(program, folder, shape, dtype, threads)
            else:
                peer = Peer(name, folder, shape.frames, dtype, threads)
            row = {"shape": shape_id, "dtype": dtype, "program": peer.title}
            rows.append(row)
            if peer.error is None:
                off = (peer.answer().double() - truth).abs()
                row["max_error"] = (off.max() / truth.abs().max()).item()
                row["rms_error"] = (off.square().mean().sqrt() / truth.square().mean().sqrt()).item()
                if not row["max_error"] <= ALLOWED[dtype]:
                    peer.error = f"off by {row['max_error']:.1e} of the largest output"
            if peer.error is None:
                running.append((row, peer, []))
            else:
                row["error"] = peer.error
                peer.close()
            verdict = row.get("error") or f"right within {row['max_error']:.1e}"
            say(f"{shape_id} {dtype} {peer.title}: {verdict}")
        del truth
        for _ in range(rounds + 1):
            for _, peer, seconds in running:
                seconds.append(peer.seconds())
        for row, peer, seconds in running:
            row["seconds"] = statistics.median(seconds[1:])  # the first warms up
            row["gflops"] = shape.flops / row["seconds"] / 1e9
            row["memory_bytes"] = peer.memory_bytes
            peer.close()
        peak = statistics.median(running[0][1].peak_gflops)
        isa = running[0][1].isa
        for row in rows:
            row.update(peak_gflops=peak, isa=isa, threads=threads)
            if "seconds" in row:
                say(f"{shape_id} {dtype} {row['program']}: {row['seconds']:.4f} s")
        return rows


# --- Tables and pictures --------------------------------------------------------------------------------------------


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def summary(rows):
    """How much faster than the fastest other program kineograph is."""
    lines = ["| shape | precision | kineograph is faster by | than |", "|---|---|---:|---|"]
    for mine in (r for r in rows if r["program"] == Kineograph.title):
        problem = (mine["shape"], mine["dtype"])
        others = [r for r in rows if (r["shape"], r["dtype"]) == problem and r is not mine and "error" not in r]
        if others:
            fastest = min(others, key=lambda r: r["seconds"])
            factor = fastest["seconds"] / mine["seconds"]
            lines.append(f"| {mine['shape']} | {mine['dtype']} | {factor:.2f} × | {fastest['program']} |")
    return "\n".join(lines) + "\n"


def table(rows):
    lines = [
        "| shape | precision | program | seconds | GFLOP/s | of peak | kineograph is | rms error | working memory |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    ours = {(r["shape"], r["dtype"]): r["seconds"] for r in rows if r["program"] == Kineograph.title}
    for r in rows:
        start = f"| {r['shape']} | {r['dtype']} | {r['program']} |"
        if "error" in r:
            lines.append(f"{start} {r['error']} | | | | | |")
            continue
        factor = r["seconds"] / ours[r["shape"], r["dtype"]]
        faster = "" if r["program"] == Kineograph.title else f"{factor:.2f} × as fast"
        lines.append(
            f"{start} {r['seconds']:.4f} | {r['gflops']:.0f} | {100 * r['gflops'] / r['peak_gflops']:.0f} % | {faster} "
            f"| {r['rms_error']:.1e} | {r['memory_bytes'] / 1e6:.0f} MB |"
        )
    return "\n".join(lines) + "\n"


def plot(rows, path, made_on):
    dtypes = list(dict.fromkeys(r["dtype"] for r in rows))
    figure, axes = figures.new(len(dtypes))
    for axis, dtype in zip(axes[0], dtypes):
        mine = [r for r in rows if r["dtype"] == dtype]
        figures.bars(axis, mine, lambda r: r.get("gflops", f"no {r['dtype']}"), "GFLOP/s, more is faster")
        figures.peak(axis, mine)
        axis.set_title(f"forward, {dtype}", fontsize=10)
    figures.save(figure, axes, "One temporal module of AnimateDiff, five programs", made_on, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the kineograph program")
    parser.add_argument("--shapes", default="AD-0,AD-2,small", help="those of kineograph bench")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", default="peers", help="OUTPUT.json, .md and .png are written (default: peers)")
    parser.add_argument("--redraw", action="store_true", help="only draw OUTPUT.png, of what was measured before")
    for hidden in ("--worker", "--folder", "--dtype"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)

    if arguments.redraw:
        rows = json.loads(Path(arguments.output + ".json").read_text())
        head = Path(arguments.output + ".md").read_text().split("\n")[0]
        return plot(rows, arguments.output + ".png", head)

    def say(line):
        print(line, file=sys.stderr, flush=True)

    rows = []
    for shape_id in arguments.shapes.split(","):
        for dtype in arguments.dtypes.split(","):
            names = [name for name in arguments.peers.split(",") if name]
            rows += measure(arguments.program, shape_id, dtype, names, arguments.rounds, arguments.threads, say)
            # After each, so that an interrupted run keeps what it has.
            head = f"Made on: {cpu_name()}, {arguments.threads} threads, {rows[0]['isa']}, {figures.today()}."
            Path(arguments.output + ".json").write_text(json.dumps(rows, indent=1) + "\n")
            report = head + "\n\n" + summary(rows) + "\n" + table(rows)
            Path(arguments.output + ".md").write_text(report)
            plot(rows, arguments.output + ".png", head)
    print(report, end="")


if __name__ == "__main__":
    main()
