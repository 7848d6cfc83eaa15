#!/bin/sh
# The main job on a small trained model: DeepSeek-V3-shaped, 4.2M parameters, taught the King James Bible.
set -eu

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

layer=model.layers.1.self_attn

run wvindex info examples/tiny-kjv-Q8_0.gguf
run wvindex build examples/tiny-kjv-Q8_0.gguf --out demo.zarr --overwrite
run wvindex ls demo.zarr --layer 1
run wvindex show demo.zarr "$layer.q_proj.weight[0:4, 0:5]"
for projection in q k v; do
    run wvindex show demo.zarr "$layer.${projection}_proj.weight"
done
run wvindex run demo.zarr "In the beginning" --max-new-tokens 40
