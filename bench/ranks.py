#!/usr/bin/env python3
"""The gain of several processes: a module shared by rows of pixels, and a whole UNet shared by frames or by guidance.

pip install .[diffusers,plot]
bench/ranks.py --output docs/ranks_speed      # docs/ranks_speed.json, .md and .png
bench/ranks.py --small --repeats 1 --output small

Measured on this machine: one process with two threads; each process' share by itself, as a machine like this would have
it, of a module's rows and of a whole UNet call, whose exchanges are counted and answered at once; latency and bandwidth
of torch.distributed (gloo) between two processes; and two processes of one thread each. Simulated from these, for N
machines on Ethernet: the time of a share; for each exchange of frames for rows N - 1 latencies and its bytes; for each
gather ceil(log2 N) latencies and its bytes. Tables and the picture say which is which.
"""

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import diffusers
import figures
import kineograph
import torch
import torch.distributed as dist
from kineograph.diffusers import exchange, parallel
from vs_peers import cpu_name

# Seconds of a message, bytes a second.
NETWORKS = {"1 Gbit/s": (50e-6, 0.118e9), "10 Gbit/s": (25e-6, 1.18e9), "100 Gbit/s": (4e-6, 11.8e9)}
RANKS = (2, 4, 8, 16, 32, 64)
FRAMES, GROUPS = 16, 32
# Of the simulated UNet call: AnimateDiff's most, so that 64 machines have one each of the two videos.
LONG = 32


def shape(small):
    """Channels, height, width, heads: AD-0s, or one for a test."""
    return (64, 16, 8, 2) if small else (320, 64, 64, 8)


