"""AnimateDiff on the CPU, with its temporal and spatial transformers run by kineograph.

    pip install kineograph[diffusers]
    python animatediff.py --base SD1.5_FOLDER --motion-adapter ADAPTER_FOLDER --prompt "a rocket" --output rocket.gif

Both are folders, or names on the hub, as diffusers' from_pretrained takes them. Without weights of your own,
``--random`` builds the same pipeline small, with random weights: its frames are noise, but all of it runs.
``--compare`` runs it a second time without kineograph and says how far the frames and the seconds differ; ``--maps``
draws the attention of the first motion module: how much each frame looks at each. All of it, in half a minute:

    python animatediff.py --random --frames 8 --steps 4 --compare --maps attention.png
"""

import argparse
import time

import kineograph
import torch
from diffusers import AnimateDiffPipeline, AutoencoderKL, DDIMScheduler, MotionAdapter, UNet2DConditionModel


def random_pipeline(dtype=torch.float32):
    """An AnimateDiffPipeline at small widths with random weights; takes prompt_embeds (1, S, 16) in place of text."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=2,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=8,
    )
    adapter = MotionAdapter(
        block_out_channels=(32, 64), motion_layers_per_block=2, motion_norm_num_groups=8, motion_num_attention_heads=4
    )
    for parameter in adapter.parameters():  # as made, motion modules end in zeros and would change nothing
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False)
    pipe = AnimateDiffPipeline(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet, motion_adapter=adapter, scheduler=scheduler
    )
    return pipe.to(dtype)


def frames_of(pipe, arguments, prompt):
    """(B, F, 3, H, W) and the seconds that they took."""
    start = time.perf_counter()
    frames = pipe(
        **prompt,
        num_frames=arguments.frames,
        num_inference_steps=arguments.steps,
        output_type="pt",
        height=arguments.size,
        width=arguments.size,
        generator=torch.Generator().manual_seed(arguments.seed),
    ).frames
    return frames, time.perf_counter() - start


def draw_maps(pipe, arguments, prompt):
    """Records the first motion module's attentions in one step, and draws them."""
    from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
    from kineograph import plot

    module = next(module for module in pipe.unet.modules() if isinstance(module, AnimateDiffTransformer3D))
    with kineograph.record_attention(module) as maps:
        frames_of(pipe, argparse.Namespace(**{**vars(arguments), "steps": 1}), prompt)
    plot.attention(maps, path=arguments.maps)
    print(f"wrote {arguments.maps}: rows are attentions, columns heads; a square is frames looking at frames")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="a Stable Diffusion 1.5 pipeline")
    parser.add_argument("--motion-adapter", help="an AnimateDiff MotionAdapter")
    parser.add_argument("--random", action="store_true", help="small, with random weights, instead of those two")
    parser.add_argument("--compare", action="store_true", help="run without kineograph too")
    parser.add_argument("--prompt", default="a rocket lifting off, best quality")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", type=int, help="height and width in pixels; by default the model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="animation.gif")
    parser.add_argument("--maps", help="a picture of attention maps to write; needs matplotlib")
    arguments = parser.parse_args()

    if arguments.random:
        pipe = random_pipeline()
        prompt = {name: torch.randn(1, 8, 16) for name in ("prompt_embeds", "negative_prompt_embeds")}
    elif arguments.base and arguments.motion_adapter:
        adapter = MotionAdapter.from_pretrained(arguments.motion_adapter)
        pipe = AnimateDiffPipeline.from_pretrained(arguments.base, motion_adapter=adapter)
        prompt = {"prompt": arguments.prompt}
    else:
        parser.error("expected --base and --motion-adapter, or --random")
    pipe.set_progress_bar_config(disable=True)

    print(kineograph.accelerate(pipe))
    frames, seconds = frames_of(pipe, arguments, prompt)
    print(f"{arguments.frames} frames in {seconds:.1f} s; {kineograph.stats()}")
    if arguments.maps:
        draw_maps(pipe, arguments, prompt)
    if arguments.compare:
        kineograph.revert(pipe)
        theirs, their_seconds = frames_of(pipe, arguments, prompt)
        print(f"without: {their_seconds:.1f} s; the frames differ by {(frames - theirs).abs().max():.1e} of 1 at most")

    from diffusers.utils import export_to_gif, pt_to_pil

    export_to_gif(pt_to_pil(2 * frames[0] - 1), arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
