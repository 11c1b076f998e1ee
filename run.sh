#!/usr/bin/env bash
# Runs the whole method: set-up, data, pretraining, clustering, active learning, tables.
#
#   bash run.sh                                    synthetic demo data, a few minutes, no download
#   bash run.sh test                               the tests
#   DATA=isic2017 PRESET=cpu bash run.sh           ISIC 2017, small enough for two CPU cores
#   DATA=isic2017 PRESET=paper bash run.sh         ISIC 2017 as in the paper, for a CUDA GPU
#   DATA=/my/images PRESET=cpu ARMS=full bash run.sh
#
# Several machines or GPUs with one file system: prepare once, train a share on each, then tables:
#
#   PRESET=paper bash run.sh prepare               data, pretraining, cold start
#   PRESET=paper SHARD=1/4 bash run.sh train       every fourth run of the table, from the first on
#   PRESET=paper bash run.sh tables                from whatever runs are finished
#
# Every name below can be set from the environment. A finished stage is skipped; after a kill the
# same command goes on where it was. Another setting needs another RUN.
set -euo pipefail
cd "$(dirname "$0")"

: "${PRESET:=demo}"
choose() { # NAME demo cpu paper: the preset's value, unless the environment has set NAME
  local value
  case $PRESET in
    demo) value=$2 ;;
    cpu) value=$3 ;;
    paper) value=$4 ;;
    *) echo "error: PRESET=$PRESET is not a preset; give demo, cpu or paper" >&2 && exit 2 ;;
  esac
  [ -n "${!1+set}" ] || printf -v "$1" %s "$value"
}

# ---- Hyperparameters ----------------------------------------------------------------------------
#      name          demo     cpu       paper         meaning
choose DATA          demo     isic2017  isic2017    # a folder, isic2017 (downloaded), or demo (made)
choose SEEDS         "0 1"    "0 1 2"   "0 1 2 3 4 5 6 7 8 9"  # repetitions of every arm
# data
choose SIZE          64       64        256         # pixels, or HEIGHTxWIDTH
choose GRAY          1        1         1           # 1: grayscale (the paper), 0: colour
choose DEMO_IMAGES   240      240       240         # how many to draw where DATA=demo
choose POOL_COUNT    ""       ""        ""          # pool images; empty: all that are not test
choose TEST_COUNT    ""       ""        ""          # test images; empty: one in five (400 of 2000)
choose SPLIT_SEED    0        0         0           # of the one shuffle into pool and test
# restoration pretraining
choose WIDTH         8        12        64          # U-Net channels at full resolution
choose PRE_EPOCHS    20       50        10000       # at most
choose PRE_PATIENCE  50       50        50          # epochs without improvement before it stops
choose PRE_OPTIMIZER adam     adam      sgd         # sgd (momentum 0.9) or adam
choose PRE_LR        0.001    0.001     0.01        # halved every 40 epochs
choose PRE_BATCH     8        16        1           # images per step
choose PRE_SEED      0        0         0           # one pretraining is shared by all seeds
choose PRE_PROCESSES 1        1         1           # of the pretraining, each with a GPU of its own
# features and cold start
choose POOLING       2        2         2           # bottleneck pooled to 1x1 or 2x2
choose PCA           0        0         0           # dimensions after PCA; 0: none
choose K             5        10        10          # clusters
# active learning
choose INIT          all      all       all         # warm start of the pretrained arms: encoder, all
choose INITIAL       24       300       300         # labels of round 0
choose PER_ROUND     8        35        35          # labels asked for in each later round
choose ROUNDS        3        9         9           # later rounds
choose EPOCHS        30       10        10          # of round 0
choose EPOCHS_ROUND  6        2         2           # of each later round
choose FULL_EPOCHS   20       28        28          # of full supervision: 10 + 9 x 2
choose BATCH         8        10        10          # images per step
choose LR            0.001    0.0001    0.0001      # Adam
choose DROPOUT       0.5      0.5       0.5         # at the bottleneck
choose PASSES        20       20        20          # Monte Carlo passes of CEAL
# Rows of the table, from: full, saal-ceal, saal-saal, random-entropy, random-pretrained,
# random-scratch (cold start and query of each: see arm_options below).
: "${ARMS:=full saal-ceal saal-saal random-entropy random-pretrained random-scratch}"
: "${BASELINE:=random-pretrained}"  # the arm that the others are compared with, seed by seed
: "${RUN:=runs/$PRESET}"  # where everything is written but the arrays,
# which go to DATA_OUT: data/ and the names of data and size, unless it is set
: "${DEVICE:=auto}"       # auto, cpu, cuda, cuda:N
: "${AMP:=auto}"          # auto (bf16 or fp16 on a GPU, float32 on a CPU), off, bf16, fp16
: "${COMPILE:=off}"       # of the pretraining: off, on (torch.compile), graphs (CUDA graphs too)
: "${JOBS:=}"             # arms trained at once; empty: one on a GPU, one per core on a CPU
: "${SHARD:=1/1}"         # i/n: train the i-th, (i+n)-th, ... run only
: "${PYTHON:=python3}"    # used as it is if it has every requirement; else it makes .venv
# -------------------------------------------------------------------------------------------------

