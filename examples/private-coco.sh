#!/usr/bin/env bash
# A private COCO dump as a corpus: checked, converted, audited, without duplicates, and as shards for another trainer.
# usage: private-coco.sh DUMP FOLDER [BENCHMARK_TABLE...]      what leaks into the benchmarks is taken out too
set -euo pipefail
dump=${1:?usage: private-coco.sh DUMP FOLDER [BENCHMARK_TABLE...]}
folder=${2:?usage: private-coco.sh DUMP FOLDER [BENCHMARK_TABLE...]}
shift 2
against=()
for benchmark in "$@"; do against+=(--against "$benchmark"); done

mkdir -p "$folder"
rsdata convert "$dump" --format coco --name private --dry-run --json > "$folder/check.json"
rsdata convert "$dump" --format coco --name private --captions rich -o "$folder/table"
rsdata stats "$folder/table"
rsdata dedup "$folder/table" -o "$folder/clean" --symmetries --report "$folder/pairs.html" "${against[@]}"
rsdata validate "$folder/clean" --deep
rsdata export "$folder/clean" -o "$folder/shards" --to webdataset
