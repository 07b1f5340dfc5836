"""Wrong command lines, one a row: what is spoilt, the exit code, and words that the message must have.

A row begins with `BASE` of its command, which is valid, unless it begins with `!`; later options win over earlier ones.
"""

from __future__ import annotations

BASE: dict[str, str] = {
    "search": "bert --method mask-training --objective kd --corpus corpus.txt --steps 1 --quiet --out out",
    "evaluate": "bert --corpus corpus.txt --quiet",
    "fit-head": "plain --corpus corpus.txt --steps 1 --quiet --out out",
    "transfer": "bert --train-file rows.csv --validation-file rows.csv --steps 1 --quiet --out out",
    "predict": "run --text x",
    "share": "--model bert --tasks rte,cola --data-dir glue --steps 1 --quiet --out out",
    "compare": "ticket other",
    "inspect": "ticket",
    "analyse average": "run",
    "mask combine": "union ticket other --out out",
    "mask perturb": "ticket --out out",
    "super": "bert --task rte --data-dir glue --level 50 --steps 1 --quiet --out out",
    "shrink": "bert --corpus corpus.txt --segments lines --by flops --steps 1 --quiet --out out",
    "export": "ticket --format masked --out out",
    "push": "ticket me/ticket",
    "mask import": "mask.pt --base bert --out out",
    "measure": "ticket --quiet --repeats 1 --batch 1 --length 8",
    "runs": "--store store",
    "recipes": "",
    "demo": "--out out",
    "analyse distance": "ticket",
    "analyse predictors": "run evaluation.json",
    "analyse sharing": "structured structured",
    "analyse cards": "--train-file rows.csv --validation-file rows.csv",
    "analyse gain": "run --baseline dense",
    "analyse winning": "run --dense dense",
    "study plan": "study.yaml --scale smoke --store new",
    "study status": "study.yaml --scale smoke --store new",
    "study run": "study.yaml --scale smoke --store new",
    "study list": "--store store",
    "study report": "study.yaml --scale smoke --store store --out out",
    "study new": "new.yaml",
    "cache list": "",
    "cache clean": "",
}

ANY_TEXT = {
    "--revision": "a hub revision; folders have none",
    "--label-column": "a column of the user's file, see the rows of its readers",
    "--names": "any words",
    "--address": "of a Ray cluster, which tests do not have",
    "--cpus": "of a Ray cluster",
    "--gpus": "of a Ray cluster",
}
"""Options whose value cannot be wrong by itself, or not here, and why."""

_LEARNING = """
--device gpu | 2 | device
--device cuda | 2 | GPU
--config nowhere.yaml | 2 | no configuration file nowhere.yaml
--config bert | 2 | configuration file bert
--config corpus.txt | 2 | must map
--config wrong.yaml | 2 | Unknown field 'stps'
--report-to tensorbord | 2 | Did you mean 'tensorboard'
--out file.txt | 2 | is a file
--out foreign | 2 | untouched
--out ticket | 2 | untouched
"""
_FINE_TUNING = """
--max-length 1 | 2 | max-length
--max-length 100000 | 2 | max-length
--layers 99 | 2 | layers
--seeds 0,0 | 2 | seeds
--seeds -1 | 2 | seeds
"""
_EVALUATION = """
--teacher nowhere | 2 | no run nowhere
--teacher ticket | 2 | is a ticket
--teacher bert --teacher-weight 0 | 2 | teacher-weight
--teacher-weight 2 | 2 | --teacher-weight needs --teacher
--teacher-states | 2 | --teacher-states needs --teacher
"""

_ANALYSIS = """
--formats cvs --out new | 2 | Did you mean 'csv'
--width 8 | 2 | --width needs --out
--out foreign | 2 | untouched
"""
_STUDY = """
--scale smal | 2 | Did you mean 'small'
--set tsks=rte | 2 | Did you mean 'tasks'
--where tsk=rte | 2 | Unknown axis 'tsk'
"""
_SHARE_OF_A_STUDY = """
--shard 3/2 | 2 | 3/16
--on tpu | 2 | known are cpu, v100, a100, h100
"""