arm_options() { # the options that make an arm what it is
  local pretrained="--init $INIT --weights $RUN/pretrain/best.pt"
  local clusters="--clusters $RUN/cluster"
  local rounds="--initial $INITIAL --per-round $PER_ROUND --rounds $ROUNDS --epochs $EPOCHS"
  case $1 in
    random-scratch) echo "--cold-start random --query random --init none $rounds" ;;
    random-pretrained) echo "--cold-start random --query random $pretrained $rounds" ;;
    random-entropy) echo "--cold-start random --query entropy $pretrained $rounds" ;;
    saal-saal) echo "--cold-start saal --query saal $clusters $pretrained $rounds" ;;
    saal-ceal) echo "--cold-start saal --query ceal $clusters $pretrained $rounds" ;;
    full) echo "--initial all --rounds 0 --epochs $FULL_EPOCHS $pretrained" ;;
    *) echo "error: ARMS has $1, which is no arm; see run.sh for their names" >&2 && return 2 ;;
  esac
}

complete() { # PYTHON REQUIREMENTS...: does this Python have all that these files ask for?
  "$1" - "${@:2}" 2>/dev/null <<'CHECK'
import re, sys
from importlib.metadata import distributions

def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)[:3]]

have = {(d.metadata["Name"] or "").lower().replace("_", "-"): d.version for d in distributions()}
for build in ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"):
    if build in have:  # any build of OpenCV will do
        have.setdefault("opencv-python-headless", have[build])
for path in sys.argv[1:]:
    for name, least in re.findall(r"^([\w-]+)[=>]=([\d.]+)", open(path).read(), re.MULTILINE):
        if numbers(have.get(name, "")) < numbers(least):
            sys.exit(1)
CHECK
}

set_up() { # REQUIREMENTS...: sets PYTHON to an interpreter that has what is needed
  if complete "$PYTHON" "$@"; then return; fi
  if ! complete .venv/bin/python "$@"; then
    echo "+ $PYTHON -m venv .venv; .venv/bin/python -m pip install ${*/#/-r } (minutes, once)"
    "$PYTHON" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${@/#/-r}"
  fi
  PYTHON=.venv/bin/python
}

run() { # print a command, then run it
  echo "+ $*"
  "$@"
}

train_arm() { # ARM SEED: one run of the table
  local options
  options=$(arm_options "$1")
  # shellcheck disable=SC2086
  run "$PYTHON" segmentation/active_learning.py --data "$DATA_OUT" --out "$RUN/seg/$1/seed$2" \
    $options --epochs-round "$EPOCHS_ROUND" --width "$WIDTH" --dropout "$DROPOUT" \
    --batch "$BATCH" --lr "$LR" --passes "$PASSES" --seed "$2" --device "$DEVICE" \
    --amp "$AMP" 2>&1 |
    sed -u "s|^|[$1 seed$2] |"
}

stages="prepare train tables"
case ${1:-} in
  test)
    set_up requirements.txt tests/requirements.txt
    run "$PYTHON" -m pytest "${@:2}"
    exit ;;
  prepare | train | tables) stages=$1 ;;
  "") ;;
  *) echo "error: run.sh $1 is not known; give nothing, prepare, train, tables or test" >&2 && exit 2 ;;
esac
if ! [[ $SHARD =~ ^([1-9][0-9]*)/([1-9][0-9]*)$ ]] || ((BASH_REMATCH[1] > BASH_REMATCH[2])); then
  echo "error: SHARD=$SHARD is not a share; give i/n, such as 1/4 to 4/4" >&2 && exit 2
fi
shard=${BASH_REMATCH[1]} shards=${BASH_REMATCH[2]}
if [ "$shards" -gt 1 ] && [ "$stages" != train ]; then
  echo "error: SHARD=$SHARD is for bash run.sh train; prepare and tables are done once" >&2 && exit 2
