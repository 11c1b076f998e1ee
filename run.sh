#!/usr/bin/env bash
# Runs the whole method: set-up, data, pretraining, clustering, active learning, tables.
#
#   bash run.sh                                    synthetic demo data, a few minutes, no download
#   bash run.sh test                               the tests
#   DATA=isic2017 PRESET=cpu bash run.sh           ISIC 2017, small enough for two CPU cores
#   DATA=isic2017 PRESET=paper bash run.sh         ISIC 2017 as in the paper, for a CUDA GPU
#   DATA=isic2017 PRESET=study bash run.sh         the study: all strategies and controls, two cores
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
set -f # patterns below are of names, not of files
cd "$(dirname "$0")"

: "${PRESET:=demo}"
choose() { # NAME demo cpu paper study: the preset's value, unless the environment has set NAME
  local value
  case $PRESET in
    demo) value=$2 ;;
    cpu) value=$3 ;;
    paper) value=$4 ;;
    study) value=$5 ;;
    *) echo "error: PRESET=$PRESET is not a preset; give demo, cpu, paper or study" >&2 && exit 2 ;;
  esac
  [ -n "${!1+set}" ] || printf -v "$1" %s "$value"
}

# ---- Hyperparameters ----------------------------------------------------------------------------
#      name          demo     cpu       paper     study       meaning
choose DATA          demo     isic2017  isic2017  isic2017  # a folder, isic2017 (downloaded), demo (made)
choose SEEDS         "0 1"    "0 1 2"   "0 1 2 3 4 5 6 7 8 9" "0 1 2 3 4"  # repetitions of every arm
# data
choose SIZE          64       64        256       48        # pixels, or HEIGHTxWIDTH
choose GRAY          1        1         1         1         # 1: grayscale (the paper), 0: colour
choose DEMO_IMAGES   240      240       240       240       # how many to draw where DATA=demo
choose POOL_COUNT    ""       ""        ""        ""        # pool images; empty: all but the test images
choose TEST_COUNT    ""       ""        ""        ""        # test images; empty: one in five (400 of 2000)
choose SPLIT_SEED    0        0         0         0         # of the one shuffle into pool and test
# restoration pretraining
choose WIDTH         8        12        64        8         # U-Net channels at full resolution
choose PRE_EPOCHS    20       50        10000     40        # at most
choose PRE_PATIENCE  50       50        50        50        # epochs without improvement before it stops
choose PRE_OPTIMIZER adam     adam      sgd       adam      # sgd (momentum 0.9) or adam
choose PRE_LR        0.001    0.001     0.01      0.001     # halved every 40 epochs
choose PRE_BATCH     8        16        1         32        # images per step
choose PRE_SEED      0        0         0         each      # one pretraining for all seeds, or each its own
choose PRE_PROCESSES 1        1         1         1         # of the pretraining, each with a GPU of its own
# features and cold start
choose POOLING       2        2         2         2         # bottleneck pooled to 1x1 or 2x2
choose PCA           0        0         0         0         # dimensions after PCA; 0: none
choose K             5        10        10        10        # clusters
# active learning
choose INIT          all      all       all       encoder   # warm start of the pretrained arms: encoder, all
choose INITIAL       24       300       300       ""        # labels of round 0
choose PER_ROUND     8        35        35        35        # labels asked for in each later round
choose ROUNDS        3        9         9         9         # later rounds
choose BUDGETS       ""       ""        ""        "10 20 40 80 100 160 300"  # or all labels, round by round
choose OTHER_BUDGETS "" "" "" "
random saal-ceal: 10 20 40 80 100 160 300 615
*+paper: 10 20 40 80 100 160 300
*+teacher *+selftrain: 10 20 40 80 100
*-*: 10 20 40 80 100 160
permuted kmeans typiclust probcover maxherding kcenter usl pt4al *+instance: 10 20 40 80
*+all saal+scratch *+flips *+noaugment: 10 20 40 80
*+k* *+pool1 *+standard *+thumbnails *+masks first *+released* *+draw*: 10 20 40
" # by name, the first line that fits; beginnings of one list, so that all arms are paired
choose RECIPE        paper    paper     paper     strong    # paper or strong: segmentation/recipes.py,
choose EPOCHS        30       10        10        ""        # of round 0; empty, here and below: the recipe's
choose EPOCHS_ROUND  6        2         2         ""        # of each later round
choose FULL_EPOCHS   20       28        28        ""        # of full supervision: 10 + 9 x 2
choose BATCH         8        10        10        ""        # images per step
choose LR            0.001    0.0001    0.0001    ""        # learning rate
choose DROPOUT       0.5      0.5       0.5       0.5       # at the bottleneck
choose PASSES        20       20        20        20        # Monte Carlo passes of CEAL and BALD
choose AMP           auto     auto      auto      bf16      # auto (bf16 or fp16 on a GPU, float32 on a CPU),
#                                                           # off, bf16, fp16
choose CHOICES       ""       ""        ""        20        # labels at which the first table's arms are examined
# Tables: a line each, with its name, the arm that the others are compared with (ARM+draws: the mean
# of ARM+draw1, ARM+draw2, ...), and its arms, which are its rows. Each run is done once. An arm is
# COLD-QUERY, two strategies of segmentation/strategies.py (COLD alone: it is the query too), or full
# (all labels), and then any of
#   +scratch +encoder +all          what is warm-started, in place of INIT
#   +paper +strong                  the recipe, in place of RECIPE; trained anew for every budget
#   +noaugment +flips +light        augmentation, in place of the recipe's
#   +teacher +selftrain             learning from the unlabelled pool: mean teacher, own masks
#   +heads                          deep supervision (dsal needs it)
#   +k5 +k20 ... +pool1             clusters, in place of K; pooling, in place of POOLING
#   +l2 +instance +standard         scale of the features
#   +imagenet +thumbnails           features of IMAGENET, a torchvision ResNet's weights; pixels
#   +masks                          features are the pool's masks: cheating, what features could do
#   +draw1 +draw2 ...               other random draws, all else alike
#   +released1 +released4 +released5  a defect of the released code (README), on purpose
TABLES="tables random full saal-ceal saal random-entropy random random+scratch"
[ "$PRESET" != study ] || TABLES="
coldstart random full random+scratch random saal permuted kmeans typiclust probcover maxherding kcenter usl pt4al typicover
efficiency random+scratch full random+scratch random+scratch+noaugment random+scratch+flips random random+teacher random+selftrain typicover typicover+teacher typicover+selftrain
features random random saal saal+k5 saal+k20 saal+k50 kmeans saal+pool1 saal+standard saal+thumbnails saal+thumbnails+instance maxherding maxherding+thumbnails+instance typicover typicover+thumbnails typicover+thumbnails+instance saal+masks maxherding+masks typicover+masks
paper random+paper full+paper random+scratch+paper random+paper saal+paper maxherding+paper typicover+paper random-entropy+paper
query random random random-entropy random-margin random-bald random-ceal saal-ceal random-coreset random-badge random-power random-dsal+heads typicover-uherding
pretraining random+scratch random+scratch random random+all saal+scratch saal saal+all
released saal saal first saal+released1 permuted saal+released4 saal+released5
draws random+draws random saal saal+pool1 saal+thumbnails permuted kmeans typiclust probcover maxherding kcenter usl pt4al typicover typicover+thumbnails typicover+masks random+draw1 random+draw2 random+draw3 random+draw4 random+draw5 random+draw6 random+draw7 random+draw8"
[ -z "${ARMS+set}" ] || TABLES="tables ${BASELINE:-random} $ARMS"  # or one table of your own
: "${IMAGENET:=}"         # weights file for +imagenet
: "${BACKBONE:=resnet50}" # its architecture: resnet18, resnet34, resnet50
: "${TEST_DATA:=}"        # a folder with images and masks: test on them, and split DATA no more
: "${RUN:=runs/$PRESET}"  # where everything is written but the arrays,
# which go to DATA_OUT: data/ and the names of data and size, unless it is set
: "${DEVICE:=auto}"       # auto, cpu, cuda, cuda:N
: "${COMPILE:=off}"       # of the pretraining: off, on (torch.compile), graphs (CUDA graphs too)
: "${JOBS:=}"             # arms trained at once; empty: one on a GPU, one per core on a CPU
: "${SHARD:=1/1}"         # i/n: train the i-th, (i+n)-th, ... run only
: "${PYTHON:=python3}"    # used as it is if it has every requirement; else it makes .venv
# -------------------------------------------------------------------------------------------------

