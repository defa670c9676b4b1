#!/bin/sh
# The whole way of a model: train, convert, prove, publish, serve, call. Leaves the model
# repository and the answers in demo/.
set -eu

folder=${1:-demo}
name=japanese-vowels
mkdir -p "$folder"

seqserve train japanese-vowels --model $name --repository "$folder/models" --checkpoints "$folder/checkpoints"

: >"$folder/server.log"
seqserve serve "$folder/models" --address 127.0.0.1:0 --metrics-address off >>"$folder/server.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server || true' EXIT
until grep -q ' ready in ' "$folder/server.log"; do
    if grep -q 'no model can be served' "$folder/server.log" || ! kill -0 $server 2>/dev/null; then
        cat "$folder/server.log" >&2
        exit 1
    fi
    sleep 0.1
done
cat "$folder/server.log"
address=$(sed -n 's/.*listening on \([^ ]*\).*/\1/p' "$folder/server.log")

echo "artifact: $folder/models/$name/$(ls "$folder/models/$name" | sort -n | tail -n 1)"
echo "answers:  $folder/answers.csv"
# The answers go to the file; the confusion matrix, the speed and the accuracy come here.
seqserve classify japanese-vowels/test --model $name --server "$address" \
    --batch-size 64 --confusion --output csv 2>&1 >"$folder/answers.csv"