fi
for arm in $ARMS; do arm_options "$arm" >/dev/null; done
set_up requirements.txt

suffix=$SIZE$([ "$GRAY" = 1 ] && echo gray || echo colour)
case $DATA in
  demo | isic2017) : "${DATA_OUT:=data/$DATA-$suffix}" ;;
  *) : "${DATA_OUT:=data/$(basename "$DATA")-$suffix}" ;;
esac

prepare() { # data, pretraining and cold start
  local make=(--out "$DATA_OUT" --size "$SIZE" --seed "$SPLIT_SEED") launch=()
  make+=("$([ "$GRAY" = 1 ] && echo --gray || echo --no-gray)")
  [ -z "$POOL_COUNT" ] || make+=(--pool-count "$POOL_COUNT")
  [ -z "$TEST_COUNT" ] || make+=(--test-count "$TEST_COUNT")
  case $DATA in
    demo) make=(--demo "$DEMO_IMAGES" "${make[@]}") ;;
    isic2017) make=(--download --root downloads/isic2017 "${make[@]}") ;;
    *) make=(--root "$DATA" "${make[@]}") ;;
  esac
  run "$PYTHON" preprocess.py "${make[@]}"

  if [ "$PRE_PROCESSES" != 1 ]; then
    launch=(-m torch.distributed.run --standalone --nproc_per_node "$PRE_PROCESSES")
  fi
  run "$PYTHON" ${launch[@]+"${launch[@]}"} self_supervised/pretrain.py --data "$DATA_OUT" \
    --out "$RUN/pretrain" --width "$WIDTH" --epochs "$PRE_EPOCHS" --patience "$PRE_PATIENCE" \
    --optimizer "$PRE_OPTIMIZER" --lr "$PRE_LR" --batch "$PRE_BATCH" --seed "$PRE_SEED" \
    --device "$DEVICE" --amp "$AMP" --compile "$COMPILE"
  run "$PYTHON" cluster.py --data "$DATA_OUT" --weights "$RUN/pretrain/encoder.pt" \
    --out "$RUN/cluster" --pooling "$POOLING" --pca "$PCA" --k "$K" --budget "$INITIAL" \
    --device "$DEVICE"
}

train() { # active learning: arms and seeds are independent, so several run side by side on a CPU
  local threads
  if [ -z "$JOBS" ]; then
    JOBS=$("$PYTHON" - "$DEVICE" <<'COUNT'
import os, sys, torch
on_gpu = sys.argv[1].startswith("cuda") or (sys.argv[1] == "auto" and torch.cuda.is_available())
print(1 if on_gpu else len(os.sched_getaffinity(0)))
COUNT
    )
  fi
  threads=$(($(nproc) / JOBS))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
  set -a # xargs starts new shells, which need the settings and the functions
  export -f arm_options run train_arm
  eval "$(declare -p PYTHON DATA_OUT RUN INIT INITIAL PER_ROUND ROUNDS EPOCHS EPOCHS_ROUND \
    FULL_EPOCHS WIDTH DROPOUT BATCH LR PASSES DEVICE AMP)"
  set +a
  for arm in $ARMS; do # arm by arm: the long runs of full supervision come first
    for seed in $SEEDS; do echo "$arm $seed"; done
  done | awk -v i="$shard" -v n="$shards" '(NR - i) % n == 0' |
    xargs -P "$JOBS" -L 1 bash -c 'set -euo pipefail; train_arm "$@"' bash
}

tables() { # tables of all finished runs, and a look at the first arm's predictions
  local comparing=() first weights
  case " $ARMS " in *" $BASELINE "*) comparing=(--baseline "$BASELINE") ;; esac
  [ "$stages" != tables ] || comparing+=(--partial)
  # shellcheck disable=SC2086
  run "$PYTHON" segmentation/tables.py --runs "$RUN/seg" --out "$RUN/tables" --arms $ARMS \
    ${comparing[@]+"${comparing[@]}"}
  first=$RUN/seg/${ARMS%% *}/seed${SEEDS%% *}
  [ -d "$first" ] || first=$RUN/seg
  weights=$(find "$first" -name weights.pt | sort | tail -n 1)
  run "$PYTHON" segmentation/evaluate.py --data "$DATA_OUT" --weights "$weights" --split test \
    --out "$RUN/evaluate" --device "$DEVICE"
  echo "Pictures:"
  find "$RUN" -name '*.png' | sort | sed 's/^/  /'
}

for stage in $stages; do $stage; done
