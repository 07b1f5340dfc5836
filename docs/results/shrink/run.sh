# GLUE is a folder with GLUE data, WIKI one with wiki.train.txt and wiki.valid.txt.
common="--corpus WIKI --task stsb --data-dir GLUE --speedup 2 --eval-steps 25 --repeats 3"
tickets shrink builtin:minilm $common --importance-batches 32 --steps 150 --out importance
tickets shrink builtin:minilm $common --importance-batches 32 --steps 0 --out no-recovery
tickets shrink builtin:minilm $common --choice depth --importance-batches 1 --steps 150 --out whole-layers
python speed.py builtin:minilm importance/model whole-layers/model > raw/speed.json
