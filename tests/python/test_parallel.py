"""kineograph.parallelize over processes of this machine, on gloo."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import kineograph  # noqa: E402
import torch  # noqa: E402
from small_pipelines import animatediff  # noqa: E402

HERE = pathlib.Path(__file__).parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(rank, size, meshes, port):
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(HERE.parents[1] / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    return subprocess.Popen(
        [sys.executable, str(HERE / "parallel_process.py"), *meshes],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# Processes, and CFGxFRAMES that they are in turn, since most of the time is that of importing. More of them than cores
# take a minute each: with the variable set they run too.
RUNS = [(2, ["1x2", "2x1"])]
if os.environ.get("KINEOGRAPH_ALL_MESHES"):
    RUNS += [(3, ["1x3"]), (4, ["2x2"])]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
@pytest.mark.parametrize("size, meshes", RUNS)
def test_processes_give_the_numbers_of_one(size, meshes):
    port = free_port()
    processes = [start(rank, size, meshes, port) for rank in range(size)]
    try:
        outputs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, output) in enumerate(zip(processes, outputs)):
        # The last one ends itself in the end.
        assert process.returncode == 0 and ("all held" in output or rank == size - 1), f"{rank}: {output[-3000:]}"


def test_models_that_are_no_unet_of_videos_are_refused():
    with pytest.raises(TypeError, match="UNet3DConditionModel or I2VGenXLUNet, found a Linear"):
        kineograph.parallelize(torch.nn.Linear(2, 2), None)


def test_dimensions_of_other_names_are_refused():
    class Mesh:
        mesh_dim_names = ("dp",)
        device_type = "cpu"

    with pytest.raises(ValueError, match="frames"):
        kineograph.parallelize(animatediff()[0].unet, Mesh())


def mesh_of(device):
    class Mesh:
        mesh_dim_names = ("frames",)
        device_type = device
        mesh = torch.tensor([0, 1])

    return Mesh()


def test_processes_on_other_devices_are_refused():
    with pytest.raises(ValueError, match="expected devices of type cpu or cuda, found xpu"):
        kineograph.parallelize(animatediff()[0].unet, mesh_of("xpu"))


def test_processes_on_gpus_exchange_by_nccl(monkeypatch):
    """Without a GPU two things can be seen: nccl is asked for, and no module is said to run natively."""
    asked = []
    monkeypatch.setattr(torch.distributed, "new_group", lambda ranks, **how: asked.append((ranks, how["backend"])))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    unet = animatediff()[0].unet
    done = kineograph.parallelize(unet, mesh_of("cuda"))
    assert asked == [([0, 1], "nccl")]
    assert done.temporal and set(done.whole) == set(done.temporal)
    assert set(done.whole.values()) == {"on cuda, where none runs natively"}
    sample = torch.zeros(1, unet.config.in_channels, 2, 8, 8)
    with pytest.raises(ValueError, match="sample: expected a tensor on a device of the mesh, cuda, found one on cpu"):
        unet(sample, 1, torch.zeros(1, 1, unet.config.cross_attention_dim))
    kineograph.revert(unet)