folder_of() { # STAGE SEED: where the pretraining or a clustering lies that this seed uses
  [ "$PRE_SEED" = each ] && echo "$RUN/$1/seed$2" || echo "$RUN/$1"
}

clusters_of() { # ARM: the name of the clustering that an arm uses
  local part name=cluster
  for part in ${1//+/ }; do
    case $part in
      k[1-9]* | pool1 | l2 | instance | standard | imagenet | thumbnails | masks | released1) name=$name-$part ;;
    esac
  done
  echo "$name"
}

budgets_of() { # ARM: the option that gives its labels in all, round by round; nothing if none is set
  local patterns pattern numbers=$BUDGETS line
  while IFS=: read -r patterns line; do
    for pattern in $patterns; do
      # shellcheck disable=SC2053
      if [[ $1 == $pattern ]]; then numbers=$line && break 2; fi
    done
  done <<<"$OTHER_BUDGETS"
  echo "${numbers:+--budgets $numbers}"
}

arm_options() { # ARM SEED: the options that make an arm what it is
  local parts part cold query init=$INIT recipe=$RECIPE more="" rounds epochs=$EPOCHS
  read -ra parts <<<"${1//+/ }"
  cold=${parts[0]%%-*} query=${parts[0]#*-}
  rounds=$(budgets_of "$1")
  rounds=${rounds:---initial $INITIAL --per-round $PER_ROUND --rounds $ROUNDS}
  if [ "$cold" = full ]; then
    cold=random query=random rounds="--initial all --rounds 0" epochs=$FULL_EPOCHS
  fi
  local tuned="${epochs:+ --epochs $epochs}${EPOCHS_ROUND:+ --epochs-round $EPOCHS_ROUND}"
  tuned+="${BATCH:+ --batch $BATCH}${LR:+ --lr $LR}"
  for part in "${parts[@]:1}"; do
    case $part in
      scratch) init=none ;;
      encoder | all) init=$part ;;
      paper | strong) recipe=$part tuned=" --from-scratch" ;;
      noaugment) more+=" --augment none" ;;
      flips | light) more+=" --augment $part" ;;
      teacher) more+=" --mean-teacher" ;;
      selftrain) more+=" --self-train" ;;
      heads) more+=" --heads" ;;
      draw[0-9]*) more+=" --draw ${part#draw}" ;;
      released4) more+=" --released-scale" ;;
      imagenet)
        [ -n "$IMAGENET" ] || {
          echo "error: ARMS has $1: set IMAGENET to the weights file of a ResNet" >&2 && return 2
        } ;;
      released5) more+=" --training-masks $DATA_OUT-released5" ;;
      *) # of the features, or nothing
        [ "$(clusters_of "$part")" != cluster ] || {
          echo "error: ARMS has $1, but +$part is not known; see run.sh" >&2 && return 2
        } ;;
    esac
  done
  [ "$init" = none ] || more+=" --weights $(folder_of pretrain "$2")/best.pt"
  more+=" --clusters $(folder_of "$(clusters_of "$1")" "$2")"
  echo "--data $DATA_OUT --cold-start $cold --query $query --init $init" \
    "--recipe $recipe$tuned" $rounds $more
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