def module_of(small):
    channels, _, _, heads = shape(small)
    torch.manual_seed(0)
    return kineograph.diffusers.TransformerTemporalModel(heads, channels // heads, in_channels=channels).eval()


def unet_of(small, frames=FRAMES):
    """AnimateDiff's UNet with two of its four levels, so that two processes have it in memory together."""
    widths, text = ((32, 64), 16) if small else ((320, 640), 768)
    torch.manual_seed(0)
    unet = diffusers.UNetMotionModel(
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=text,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    ).eval()
    kineograph.accelerate(unet, spatial=False)
    side = 8 if small else 32
    return unet, (
        torch.randn(2, 4, frames, side, side),
        torch.tensor(500),
        torch.randn(2, 77, text).repeat_interleave(frames, dim=0),
    )


def median(call, repeats, first=1):
    """Seconds; after `first` calls that pack weights and allocate."""
    times = []
    with torch.no_grad():
        for _ in range(repeats + first):
            if dist.is_initialized():
                dist.barrier()
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return statistics.median(times[first:])


class Alone(exchange.Group):
    """A process' group without the others, which answer with zeros: it computes its share and counts what it sends."""

    swaps = gathers = 0

    def __init__(self, size):
        super().__init__(None, size - 1, size)  # the last has most rows

    def all_to_all(self, parts, received):
        self.swaps += 1
        self.bytes_sent += sum(part.nbytes for rank, part in enumerate(parts) if rank != self.rank)
        flat = torch.cat([part.reshape(-1) for part in parts])  # as a process would
        return [flat.new_zeros(count) for count in received]

    def all_gather(self, mine):
        self.gathers += 1
        self.bytes_sent += (self.size - 1) * mine.nbytes
        return [mine.clone() for _ in range(self.size)]


class AloneExchange(exchange.Exchange):
    """An exchange of Alone, whose native modules have the statistics of their own rows only."""

    def __init__(self, group, videos):
        super().__init__(group)
        self.videos = videos

    def ranks(self, height):
        rows = self.rows(height)[self.group.rank]
        for values in (15, self.videos * 3 * GROUPS * (rows[1] - rows[0])):  # the agreement, and the moments
            self.group.all_gather(torch.zeros(values, dtype=torch.float64))
        return None


def splits(ranks):
    """(videos, frames) among how many processes, by what the tables call it, where 2 videos of LONG frames allow it."""
    found = {"frames": (1, ranks), "cfg and frames": (2, ranks // 2)}
    return {name: split for name, split in found.items() if LONG % split[1] == 0 and split[1] <= LONG}


def unet_shares(arguments):
    """One process: a UNet call, and each share of it with what is sent."""
    unet, call = unet_of(arguments.small, LONG)
    sample, time_of, text = call
    with torch.no_grad():  # packs the weights, in two frames
        unet(sample[:, :, :2], time_of, text[:4])
    found = {"whole": median(lambda: unet(*call), arguments.repeats, first=0), "shares": []}
    for ranks in RANKS:
        for name, (videos, frames) in splits(ranks).items():
            groups = {"cfg": Alone(videos), "frames": Alone(frames)}
            groups = {axis: group for axis, group in groups.items() if group.size > 1}
            parallel.spread(unet, groups)
            for module in unet.modules():
                if parallel.EXCHANGE in module.__dict__:
                    module.__dict__[parallel.EXCHANGE] = AloneExchange(groups["frames"], 2 // videos)
            # Short times are disturbed more: more of them.
            calls = arguments.repeats if ranks < 8 else 2 * arguments.repeats
            share = {"ranks": ranks, "by": name, "seconds": median(lambda: unet(*call), calls, first=0)}
            print(f"{ranks} by {name}: {share['seconds']:.2f} s", file=sys.stderr, flush=True)
            share["groups"] = [
                {"size": g.size, "swaps": g.swaps // calls, "gathers": g.gathers // calls, "bytes": g.bytes_sent}
                for g in groups.values()
            ]
            found["shares"].append(share)
            kineograph.revert(unet)
            kineograph.accelerate(unet, spatial=False)
    return found


def shares(arguments):
    """One process: the module, and each share of its rows."""
    channels, height, width, _ = shape(arguments.small)
    module, found = module_of(arguments.small), {"shares": {}}
    x = torch.randn(FRAMES, channels, height, width)
    # A single disturbance is much of a short time: more of them.
    repeats = 2 * arguments.repeats + 1
    found["module"] = median(lambda: module(x, num_frames=FRAMES), repeats)
    for ranks in RANKS:
        rows = x[:, :, : -(-height // ranks)].contiguous()
        found["shares"][ranks] = median(lambda rows=rows: module(rows, num_frames=FRAMES), repeats)
    return found


def alone(arguments):
    """One process: the module and the UNet, whole."""
    channels, height, width, _ = shape(arguments.small)
    module, found = module_of(arguments.small), {}
    x = torch.randn(FRAMES, channels, height, width)
    found["module"] = median(lambda: module(x, num_frames=FRAMES), arguments.repeats)
    unet, call = unet_of(arguments.small)
    found["unet"] = median(lambda: unet(*call), arguments.repeats)
    return found


def together(arguments):
    """One of two processes: what the connection gives, and each its half."""
    dist.init_process_group("gloo")
    found, repeats = {}, arguments.repeats
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,), mesh_dim_names=("frames",))
    group = parallel._groups(mesh, {"frames": "frames"}, 300.0)["frames"]
    short, long = torch.zeros(1024, dtype=torch.uint8), torch.zeros(1 << 23, dtype=torch.uint8)
    found["latency"] = median(lambda: [group.all_gather(short) for _ in range(100)], repeats) / 100
    found["bandwidth"] = long.numel() / median(lambda: group.all_to_all([long, long], [long.numel()] * 2), repeats)
    channels, height, width, _ = shape(arguments.small)
    module, swap = module_of(arguments.small), exchange.Exchange(group)
    first, end = swap.rows(height)[group.rank]
    rows = torch.randn(FRAMES, channels, end - first, width)
    call = (None, None, None, FRAMES, None)
    found["module"] = median(lambda: module._try_native(rows, *call, ranks=swap.ranks(height)), repeats)
    unet, call = unet_of(arguments.small)
    for name in ("frames", "cfg"):
        mesh = dist.device_mesh.init_device_mesh("cpu", (2,), mesh_dim_names=(name,))
        shared = kineograph.parallelize(unet, mesh)
        found[f"unet by {name}"] = median(lambda: unet(*call), repeats)
        found[f"bytes by {name}"] = sum(shared.bytes_sent.values())
        kineograph.revert(unet)
        kineograph.accelerate(unet, spatial=False)
    return found


PARTS = {"shares": shares, "unet_shares": unet_shares, "alone": alone, "together": together}


def measure(arguments, kept):
    """The measurements by name, in processes of their own: threads are set once in a process. `kept`: made before."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]

    def start(part, rank, size, threads):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads)}
        environment |= {"KINEOGRAPH_NUM_THREADS": str(threads)}
        small = ["--small"] if arguments.small else []
        command = [sys.executable, __file__, "--part", part, "--repeats", str(arguments.repeats), *small]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def answers(processes):
        texts = [process.communicate()[0] for process in processes]
        if any(process.returncode != 0 for process in processes):
            raise SystemExit("a part failed")
        return [json.loads(text.splitlines()[-1]) for text in texts]

    def pair():
        two = answers([start("together", rank, 2, 1) for rank in range(2)])
        # All are ready when the slowest is; bandwidth is the other way round.
        return {key: (min if key == "bandwidth" else max)(part[key] for part in two) for key in two[0]}

    makers = {
        "shares": lambda: answers([start("shares", 0, 1, 2)])[0],
        "unet shares": lambda: answers([start("unet_shares", 0, 1, 2)])[0],
        "one process": lambda: answers([start("alone", 0, 1, 2)])[0],
        "two processes": pair,
    }
    return {name: kept[name] if name in kept else make() for name, make in makers.items()}


def simulate(cut, small):
    """Speed of N machines, by network and what is shared."""
    channels, height, width, _ = shape(small)
    rows = []
    for network, (latency, bandwidth) in NETWORKS.items():
        for ranks in RANKS:
            if ranks > height:
                continue
            statistics_bytes = height * GROUPS * 24 * (ranks - 1) / ranks
            share = cut["shares"][str(ranks)] + 2 * math.ceil(math.log2(ranks)) * latency
            share += statistics_bytes / bandwidth
            tensor = FRAMES * channels * height * width * 4
            swap = 2 * ((ranks - 1) * latency + tensor * (ranks - 1) / ranks**2 / bandwidth)
            by_frames = cut["module"] / (share + swap) if FRAMES % ranks == 0 else None
            rows.append({"network": network, "ranks": ranks, "rows": cut["module"] / share, "frames": by_frames})
    return rows


def simulate_unet(measured):
    """Speed of N machines for a UNet call, by network and what is shared."""
    rows = []
    for network, (latency, bandwidth) in NETWORKS.items():
        for share in measured["shares"]:
            seconds = share["seconds"]
            for group in share["groups"]:
                messages = group["swaps"] * (group["size"] - 1) + group["gathers"] * math.ceil(math.log2(group["size"]))
                seconds += messages * latency + group["bytes"] / bandwidth
            row = {"network": network, "ranks": share["ranks"], "by": share["by"]}
            rows.append(row | {"speed": measured["whole"] / seconds})
    return rows


def unet_report(measured, rows):
    lines = [
        "",
        f"**Measured**, a call of AnimateDiff's UNet (two of four levels, 2 videos of {LONG} frames): "
        f"{measured['whole']:.2f} s, and the share of one of N processes by itself; what it sends is counted.",
        "",
        "| N | shared by | share, s | sent, MB | exchanges | gathers |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for share in measured["shares"]:
        sent, swaps, gathers = (sum(g[key] for g in share["groups"]) for key in ("bytes", "swaps", "gathers"))
        lines.append(
            f"| {share['ranks']} | {share['by']} | {share['seconds']:.2f} | {sent / 1e6:.1f} | {swaps} | {gathers} |"
        )
    lines += [
        "",
        "**Simulated**, that call on N machines like this one: speed beside one machine.",
        "",
        f"| N | shared by | {' | '.join(NETWORKS)} |",
        "|---:|---|" + "---:|" * len(NETWORKS),
    ]
    for share in measured["shares"]:
        key = (share["ranks"], share["by"])
        speeds = [f"{row['speed']:.1f}" for row in rows if (row["ranks"], row["by"]) == key]
        lines.append(f"| {key[0]} | {key[1]} | {' | '.join(speeds)} |")
    return lines


def report(measured, rows, unet_rows):
    one, two = measured["one process"], measured["two processes"]
    ratio = {key: one[key.split()[0]] / two[key] for key in ("module", "unet by frames", "unet by cfg")}
    lines = [
        f"Made on: {measured['made_on']}.",
        "",
        "**Measured**, two processes of one thread each beside one process of two threads; gloo between them: "
        f"{two['latency'] * 1e6:.0f} us, {two['bandwidth'] / 1e9:.2f} GB/s.",
        "",
        "| what | one process, s | two processes, s | speed of two / one |",
        "|---|---:|---:|---:|",
    ]
    for key in ratio:
        lines.append(f"| {key} | {one[key.split()[0]]:.3f} | {two[key]:.3f} | {ratio[key]:.2f} |")
    lines += [
        "",
        "**Simulated**, a module on N machines like this one, each share measured alone: speed beside one machine.",
        "",
        "| network | N | rows stay where they are | frames <-> rows |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        frames = "-" if row["frames"] is None else f"{row['frames']:.1f}"
        lines.append(f"| {row['network']} | {row['ranks']} | {row['rows']:.1f} | {frames} |")
    lines += unet_report(measured["unet shares"], unet_rows)
    return "\n".join(lines) + "\n"


def plot(measured, rows, unet_rows, path):
    one, two = measured["one process"], measured["two processes"]

    figure, ((module, unet),) = figures.new(2)
    colours = dict(zip(NETWORKS, ("#c44e52", "#dd8452", "#4c72b0")))
    for network, colour in colours.items():
        # The three networks' lines are one where rows stay.
        for key, style, name in (("rows", "-", "rows stay"), ("frames", "--", "frames <-> rows")):
            points = [(r["ranks"], r[key]) for r in rows if r["network"] == network and r[key]]
            module.plot(*zip(*points), style, color=colour, label=f"simulated: {network}, {name}")
        for by, style in (("cfg and frames", "-"), ("frames", "--")):
            points = [(r["ranks"], r["speed"]) for r in unet_rows if (r["network"], r["by"]) == (network, by)]
            unet.plot(*zip(*points), style, color=colour, label=f"simulated: {network}, by {by}")
    # Two processes of one thread have together what one of two has: the point of two machines is twice as high.
    label = "measured: 2 processes x 1 thread, against 1 x 2, doubled"
    module.plot([2], [2 * one["module"] / two["module"]], "ko", label=label)
    for name, mark in (("frames", "kx"), ("cfg", "ko")):
        unet.plot([2], [2 * one["unet"] / two[f"unet by {name}"]], mark, label=f"{label}, by {name}")
    module.set_title("a module of 320 channels, 64 x 64, 16 frames", fontsize=8)
    unet.set_title(f"a call of a UNet of two levels, 32 x 32, {LONG} frames (measured: {FRAMES})", fontsize=8)
    for axis in (module, unet):
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xticks(RANKS, RANKS)
        axis.set_yticks((1, *RANKS), (1, *RANKS))
        axis.set_xlabel("machines (logarithmic)", fontsize=9)
        axis.set_ylabel("speed beside one machine (logarithmic)", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=6, frameon=False)
    figure.suptitle("One clip over several machines: two measured, more of them simulated", fontsize=11)
    figures.sign(figure, measured["made_on"])
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="tiny models, to see that everything runs")
    parser.add_argument("--output", default="ranks_speed", help="OUTPUT.json, .md and .png are written")
    parser.add_argument("--keep", action="store_true", help="measure only what OUTPUT.json does not have yet")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        print(json.dumps(PARTS[arguments.part](arguments)), flush=True)
        return
    file = Path(arguments.output + ".json")
    measured = measure(arguments, json.loads(file.read_text())["measured"] if arguments.keep else {})
    versions = f"kineograph {kineograph.__version__}, torch {torch.__version__}"
    measured.setdefault("made_on", f"{cpu_name()}, f32, {versions}, {figures.today()}")
    rows, unet_rows = simulate(measured["shares"], arguments.small), simulate_unet(measured["unet shares"])
    answer = {"measured": measured, "simulated": {"module": rows, "unet": unet_rows}}
    file.write_text(json.dumps(answer, indent=1) + "\n")
    text = report(measured, rows, unet_rows)
    Path(arguments.output + ".md").write_text(text)
    plot(measured, rows, unet_rows, arguments.output + ".png")
    print(text, end="")


if __name__ == "__main__":
    main()
