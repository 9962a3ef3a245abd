"""Trains a motion LoRA: the way one clip moves, in a few megabytes on top of an AnimateDiff motion adapter. On the CPU,
with the temporal modules' forward and backward run by kineograph.

    pip install kineograph[diffusers] peft
    python train_motion_lora.py --base SD1.5_FOLDER --motion-adapter ADAPTER_FOLDER --clip clip.mp4 --prompt "waves" \\
        --output lora

The LoRA is saved as diffusers loads it: ``pipe.load_lora_weights("lora")``. `--clip` is anything that ffmpeg decodes.
Without weights of your own, ``--random`` trains the same UNet small, with random weights; without a clip it is shown a
drawn one that pans. ``--compare`` trains a second time without kineograph and prints the differences of losses and
seconds.
"""

import argparse
import subprocess
import time

import kineograph
import numpy
import torch
from animatediff import random_pipeline
from diffusers import AnimateDiffPipeline, DDPMScheduler, MotionAdapter
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

# The projections of the temporal attentions, and of nothing else in the UNet.
PROJECTIONS = r".*motion_modules\.\d+\.transformer_blocks\..*\.(to_q|to_k|to_v|to_out\.0)"


def drawn_clip(frames, size):
    """(F, 3, H, W) in -1 to 1: a pattern of waves that moves two pixels to the right a frame."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pictures = []
    for frame in range(frames):
        waves = [torch.sin((x - 2 * frame) * (0.2 + 0.1 * c)) * torch.cos(y * (0.3 - 0.05 * c)) for c in range(3)]
        pictures.append(torch.stack(waves))
    return torch.stack(pictures)


def read_clip(path, frames, size):
    """The same of the first frames of a video, cropped to a square in the middle."""
    square = f"crop='min(iw,ih)':'min(iw,ih)',scale={size}:{size}"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        path,
        "-vf",
        square,
        "-frames:v",
        str(frames),
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    pictures = numpy.frombuffer(raw, numpy.uint8).reshape(-1, size, size, 3)
    if len(pictures) < frames:
        raise SystemExit(f"{path}: expected {frames} frames or more (--frames), found {len(pictures)}")
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encoded(pipe, clip, prompt):
    """The UNet's input for a clip and a prompt: latents (1, C, F, H, W) and embeddings (F, S, D), the same a frame."""
    latents = pipe.vae.encode(clip.to(pipe.vae.dtype)).latent_dist.mean * pipe.vae.config.scaling_factor
    if pipe.text_encoder is None:  # --random
        embeds = torch.randn(1, 8, pipe.unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(0))
    else:
        embeds, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
    return latents.transpose(0, 1)[None], embeds.repeat_interleave(len(clip), dim=0)


def train(pipe, latents, embeds, arguments):
    """Steps of AdamW on the LoRA's factors; the losses. The UNet has them from then on."""
    torch.manual_seed(arguments.seed)
    unet = pipe.unet.requires_grad_(False).train()
    unet.add_adapter(LoraConfig(r=arguments.rank, lora_alpha=arguments.rank, target_modules=PROJECTIONS))
    if arguments.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    factors = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(factors, lr=arguments.learning_rate)
    noises = DDPMScheduler.from_config(pipe.scheduler.config)
    losses, start = [], time.perf_counter()
    for step in range(arguments.steps):
        noise = torch.randn_like(latents)
        timestep = torch.randint(0, noises.config.num_train_timesteps, (1,))
        predicted = unet(noises.add_noise(latents, noise, timestep), timestep, embeds, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(
            f"step {step + 1}/{arguments.steps}  loss {losses[-1]:.4f}  "
            f"{(time.perf_counter() - start) / (step + 1):.2f} s a step",
            flush=True,
        )
    unet.eval()
    return losses


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="a Stable Diffusion 1.5 pipeline: a folder, or a name on the hub")
    parser.add_argument("--motion-adapter", help="an AnimateDiff MotionAdapter, likewise")
    parser.add_argument("--random", action="store_true", help="small, with random weights, instead of those two")
    parser.add_argument("--clip", help="the video to learn from; without it, a drawn one")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gradient-checkpointing", action="store_true", help="for the rest of the UNet")
    parser.add_argument("--compare", action="store_true", help="train without kineograph too")
    parser.add_argument("--output", default="motion_lora", help="a folder for the LoRA")
    arguments = parser.parse_args()

    def pipeline():
        if arguments.random:
            return random_pipeline()
        adapter = MotionAdapter.from_pretrained(arguments.motion_adapter)
        return AnimateDiffPipeline.from_pretrained(arguments.base, motion_adapter=adapter)

    if not arguments.random and not (arguments.base and arguments.motion_adapter):
        parser.error("expected --base and --motion-adapter, or --random")
    pipe = pipeline()
    clip = (
        read_clip(arguments.clip, arguments.frames, arguments.size)
        if arguments.clip
        else drawn_clip(arguments.frames, arguments.size)
    )
    latents, embeds = encoded(pipe, clip, arguments.prompt)

    # Spatial transformers have no native gradients: where those are recorded, their forwards are diffusers' anyway.
    print(kineograph.accelerate(pipe, spatial=False))
    losses = train(pipe, latents, embeds, arguments)
    print(kineograph.stats())
    factors = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    AnimateDiffPipeline.save_lora_weights(arguments.output, unet_lora_layers=factors)
    numbers = sum(factor.numel() for factor in factors.values())
    print(f"wrote {arguments.output}: {numbers:,} numbers of {len(factors)} matrices")
    if arguments.compare:
        theirs = train(pipeline(), latents, embeds, arguments)
        print(f"without kineograph: losses differ by {max(abs(a - b) for a, b in zip(losses, theirs)):.1e} at most")


if __name__ == "__main__":
    main()