check_strategies() { # are the strategies of all arms in segmentation/strategies.py?
  # shellcheck disable=SC2086
  "$PYTHON" - $ARMS <<'CHECK'
import sys
from segmentation.runfiles import UserError, run_script
from segmentation.strategies import COLD_STARTS, QUERIES

def main():
    for arm in sys.argv[1:]:
        name = arm.split("+")[0]
        cold, _, query = name.partition("-")
        if name != "full" and not (cold in COLD_STARTS and (query or cold) in QUERIES):
            raise UserError(
                f"ARMS has {arm}, which is no arm; cold starts are {', '.join(COLD_STARTS)}, "
                f"and queries also {', '.join(sorted(QUERIES.keys() - COLD_STARTS))}"
            )

run_script(main)
CHECK
}

stages="prepare train tables"
case ${1:-} in
  test)
    set_up requirements.txt tests/requirements.txt
    run "$PYTHON" -m pytest --numprocesses auto "${@:2}"
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
suffix=$SIZE$([ "$GRAY" = 1 ] && echo gray || echo colour)
case $DATA in
  demo | isic2017) : "${DATA_OUT:=data/$DATA-$suffix}" ;;
  *) : "${DATA_OUT:=data/$(basename "$DATA")-$suffix}" ;;
esac

ARMS=$(while read -r _ _ arms; do printf '%s\n' $arms; done <<<"$TABLES" | awk 'NF && !seen[$0]++')
for arm in $ARMS; do arm_options "$arm" 0 >/dev/null; done
set_up requirements.txt

