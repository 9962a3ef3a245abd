#!/usr/bin/env python3
"""Draws the pictures of docs/how-it-works.md: docs/module.svg, docs/tile.svg, docs/lanes.svg.

usage: drawings.py [--check]   (--check writes nothing and fails if a file differs from its drawing)
"""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
# One style for light and dark backgrounds.
STYLE = """
  text { font: 13px sans-serif; fill: #1f2328; }
  .small { font-size: 11px; fill: #57606a; }
  .mono { font-family: monospace; font-size: 12px; }
  .title { font-weight: bold; }
  rect { fill: #ffffff; stroke: #57606a; }
  .soft { fill: #eef4fb; }
  .warm { fill: #fdf3e4; }
  .cool { fill: #e6f4ea; }
  .frame { fill: none; stroke-dasharray: 5 4; }
  line, path { stroke: #57606a; fill: none; stroke-width: 1.4; }
  .head { fill: #57606a; stroke: none; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #9da7b1; }
    rect { fill: #161b22; stroke: #9da7b1; }
    .soft { fill: #14243a; } .warm { fill: #33260f; } .cool { fill: #12301c; } .frame { fill: none; }
    line, path { stroke: #9da7b1; } .head { fill: #9da7b1; }
  }
"""


class Drawing:
    def __init__(self, width, height, title):
        self.size, self.parts = (width, height), []
        self.title = title

    def text(self, x, y, text, kind="", anchor="middle"):
        escaped = text.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escaped}</text>')

    def box(self, x, y, width, height, lines=(), kind=""):
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" class="{kind}"/>')
        top = y + height / 2 + 4.5 - 8 * (len(lines) - 1)
        for number, line in enumerate(lines):
            self.text(x + width / 2, top + 16 * number, line, "" if number == 0 else "small")

    def arrow(self, *points):
        path = " L ".join(f"{x} {y}" for x, y in points)
        (x0, y0), (x1, y1) = points[-2:]
        self.parts.append(f'<path d="M {path}"/>')
        if x1 == x0:
            way = 1 if y1 > y0 else -1
            corners = f"{x1 - 4},{y1 - 7 * way} {x1 + 4},{y1 - 7 * way}"
        else:
            way = 1 if x1 > x0 else -1
            corners = f"{x1 - 7 * way},{y1 - 4} {x1 - 7 * way},{y1 + 4}"
        self.parts.append(f'<polygon points="{x1},{y1} {corners}" class="head"/>')

    def svg(self):
        width, height = self.size
        body = "\n".join("  " + part for part in self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img">\n  <title>{self.title}</title>\n  <style>{STYLE}  </style>\n{body}\n</svg>\n'
        )


def module():
    d = Drawing(760, 640, "The module: GroupNorm, proj_in, blocks, proj_out and the residual")
    x, width = 80, 260
    middle = x + width / 2
    d.text(middle, 22, "hidden_states (B·F, C, H, W)", "title")
    d.box(x, 54, width, 44, ["norm: GroupNorm", "statistics over C/G channels, F frames, H × W"], "soft")
    d.box(x, 122, width, 44, ["regroup", "(B·H·W, F, C): a pixel is a sequence"], "")
    d.box(x, 190, width, 34, ["proj_in: Linear C → I"], "warm")
    d.box(x, 256, width, 250, [], "frame")
    d.text(x + width + 10, 276, "× num_layers", "small", "start")
    d.box(x + 24, 272, width - 48, 52, ["x += attn1(norm1(x) + pe)", "frames attend to frames"], "cool")
    d.box(x + 24, 350, width - 48, 52, ["x += attn2(norm2(x) + pe)", "to frames, or to the conditioning"], "cool")
    d.box(x + 24, 428, width - 48, 52, ["x += ff(norm3(x))", "I → 8I, GEGLU, 4I → I"], "warm")
    d.box(x, 536, width, 34, ["proj_out: Linear I → C"], "warm")
    d.text(middle, 628, "sample = proj_out + hidden_states", "title")
    stops = [(30, 54), (98, 122), (166, 190), (224, 272), (324, 350), (402, 428), (480, 536), (570, 610)]
    for start, end in stops:
        d.arrow((middle, start), (middle, end))
    d.arrow((x - 10, 38), (x - 50, 38), (x - 50, 590), (middle - 4, 590))
    d.parts.append(f'<line x1="{x - 10}" y1="38" x2="{middle}" y2="38"/>')
    d.text(x - 46, 232, "residual", "small", "start")
    right = 430
    d.text(right, 60, "an attention, of one head and one pixel", "title", "start")
    d.box(right, 78, 90, 40, ["q = W n", "(F, d)"], "warm")
    d.box(right + 105, 78, 90, 40, ["k = W c", "(S, d)"], "warm")
    d.box(right + 210, 78, 90, 40, ["v = W c", "(S, d)"], "warm")
    d.box(right + 20, 150, 160, 40, ["softmax(q kᵀ / √d)", "(F, S)"], "cool")
    d.box(right + 60, 222, 200, 40, ["times v, heads side by side", "(F, I)"], "cool")
    d.box(right + 60, 294, 200, 34, ["to_out: Linear I → I"], "warm")
    d.arrow((right + 60, 118), (right + 60, 150))
    d.arrow((right + 140, 118), (right + 140, 150))
    d.arrow((right + 110, 190), (right + 110, 222))
    d.arrow((right + 240, 118), (right + 240, 222))
    d.arrow((right + 160, 262), (right + 160, 294))
    notes = [
        "c is n itself, S = F; or for attn2 the conditioning,",
        "of S tokens, D wide.",
        "F is 8 to 32, and there are B·H·W sequences:",
        "8,192 for two clips of 64 × 64 latents.",
    ]
    for number, note in enumerate(notes):
        d.text(right, 360 + 18 * number, note, "small", "start")
    for number, (kind, name) in enumerate(
        [("soft", "statistics of the whole clip"), ("warm", "matrix products, token by token"), ("cool", "attention")]
    ):
        d.box(right, 458 + 30 * number, 22, 18, [], kind)
        d.text(right + 32, 472 + 30 * number, name, "small", "start")
    return d