ROWS: dict[str, str] = {
    "search": _LEARNING + """
        ! nowhere/x --method magnitude --out out | 2 | nowhere/x
        ! ./nowhere --method magnitude --out out | 2 | no model folder ./nowhere
        ! empty --method magnitude --out out | 2 | empty
        ! ticket --method magnitude --out out | 2 | ticket
        ! file.txt --method magnitude --out out | 2 | file.txt
        ! builtin:minlm --method magnitude --out out | 2 | minilm
        ! bert --out out | 2 | needs --corpus
        --method random --sparsity 1.0 | 2 | outside [0, 1)
        --layers 99 | 2 | layers
        --config wrong.yaml | 2 | Unknown field 'stps'. Did you mean 'steps'
        --method magnitud | 2 | Did you mean 'magnitude'
        --objective kdd | 2 | Did you mean 'kd'
        --objective kd:nan | 2 | kd
        --corpus nowhere.txt | 2 | no file or folder
        --corpus wikitext | 2 | Did you mean 'wikitext-
        --corpus wikitext --dry-run | 2 | Did you mean 'wikitext-
        --corpus rows.csv | 2 | rows.csv:text
        --corpus rows.csv:body | 1 | it has the columns text, label
        --corpus empty.txt | 1 | empty
        --corpus binary | 1 | not UTF-8
        --corpus task:rtee | 2 | Did you mean 'rte'
        --task rte | 2 | --method mask-training does not read --task; it needs --method imp, snip or movement
        --method magnitude | 2 | --method magnitude does not read --steps; it needs --method mask-training
        ! bert --method imp --corpus corpus.txt --objective task --task rtee --out out | 2 | Did you mean 'rte'
        ! bert --method imp --objective task --train-file nowhere.csv --out out | 2 | nowhere.csv
        ! bert --method imp --objective task --train-file rows.csv --text-columns a,b,c --out out | 2 | text-columns
        ! bert --method imp --corpus corpus.txt --objective mlm --task rte --out out | 2 | uses no task
        --method imp --kind span2 | 2 | 'span'
        ! bert --method imp --train-file rows.csv --round-steps 1 --train-size many --out out | 2 | train-size
        --segments packed:0 | 2 | packed
        --segments pakced:8 | 2 | packed
        ! bert --method imp --corpus corpus.txt --objective mlm --round-steps 1 --rewind stp:5 --out out | 2 | rewind
        --method imp --rate-horizon never | 2 | 'round' or 'total'
        --pattern 4:2 | 2 | N:M
        --pattern 2:4 --sparsity 0.6 | 2 | contradict
        ! bert --method random --like nowhere/x --out out | 2 | no ticket
        ! bert --method magnitude --weights-from nois --out out | 2 | Did you mean 'noise'
        --method wanda --calibration-batches 0 | 2 | calibration-batches
        --method importance --level 0 | 2 | level
        --method importance --units head | 2 | 'heads'
        --heads -1 | 2 | negative
        --method importance --importance sampel | 2 | 'sample'
        ! bert --method importance --level 30 --importance-from nowhere/x --out out | 2 | nowhere/x
        --scope encoders | 2 | Did you mean 'encoder'
        --save-at 5 | 2 | --save-at 5
        --data-dir nowhere --corpus task:rte | 2 | --data-dir
        ! roberta --method random --like ticket --out out | 1 | ticket
        --kd-layers 1,3 --corpus corpus.txt | 2 | --kd-layers 3 is no layer of the model
        --kd-layers 1 --corpus corpus.txt | 2 | add 2
        --kd-layers 2 --objective mlm --corpus corpus.txt | 2 | about the kd term
        --kd-layers 2 --block-wise --corpus corpus.txt | 2 | --block-wise contradicts --kd-layers
    """,
    "evaluate": """
        ! nowhere/x --corpus corpus.txt | 2 | nowhere/x
        ! empty --corpus corpus.txt | 2 | empty
        ! run --corpus corpus.txt | 2 | run
        ! bert | 2 | needs --corpus
        --tasks arc | 2 | lm-eval
        --tasks-dir nowhere | 2 | --tasks-dir
        --objective kl | 2 | Unknown objective 'kl'
        --corpus nowhere.txt | 2 | no file or folder
        --corpus empty.txt | 1 | empty
        --segments lines:x | 2 | lines
        --objective similarity --task rte --data-dir glue | 2 | stsb
        --objective similarity --pairs-file nowhere.csv | 2 | nowhere.csv
        --objective similarity --task stsb --data-dir nowhere | 2 | --data-dir
        --config nowhere.yaml | 2 | no configuration file nowhere.yaml
        --base roberta | 2 | cannot be compared
        ! ticket --base nowhere/x --corpus corpus.txt | 2 | nowhere/x
        ! ticket --base roberta --corpus corpus.txt | 1 | ticket
        ! ticket --layers 1 --corpus corpus.txt | 2 | contradicts
        ! damaged --corpus corpus.txt | 1 | edited
        --device gpu | 2 | device
        --out file.txt | 2 | is a file
        --out foreign | 2 | untouched
        --out ticket | 2 | untouched
    """,
    "fit-head": _LEARNING + """
        --layers 99 | 2 | layers
        ! nowhere/x --corpus corpus.txt --out out | 2 | nowhere/x
        ! plain --out out | 2 | corpus
        --corpus nowhere.txt | 2 | no file or folder
        --corpus empty.txt | 1 | empty
        --segments nonsense | 2 | nonsense
        --corpus task:rte --data-dir nowhere | 2 | --data-dir
    """,
    "transfer": _LEARNING + _FINE_TUNING + _EVALUATION + """
        --task-name a/b | 2 | is not a name
        ! nowhere/x --task rte --data-dir glue --out out | 2 | nowhere/x
        ! empty --task rte --data-dir glue --out out | 2 | empty
        ! bert --out out | 2 | --task
        ! bert --task rtee --out out | 2 | Did you mean 'rte'
        ! bert --task rte --data-dir nowhere --out out | 2 | --data-dir
        ! bert --task rte --data-dir empty --out out | 2 | empty
        ! bert --task rte --data-dir file.txt --out out | 2 | file.txt
        ! bert --task mine --task-file nowhere.yaml --out out | 2 | nowhere.yaml
        ! bert --task mien --task-file tasks.yaml --out out | 2 | Did you mean 'mine'
        --task rte | 2 | --task
        --train-file nowhere.csv | 2 | nowhere.csv
        --train-file bert | 2 | bert
        --train-file empty.csv | 1 | empty
        --validation-file ragged.csv | 1 | ragged.csv, line 2
        --start-from nowhere/x | 2 | nowhere/x
        --corpus nowhere.txt | 2 | --corpus
        --from-task rte | 2 | --from-task
        --text-columns nowhere | 1 | lacks the columns
        --label-column nowhere | 1 | lacks the columns
        --metric acuracy | 2 | Did you mean 'accuracy'
        --settings-from nowhere | 2 | is not a finished search by tickets super
        --settings-from bert --learning-rate 1e-4 | 2 | leave yours out
        --base roberta | 2 | --base needs a ticket
        ! ticket --base nowhere/x --train-file rows.csv --validation-file rows.csv --out out | 2 | nowhere/x
        ! damaged --train-file rows.csv --validation-file rows.csv --out out | 1 | edited
        ! run --train-file rows.csv --validation-file rows.csv --out out | 2 | run
    """,
    "predict": """
        ! run --input nowhere.csv --out x.csv | 2 | nowhere.csv
        ! run --text @rows.csv | 2 | label its rows with --input rows.csv
        ! run --input rows.csv | 2 | --out
        ! run --input rows.csv --out x.xlsx | 2 | .jsonl
        --text-columns a,b,c | 2 | --input
        ! nowhere/x --text x | 2 | nowhere/x
        ! run --text x | 2 | run
        ! ticket --text x | 2 | ticket
        ! run | 2 | --text
        --text-pair y --text z | 2 | they go in pairs
        --glue-submission out | 2 | --text
        ! run --glue-submission out --data-dir nowhere | 2 | no saved model
        --seed 5 | 2 | run
        --device gpu | 2 | device
    """,
    "share": _LEARNING + _FINE_TUNING + """
        --tasks rte,rte | 2 | twice
        ! --model bert --train-file a=nowhere.csv --validation-file a=rows.csv --out out | 2 | no file nowhere.csv
        ! --model bert --train-file a=rows.csv --validation-file b=rows.csv --out out | 2 | Unknown task 'b'
        --text-columns a | 2 | --train-file
        --metric f1 | 2 | --train-file
        --tasks rte,colla | 2 | Did you mean 'cola'
        --tasks , | 2 | tasks
        --model nowhere/x | 2 | nowhere/x
        --tickets ticket | 2 | --tickets
        --tickets ticket,nowhere/x | 2 | nowhere/x
        --tickets ticket,ticket --model roberta | 1 | The ticket of rte
        --level 0 | 2 | level
        --task-file nowhere.yaml | 2 | nowhere.yaml
        --data-dir nowhere | 2 | nowhere
        --dropout-p 1 | 2 | dropout
        --mixing ratio --main-task cla --ratio 0.5 | 2 | cola
        --mixing ratio --main-task cola --ratio -1 | 2 | ratio
    """,
    "compare": """
        ! ticket | 2 | two
        ! ticket nowhere/x | 2 | nowhere/x
        ! ticket x/a--2 | 2 | no ticket folder x/a--2
        ! ticket bert | 2 | bert
        ! ticket damaged | 1 | edited
        --average mean | 2 | pooled
        --of kep | 2 | kept
        --labels a | 2 | --labels
        --out foreign | 2 | untouched
        --out file.txt | 2 | is a file
        --formats csv | 2 | --formats needs --out
        --formats cvs --out out | 2 | Did you mean 'csv'
        --width 8 | 2 | --width needs --out
        --width 3 --out out | 2 | width
    """,
    "inspect": """
        ! nowhere/x | 2 | no ticket
        ! bert | 2 | not a ticket
        ! run | 2 | not a ticket
        ! file.txt | 2 | not a ticket
        ! damaged | 1 | edited
        ! 'tickets/*' | 2 | no ticket folder tickets/*
        ! 'my runs/kd' | 2 | no ticket folder my runs/kd
        ! a--2 | 2 | no ticket a--2
        ! x/a--2 | 2 | no ticket folder x/a--2
        --figure masks.gif | 2 | ends with .png, .svg, .pdf
        --figure nowhere/masks.svg | 2 | no folder nowhere
        --force | 2 | --force needs --figure
        --before TICKET | 2 | --before needs --figure
        --width 8 | 2 | --width needs --figure
    """ + f"! {'x' * 300} | 1 | File name too long. Give another path",
    "analyse average": """
        ! nowhere/x | 2 | nowhere/x
        ! ticket | 2 | ticket
        ! run run | 2 | both runs of
        ! wrong | 1 | wrong
    """,
    "mask combine": """
        ! unoin ticket other --out out | 2 | Did you mean 'union'
        ! union ticket --out out | 2 | two
        ! union ticket nowhere/x --out out | 2 | nowhere/x
        ! union ticket structured --out out | 1 | tickets of single weights
        ! intersection ticket damaged --out out | 1 | edited
        --out foreign | 2 | untouched
        --out file.txt | 2 | is a file
    """,
    "mask perturb": """
        ! nowhere/x --out out | 2 | no ticket
        ! damaged --out out | 1 | edited
        --fraction 2 | 2 | fraction
        --fraction nan | 2 | fraction
        --fraction -0.1 | 2 | fraction
        --out foreign | 2 | untouched
    """,
    "shrink": _LEARNING + """
        ! nowhere/x --corpus corpus.txt --out out | 2 | nowhere/x
        ! bert --out out | 2 | --corpus
        ! ticket --corpus corpus.txt --out out | 2 | ticket
        --corpus nowhere.txt | 2 | no file or folder
        --corpus empty.txt | 1 | empty
        --corpus task:rtee | 2 | Did you mean 'rte'
        --corpus task:rte --data-dir nowhere | 2 | --data-dir
        --train-file nowhere.csv | 2 | nowhere.csv
        --text-columns nowhere | 2 | --text-columns
        --validation nowhere.txt | 2 | no file or folder
        --task stsb --pairs-file rows.csv | 2 | two sources
        --speedup 1 | 2 | give values above 1
        --speedup 1000 | 2 | cannot be reached
        --speedup 2 --size 0.5 | 2 | two budgets
        --size 1.5 | 2 | give shares
        --latency-on 8x64 | 2 | write it as "batch=8,length=64"
        --losses stats | 2 | Did you mean 'states'
        --segments nonsense | 2 | nonsense
    """,
    "super": _LEARNING + _FINE_TUNING + _EVALUATION + """
        --learning-rates 0 | 2 | --learning-rates must name different numbers above 0
        --learning-rates -1 | 2 | --learning-rates must name different numbers above 0
        --batch-sizes 0 | 2 | --batch-sizes must name different numbers above 0
        --base roberta | 2 | --base needs a ticket
        --start-from nowhere/x | 2 | nowhere/x
        --corpus nowhere.txt | 2 | --corpus
        --from-task rte | 2 | --from-task
        --train-file nowhere.csv | 2 | --task rte and files of your own contradict each other
        --validation-file nowhere.csv | 2 | --task rte and files of your own contradict each other
        --text-columns a | 2 | --text-columns needs --train-file
        --metric f1 | 2 | --metric needs --train-file
        --task-name mine | 2 | --task-name needs --train-file
        --kind span2 | 2 | 'span'
        --doc-stride 0 | 2 | doc-stride
        ! nowhere/x --task rte --data-dir glue --out out | 2 | nowhere/x
        ! bert --data-dir glue --out out | 2 | --task
        --task rtee | 2 | Did you mean 'rte'
        --task-file nowhere.yaml | 2 | nowhere.yaml
        --data-dir nowhere | 2 | nowhere
        --level 101 | 2 | level
        --units head | 2 | 'heads'
        --selections wining | 2 | 'winning'
        --importance sampel | 2 | 'sample'
        --importance-from nowhere/x | 2 | nowhere/x
        --importance-train-size many | 2 | train-size
        --min-heads-per-layer -1 | 2 | min-heads-per-layer
        --learning-rates 1e-4,x | 2 | --learning-rates
        --batch-sizes 8,x | 2 | --batch-sizes
        --select-on 2 | 2 | select-on
        --head-dropout -1 | 2 | head-dropout
    """,
    "export": """
        ! nowhere/x --format masked --out out | 2 | nowhere/x
        ! bert --format masked --out out | 2 | bert
        ! damaged --format masked --out out | 1 | edited
        --format maskd | 2 | Did you mean 'masked'
        --task rte | 2 | --task rte
        --base nowhere/x | 2 | nowhere/x
        --base roberta | 1 | ticket
        --convention tamt | 2 | mask-pt
        --format mask-pt --convention tmt | 2 | Did you mean 'tamt'
        --out foreign | 2 | untouched
        --out file.txt | 2 | file.txt
    """,
    "push": """
        ! nowhere/x me/ticket | 2 | nothing at nowhere/x
        ! ticket a/b/c | 2 | Repo id must be in the form
        --results nowhere.json | 2 | nothing at nowhere.json
        --seed 5 | 2 | Could not push to me/ticket
    """,
    "mask import": """
        ! nowhere.pt --base bert --out out | 2 | no mask file
        ! bert --base bert --out out | 2 | no mask file
        ! file.txt --base bert --out out | 1 | torch.save
        --base nowhere/x | 2 | nowhere/x
        --base roberta | 1 | roberta
        --method magnitude | 2 | give yours a name of its own
        --out foreign | 2 | untouched
    """,
    "measure": """
        ! nowhere/x | 2 | nowhere/x
        ! empty | 2 | empty
        --length 100000 | 2 | length
        --base nowhere/x | 2 | nowhere/x
        --layers 1 | 2 | layers
        --device gpu | 2 | device
    """,
    "runs": """
        --store nowhere | 2 | no store
        --store file.txt | 2 | is a file
        --store foreign | 2 | foreign
        --where task | 2 | --where 'task' is not a condition; write KEY=VALUE
        --where tsk=rte | 2 | No run has the key 'tsk' of --where. Did you mean task
        --status dome | 2 | Did you mean 'done'
        --csv --json | 2 | --csv and --json exclude each other.
        ! nowhere/x --verify | 2 | nothing at
        ! foreign --verify | 2 | neither a store
        ! file.txt --verify | 2 | file.txt
        ! --store nowhere --verify | 2 | nothing at
        ! --verify --csv | 2 | leave --where
        --break-lock nowhere | 2 | nowhere has no lock
    """,
    "recipes": """
        ! tamt-figur-3 | 2 | Did you mean 'tamt-figure-3'
    """,
    "demo": """
        --out file.txt | 2 | is a file
        --out foreign | 2 | untouched
        --device gpu | 2 | device
    """,
    "analyse distance": _ANALYSIS + """
        ! nowhere/x | 2 | nowhere/x
        --reference nowhere/x | 2 | nowhere/x
        --base nowhere/x | 2 | nowhere/x
        --labels a,b | 2 | --labels
    """,
    "analyse predictors": _ANALYSIS + """
        ! nowhere/x | 2 | nowhere/x
        ! run | 2 | no evaluations
        ! run wrong/result.json | 1 | wrong/result.json
        --score fnal | 2 | Did you mean 'final'
        --seed -1 | 2 | seed
        --seed 4294967296 | 2 | seed
    """,
    "analyse sharing": _ANALYSIS + """
        ! nowhere/x structured | 2 | nowhere/x
        ! structured | 2 | two or more tasks
        --names a | 2 | names
        --importances nowhere/x | 2 | importance
        --definition sampel --importances importance,importance | 2 | 'sample'
        --base nowhere/x | 2 | nowhere/x
    """,
    "analyse cards": _ANALYSIS + """
        ! | 2 | --tasks
        --tasks rte | 2 | not both
        ! --tasks rtee | 2 | Did you mean 'rte'
        ! --tasks rte --data-dir nowhere | 2 | nowhere
        ! --tasks mine --task-file nowhere.yaml | 2 | nowhere.yaml
        --train-file nowhere.csv | 2 | nowhere.csv
        --validation-file empty.csv | 1 | empty
        --kind span2 | 2 | Did you mean 'span'
        --text-columns nowhere | 1 | lacks the columns
        --metric acuracy | 2 | Did you mean 'accuracy'
    """,
    "analyse gain": _ANALYSIS + """
        ! nowhere/x --baseline dense | 2 | nowhere/x
        --baseline nowhere/x | 2 | nowhere/x
        --dense nowhere/x | 2 | nowhere/x
        --score fnal | 2 | Did you mean 'final'
        --seed -1 | 2 | seed
        --seed 4294967296 | 2 | seed
    """,
    "analyse winning": _ANALYSIS + """
        ! nowhere/x --dense dense | 2 | nowhere/x
        --dense nowhere/x | 2 | nowhere/x
        --criterion within-sd | 2 | within-std
        --std-of all | 2 | full, max, subnetwork
        --statistic men | 2 | mean
        --score fnal | 2 | Did you mean 'final'
        --metric acuracy | 2 | Did you mean 'accuracy'
        --select-seeds 9 | 2 | seed
        --report-seeds x | 2 | --report-seeds
    """,
    "study plan": _STUDY + _SHARE_OF_A_STUDY + """
        ! nowhere.yaml --scale smoke | 2 | no file
        ! tamt-figur-3 --scale smoke | 2 | Did you mean 'tamt-figure-3'
        ! wrong.yaml --scale smoke | 2 | wrong.yaml
        ! bert --scale smoke | 2 | bert
        --set tasks | 2 | NAME=VALUE
        --store file.txt | 2 | is a file
    """,
    "study status": _STUDY + _SHARE_OF_A_STUDY + """
        ! nowhere.yaml --scale smoke | 2 | no file
        --store foreign | 2 | foreign
    """,
    "study run": _STUDY + _SHARE_OF_A_STUDY + """
        ! nowhere.yaml --scale smoke | 2 | no file
        --store foreign | 2 | untouched
        --engine locl | 2 | Did you mean 'local'
        --engine locl --dry-run | 2 | Did you mean 'local'
        --where method=kdd | 2 | Unknown
        --slurm partition | 2 | --slurm 'partition' is not NAME=VALUE
        --device gpu | 2 | device
        --report-to tensorbord | 2 | Did you mean 'tensorboard'
    """,
    "study list": """
        --store file.txt | 2 | is a file
    """,
    "study report": _STUDY + """
        ! nowhere.yaml --scale smoke --out out --store store | 2 | no file
        --store nowhere | 2 | no store
        --store file.txt | 2 | is a file
        --formats mdd | 2 | Did you mean 'md'
        --width 3 | 2 | width
        --out foreign | 2 | untouched
        --out file.txt | 2 | is a file
    """,
    "study new": """
        ! corpus.txt | 2 | corpus.txt
        ! file.txt/x.yaml | 1 | file.txt
        --from tamt-figure-33 | 2 | Did you mean 'tamt-figure-3'
    """,
    "cache list": "",
    "cache clean": """
        --older-than-days -1 | 2 | older-than-days
        --older-than-days nan | 2 | older-than-days
    """,
}  # fmt: skip


def rows() -> list[tuple[str, str, int, str]]:
    """Command, words, exit code and a piece of the message of every row."""
    found = []
    for command, table in ROWS.items():
        for line in filter(None, map(str.strip, table.splitlines())):
            words, code, message = (part.strip() for part in line.split(" | "))
            line = words[1:] if words.startswith("!") else f"{BASE[command]} {words}"
            found.append((command, line.strip(), int(code), message))
    return found