count_jobs() { # sets JOBS, unless it is set
  [ -z "$JOBS" ] || return 0
  JOBS=$("$PYTHON" - "$DEVICE" <<'COUNT'
import os, sys, torch
on_gpu = sys.argv[1].startswith("cuda") or (sys.argv[1] == "auto" and torch.cuda.is_available())
print(1 if on_gpu else len(os.sched_getaffinity(0)))
COUNT
  )
}

carry_out() { # SCRIPT OPTIONS...: its calls, a line of standard input each, side by side on a CPU
  local calls count jobs threads
  calls=$(cat)
  [ -n "$calls" ] || return 0
  count=$(wc -l <<<"$calls")
  jobs=$((JOBS < count ? JOBS : count))
  threads=$(($(nproc) / jobs))
  local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
  run "$PYTHON" segmentation/schedule.py --jobs "$jobs" -- "$@" <<<"$calls"
}

seeds_of_pretraining() { # one word for all seeds together, or each seed
  [ "$PRE_SEED" = each ] && echo "$SEEDS" || echo "$PRE_SEED"
}

prepare() { # data, pretraining and clusters
  local make=(--size "$SIZE" --seed "$SPLIT_SEED")
  check_strategies
  make+=("$([ "$GRAY" = 1 ] && echo --gray || echo --no-gray)")
  [ -z "$POOL_COUNT" ] || make+=(--pool-count "$POOL_COUNT")
  [ -z "$TEST_COUNT" ] || make+=(--test-count "$TEST_COUNT")
  [ -z "$TEST_DATA" ] || make+=(--test-root "$TEST_DATA")
  case $DATA in
    demo) make+=(--demo "$DEMO_IMAGES") ;;
    isic2017) make+=(--download --root downloads/isic2017) ;;
    *) make+=(--root "$DATA") ;;
  esac
  run "$PYTHON" preprocess.py --out "$DATA_OUT" "${make[@]}"
  case $ARMS in *+released5*)
    run "$PYTHON" preprocess.py --out "$DATA_OUT-released5" "${make[@]}" --released-masks ;;
  esac

  count_jobs
  pretrain
  cluster
}

pretrain() { # once, or once per seed
  local launch=() seed folder
  if [ "$PRE_PROCESSES" != 1 ]; then
    launch=(-m torch.distributed.run --standalone --nproc_per_node "$PRE_PROCESSES")
    local -x OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  fi
  for seed in $(seeds_of_pretraining); do
    folder=$(folder_of pretrain "$seed")
    echo "${folder#"$RUN/"} --out $folder --seed $seed"
  done | carry_out ${launch[@]+"${launch[@]}"} self_supervised/pretrain.py --data "$DATA_OUT" \
    --width "$WIDTH" --epochs "$PRE_EPOCHS" --patience "$PRE_PATIENCE" \
    --optimizer "$PRE_OPTIMIZER" --lr "$PRE_LR" --batch "$PRE_BATCH" --device "$DEVICE" \
    --amp "$AMP" --compile "$COMPILE"
}

cluster() { # for each pretraining, every clustering that an arm uses
  local seed arm name folder
  for seed in $(seeds_of_pretraining); do
    for name in $(for arm in $ARMS; do clusters_of "$arm"; done | sort -u); do
      folder=$(folder_of "$name" "$seed")
      echo "${folder#"$RUN/"} --out $folder $(cluster_options "$name" "$seed") --seed $seed"
    done
  done | carry_out cluster.py --data "$DATA_OUT" --pca "$PCA" --device "$DEVICE"
}