def tile():
    d = Drawing(760, 430, "A tile's walk through all layers inside the L2 cache")
    d.text(20, 24, "memory", "title", "start")
    d.box(20, 36, 170, 330, [], "frame")
    for frame in range(5):
        y = 52 + 44 * frame
        d.box(36, y, 138, 34, [], "soft")
        d.box(66, y + 4, 26, 26, [], "warm")
        d.text(128, y + 22, f"frame {frame}" if frame < 4 else "frame F-1", "small")
    d.text(105, 292, "the same pixels of", "small")
    d.text(105, 308, "every frame: one tile,", "small")
    d.text(105, 324, "about 256 to 512 tokens", "small")
    d.text(105, 350, "the clip: up to gigabytes", "small")
    d.text(250, 24, "one thread's L2 cache: a few megabytes at most", "title", "start")
    d.box(250, 36, 490, 330, [], "frame")
    steps = [
        (270, 60, "gather, normalise", "by the clip's statistics", "soft"),
        (430, 60, "proj_in", "C → I", "warm"),
        (590, 60, "x (tokens, I)", "the residual stream, f32", ""),
        (590, 150, "norm, + pe", "down the lanes", "soft"),
        (430, 150, "q, k, v of a head", "I → 3 d", "warm"),
        (270, 150, "attend", "softmax in registers", "cool"),
        (270, 230, "to_out, x +=", "I → I, added in registers", "warm"),
        (430, 230, "norm, feed-forward", "in chunks of columns", "warm"),
        (590, 230, "x +=", "then the next block", ""),
        (430, 310, "proj_out", "I → C", "warm"),
        (270, 310, "+ residual, scatter", "beside the products", "soft"),
    ]
    for x, y, name, note, kind in steps:
        d.box(x, y, 140, 44, [name, note], kind)
    d.arrow((190, 82), (270, 82))
    d.arrow((410, 82), (430, 82))
    d.arrow((570, 82), (590, 82))
    d.arrow((660, 104), (660, 150))
    d.arrow((590, 172), (570, 172))
    d.arrow((430, 172), (410, 172))
    d.arrow((340, 194), (340, 230))
    d.arrow((410, 252), (430, 252))
    d.arrow((570, 252), (590, 252))
    d.arrow((660, 274), (660, 332), (570, 332))
    d.arrow((430, 332), (410, 332))
    d.arrow((270, 332), (190, 332))
    d.arrow((730, 240), (736, 240), (736, 160), (730, 160))
    d.text(380, 400, "One pass before takes GroupNorm's statistics. After it every pixel is independent,", "small")
    d.text(380, 416, "so nothing between the layers is ever written to memory.", "small")
    return d


def lanes():
    d = Drawing(760, 330, "The layout of lanes: panels of two vectors, channel by channel")
    d.text(20, 24, "a frame of the clip, one channel", "title", "start")
    cell = 22
    for row in range(3):
        for column in range(10):
            kind = "warm" if row == 1 and column < 4 else "cool" if row == 1 and column < 8 else ""
            d.box(20 + cell * column, 40 + cell * row, cell, cell, [], kind)
    d.text(20, 126, "N neighbouring pixels fill a vector:", "small", "start")
    d.text(20, 142, "here N = 4; with AVX-512 it is 16", "small", "start")
    d.arrow((250, 73), (320, 73))
    d.text(340, 24, "a panel: two vectors at every channel", "title", "start")
    for channel in range(5):
        y = 40 + 26 * channel
        for lane in range(8):
            d.box(400 + cell * lane, y, cell, cell, [], "warm" if lane < 4 else "cool")
        d.text(392, y + 16, f"channel {channel}" if channel < 4 else "channel I-1", "small", "end")
    d.text(590, 58, "[panel][channel][2 N]", "mono", "start")
    d.text(590, 78, "contiguous: a channel is a", "small", "start")
    d.text(590, 94, "cache line or two", "small", "start")
    d.text(20, 216, "a product", "title", "start")
    d.box(20, 230, 130, 60, ["w[row][k]", "a number, broadcast"], "soft")
    d.text(163, 264, "×")
    d.box(176, 230, 150, 60, ["2 vectors, channel k", "2 N tokens at once"], "warm")
    d.text(344, 264, "+=")
    d.box(362, 230, 170, 60, ["rows × 2 sums", "6 × 2, or 14 × 2 registers"], "cool")
    d.text(550, 250, "LayerNorm, softmax and attention", "small", "start")
    d.text(550, 266, "combine channels or frames, which", "small", "start")
    d.text(550, 282, "lie in different vectors: no lane", "small", "start")
    d.text(550, 298, "ever looks at its neighbour.", "small", "start")
    return d


def main():
    different = []
    for name, drawing in (("module", module()), ("tile", tile()), ("lanes", lanes())):
        path = DOCS / f"{name}.svg"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != drawing.svg():
                different.append(path.name)
        else:
            path.write_text(drawing.svg())
    if different:
        sys.exit(f"not what scripts/drawings.py draws: {', '.join(different)}")


main()
