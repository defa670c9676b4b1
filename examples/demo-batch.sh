#!/bin/sh
# Scores a file of 100,000 sequences into another, with no server; leaves both in demo/batch/.
set -eu

folder=${1:-demo}
count=${2:-100000}
name=japanese-vowels
batch=$folder/batch
mkdir -p "$batch"

# `make demo` may have trained it already.
[ -d "$folder/models/$name" ] ||
    seqserve train japanese-vowels --model $name --repository "$folder/models" --checkpoints "$folder/checkpoints"

echo "making $count sequences of the 370 test sequences: slower or faster, with a little noise"
python -m benchmarks.resampled "$count" "$batch/sequences.parquet"

# Without --restart a second run would say that all is done.
seqserve score "$batch/sequences.parquet" "$batch/scores.parquet" --model $name \
    --repository "$folder/models" --keep label --restart

echo "scores: $batch/scores.parquet"