cluster_options() { # NAME SEED: what makes a clustering what it is
  local part k=$K pooling=$POOLING budget=${INITIAL:-${BUDGETS%% *}}
  local features="--weights $(folder_of pretrain "$2")/best.pt" scale=none
  for part in ${1//-/ }; do
    case $part in
      k*) k=${part#k} ;;
      pool1) pooling=1 ;;
      l2 | instance | standard) scale=$part ;;
      imagenet) features="--features imagenet --weights $IMAGENET --backbone $BACKBONE" ;;
      thumbnails | masks) features="--features ${part%s}" ;;
      released1) features+=" --released-features" ;;
    esac
  done
  echo "$features --pooling $pooling --scale $scale --k $k --budget $budget"
}

train() { # active learning, arm by arm: the long runs of full supervision come first
  local arm seed
  count_jobs
  for arm in $ARMS; do
    for seed in $SEEDS; do
      echo "$arm/seed$seed --out $RUN/seg/$arm/seed$seed --seed $seed $(arm_options "$arm" "$seed")"
    done
  done | awk -v i="$shard" -v n="$shards" '(NR - i) % n == 0' |
    carry_out segmentation/active_learning.py --width "$WIDTH" --dropout "$DROPOUT" \
      --passes "$PASSES" --device "$DEVICE" --amp "$AMP"
}

examine() { # ARM...: what each labelled first, and why that helped or not; not of full and variants
  local arm arms=() features=() name seed=${SEEDS%% *} more=()
  for arm; do
    [ -z "${arm##full*}" ] || [ -z "${arm##*+*}" ] || arms+=("$arm")
  done
  [ ${#arms[@]} != 0 ] || return 0
  more=(--budget "$CHOICES" --data "$DATA_OUT")
  [ "$stages" != tables ] || more+=(--partial)
  run "$PYTHON" segmentation/choices.py --runs "$RUN/seg" --arms "${arms[@]}" --seed "$seed" \
    --clusters "$(folder_of cluster "$seed")" --out "$RUN/choices" "${more[@]}"
  for name in $(for arm in $ARMS; do clusters_of "$arm"; done | sort -u); do
    case $name in *-k[1-9]*) ;; *) features+=("$RUN/$name") ;; esac # K is not of the features
  done
  run "$PYTHON" segmentation/diagnose.py --runs "$RUN/seg" --arms "${arms[@]}" \
    --clusters "${features[@]}" --out "$RUN/diagnosis" "${more[@]}"
}

tables() { # tables of all finished runs, and a look at the first arm's predictions
  local name baseline arms arm more first weights
  while read -r name baseline arms; do
    [ -n "$name" ] || continue
    more=()
    case " $arms " in *" $baseline "* | *" ${baseline/%+draws/+draw}"[0-9]*)
      more+=(--baseline "$baseline") ;;
    esac
    for arm in $arms; do
      case $arm in full*) more+=(--bound "$arm") ;; esac
    done
    [ "$stages" != tables ] || more+=(--partial)
    # shellcheck disable=SC2086
    run "$PYTHON" segmentation/tables.py --runs "$RUN/seg" --arms $arms ${more[@]+"${more[@]}"} \
      --out "$RUN/tables$([ "$name" = tables ] || echo "/$name")"
    [ -z "$CHOICES" ] || examine $arms
    CHOICES=
  done <<<"$TABLES"
  first=$RUN/seg/$(head -n 1 <<<"$ARMS")/seed${SEEDS%% *}
  [ -d "$first" ] || first=$RUN/seg
  weights=$(find "$first" -name weights.pt | sort | tail -n 1)
  run "$PYTHON" segmentation/evaluate.py --data "$DATA_OUT" --weights "$weights" --split test \
    --out "$RUN/evaluate" --device "$DEVICE"
  echo "Pictures:"
  find "$RUN" -name '*.png' | sort | sed 's/^/  /'
}

for stage in $stages; do $stage; done
