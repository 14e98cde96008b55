#!/usr/bin/env bash
# The whole job on synthetic dumps: raw dumps -> tables -> audit -> a short training on CPU -> scores.
# usage: demo.sh FOLDER      (whatever FOLDER holds is replaced)
set -euo pipefail
folder=${1:?usage: demo.sh FOLDER}
rm -rf "$folder"

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

step "1. Raw dumps as four publishers ship them: caption json, oriented boxes, UAV boxes, masks"
draw() { rsdata sample "$1" "$folder/raw/$1" --images "$2" --size 128x128 --objects 6 > "$folder/raw-$1.txt"; }
mkdir -p "$folder"
draw rsicd 1500
draw dota 600
draw visdrone 300
draw loveda 300
for name in rsicd dota visdrone loveda; do
    printf '  %-9s %s\n' "$name" "$(head -n 1 "$folder/raw-$name.txt") … $(tail -n 1 "$folder/raw-$name.txt")"
done

step "2. rsdata convert: one table each"
for name in rsicd dota visdrone loveda; do
    rsdata convert "$folder/raw/$name" --recipe "$name" -o "$folder/tables/$name"
done

step "3. rsdata stats: the corpus"
rsdata stats "$folder"/tables/* --html "$folder/stats.html"

step "4. rsdata dedup: no near-duplicates, no leaks into the scenes that are scored"
rsdata dedup "$folder"/tables/* -o "$folder/clean" --against "$folder/tables/rsicd" --report "$folder/pairs.html"

step "5. rsclip train: a tiny CLIP on the train split of what is left"
rsclip train "$folder/clean" --output "$folder/run" --model rsclip-tiny --epochs 12 --batch-size 64 \
    --lr 1e-3 --augment none --log-every 100

step "6. Benchmarks: scenes by class, and scenes to count on"
rsdata sample eurosat "$folder/raw/eurosat" --images 600 --size 64x64 > "$folder/raw-eurosat.txt"
rsdata convert "$folder/raw/eurosat" --recipe eurosat -o "$folder/benchmarks/eurosat"
rsdata sample remotecount "$folder/raw/count" --images 600 --size 128x128 --objects 8 --seed 1 > "$folder/raw-count.txt"
rsdata convert "$folder/raw/count" --recipe remotecount --captions remotecount -o "$folder/benchmarks/count"
cp -r "$folder/tables/rsicd" "$folder/benchmarks/rsicd"

step "7. rsclip eval all: what it has not seen, beside chance and published figures"
rsclip eval all --checkpoint "$folder/run" --data "$folder/benchmarks" --cache "$folder/features" -o "$folder/scores"
