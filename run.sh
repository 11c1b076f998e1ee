#!/usr/bin/env bash
# Runs the whole method: set-up, data, pretraining, clustering, active learning, tables.
#
#   bash run.sh                                    synthetic demo data, a few minutes, no download
#   bash run.sh test                               the tests; bash run.sh test -m slow: slower ones
#   bash run.sh setup                              only the packages; prints the Python that has them
#   DATA=isic2017 PRESET=cpu bash run.sh           ISIC 2017, small enough for two CPU cores
#   DATA=isic2017 PRESET=paper bash run.sh         ISIC 2017 as in the paper, for a CUDA GPU
#   DATA=isic2017 PRESET=study bash run.sh         the study: all strategies and controls, two cores
#   DATA=isic2017 PRESET=encoders bash run.sh      networks with and without ImageNet, two cores
#   DATA=/my/images PRESET=lab bash run.sh         the strongest training, in colour, two cores
#   DATA=/my/images PRESET=cpu ARMS=full bash run.sh
#
# Every name below can be set from the environment; paths are absolute, or start in this folder. Finished
# stages are skipped; after an interruption the same command continues where it stopped. For other
# settings, give another RUN.
#
# Several GPUs, or several machines with one file system: prepare once, train one share of the runs
# on each, then make the tables.
#
#   PRESET=paper DATA=isic2017 bash run.sh prepare           data, pretraining, clusters
#   PRESET=paper DATA=isic2017 SHARD=1/4 bash run.sh train   every fourth run, starting with the first
#   PRESET=paper DATA=isic2017 bash run.sh tables            tables of the runs finished so far
#
# Training on the four GPUs of one machine, and as a Slurm array of 20 jobs:
#
#   for i in 1 2 3 4; do
#     CUDA_VISIBLE_DEVICES=$((i - 1)) SHARD=$i/4 PRESET=paper DATA=isic2017 bash run.sh train &
#   done; wait
#
#   #SBATCH --array=1-20 --gres=gpu:1
#   SHARD=$SLURM_ARRAY_TASK_ID/20 PRESET=paper DATA=isic2017 bash run.sh train
#
# PRE_PROCESSES=4 PRE_BATCH=64 splits each batch of the pretraining between four GPUs. The corruption
# of an image depends on its id and the epoch, not on the number of GPUs, so an interrupted
# pretraining can continue with more or fewer GPUs. For pretraining on two machines, run this on both,
# with --node_rank 0 on one and 1 on the other:
#
#   torchrun --nnodes 2 --node_rank 0 --nproc_per_node 8 --master_addr HOST \
#       self_supervised/pretrain.py --data data/isic2017-256gray --out runs/paper/pretrain --batch 128
#
# On a CUDA GPU, networks train and score in bf16 autocast (fp16 with loss scaling on GPUs without
# bf16), with the pool in GPU memory; AMP=off uses float32 throughout, as on a CPU. COMPILE=on and
# COMPILE=graphs compile the pretraining; if that fails, it prints a warning and runs uncompiled. With
# DETERMINISTIC=1 the same call gives the same bytes again on the same GPU, as it always does on a CPU
# with the same number of threads (OMP_NUM_THREADS; else the cores that each of the runs at once has). The
# scripts also have --no-tf32, and --pool-on host to leave the pool on disk. Test images are always
# predicted in float32.
set -euo pipefail
CDPATH='' cd -- "$(dirname "$0")"

: "${PRESET:=demo}"
choose() { # NAME demo cpu paper study encoders lab: sets an unset NAME to the preset's value
  local value
  case $PRESET in
    demo) value=$2 ;;
    cpu) value=$3 ;;
    paper) value=$4 ;;
    study) value=$5 ;;
    encoders) value=$6 ;;
    lab) value=$7 ;;
    *) echo "error: PRESET=$PRESET is not a preset; give demo, cpu, paper, study, encoders or lab" >&2 && exit 2 ;;
  esac
  [ -n "${!1+set}" ] || printf -v "$1" %s "$value"
  export "${1?}"
}

# ---- Hyperparameters ----------------------------------------------------------------------------
#      name            demo      cpu       paper     study     encoders  lab        meaning
choose DATA            demo      isic2017  isic2017  isic2017  isic2017  isic2017  # a folder, isic2017 (downloaded), demo (drawn)
choose SEEDS           "0 1"     "0 1 2"   "0 1 2 3 4 5 6 7 8 9" "0 1 2 3 4" "0 1 2 3 4" "0 1 2"  # repetitions of every arm
# data
choose SIZE            64        64        256       48        64        128  # pixels, or HEIGHTxWIDTH
choose GRAY            1         1         1         1         0         0  # 1: grayscale (the paper), 0: colour
choose DEMO_IMAGES     240       240       240       240       240       240  # number of synthetic images if DATA=demo
choose POOL_COUNT      ""        ""        ""        ""        ""        ""  # pool images; empty: all except the test images
choose TEST_COUNT      ""        ""        ""        ""        ""        ""  # test images; empty: one in five (400 of 2000)
choose SPLIT_SEED      0         0         0         0         0         0  # random seed of the split into pool and test
# network: the paper's U-Net, or one on a backbone of timm, such as tf_efficientnet_lite0
choose ENCODER         paper     paper     paper     paper     tf_efficientnet_lite0 tf_efficientnet_lite0  # paper, or the name of the backbone
choose ENCODER_WEIGHTS ""        ""        ""        ""        package   package  # its weights: a file, imagenet, package; empty: random
# restoration pretraining
choose WIDTH           8         12        64        8         8         8  # U-Net channels at full resolution
choose PRE_EPOCHS      20        50        10000     40        20        20  # maximum number of epochs
choose PRE_PATIENCE    50        50        50        50        50        50  # epochs without improvement before it stops
choose PRE_OPTIMIZER   adam      adam      sgd       adam      adam      adam  # sgd (momentum 0.9) or adam
choose PRE_LR          0.001     0.001     0.01      0.001     0.001     0.001  # halved every 40 epochs
choose PRE_BATCH       8         16        1         32        32        32  # images per step
choose PRE_SEED        0         0         0         each      0         0  # seed of the pretraining; each: one pretraining per seed
choose PRE_PROCESSES   1         1         1         1         1         1  # pretraining processes, each with its own GPU
# features and cold start
choose POOLING         2         2         2         2         2         2  # bottleneck pooled to 1x1 or 2x2
choose PCA             0         0         0         0         0         0  # dimensions after PCA; 0: no PCA
choose K               5         10        10        10        10        10  # clusters
# active learning
choose INIT            all       all       all       encoder   none      none  # what is copied from the pretraining: encoder, all
choose INITIAL         24        300       300       ""        ""        ""  # labels in round 0
choose PER_ROUND       8         35        35        35        35        35  # labels added in each later round
choose ROUNDS          3         9         9         9         9         9  # number of later rounds
choose BUDGETS         ""        ""        ""        "10 20 40 80 100 160 300" "10 20 40 100 1600" "10 20 40"  # instead of these: total labels by round
choose OTHER_BUDGETS "" "" "" "
random saal-ceal: 10 20 40 80 100 160 300 615
*+paper: 10 20 40 80 100 160 300
*+teacher *+selftrain: 10 20 40 80 100
*-*: 10 20 40 80 100 160
permuted kmeans typiclust probcover maxherding kcenter usl pt4al *+instance: 10 20 40 80
*+all saal+scratch *+flips *+noaugment: 10 20 40 80
*+k* *+pool1 *+standard *+thumbnails *+masks first *+released* *+draw*: 10 20 40
" "
*+steps1600*: 10 1600
*+frozen: 10 20 40 100
*+teacher *+largest *+views: 10 20
*+selftrain*: 10 20 40 100
" "" # by arm name (first matching line); each is the beginning of the longest list, to pair the arms
choose RECIPE          paper     paper     paper     strong    pretrained  pretrained  # paper, strong, pretrained: segmentation/model/recipes.py
choose EPOCHS          30        10        10        ""        ""        ""  # epochs of round 0; empty, also below: the recipe's
choose STEPS           ""        ""        ""        ""        400       400  # optimizer steps of each round in all; empty: the recipe's; 0: by epochs
choose MIN_STEPS       ""        ""        ""        400       ""        ""  # by epochs, but at least so many from the first weights
choose EPOCHS_ROUND    6         2         2         ""        ""        ""  # epochs of each later round
choose FULL_EPOCHS     20        28        28        ""        ""        ""  # epochs of full supervision: 10 + 9 x 2
choose BATCH           8         10        10        ""        ""        ""  # images per step
choose LR              0.001     0.0001    0.0001    ""        ""        ""  # learning rate
choose DROPOUT         0.5       0.5       0.5       0.5       0.5       0.5  # dropout probability at the bottleneck
choose FINISH          ""        ""        ""        ""        ""        largest  # of predicted masks: views (mean of 8), largest (region), both
choose PASSES          20        20        20        20        20        20  # Monte Carlo passes of CEAL and BALD
choose AMP             auto      auto      auto      bf16      auto      auto  # auto (bf16 or fp16 on a GPU, float32 on a CPU),
#                                                           # off, bf16, fp16
choose CHOICES         ""        ""        ""        20        ""        ""  # labels at which to examine the first table's arms
# Tables, one per line: its name, the baseline arm (ARM+draws: the mean of ARM+draw1, ARM+draw2, ...),
# and the arms in its rows. Runs that several tables share are done once.
# ARM = COLDSTART[-QUERY][+MODIFIER...]; python segmentation/arms.py --list explains every part.
table="tables random full saal-ceal saal random-entropy random random+scratch"
choose TABLES "$table" "$table" "$table" "
coldstart random full random+scratch random saal permuted kmeans typiclust probcover maxherding kcenter usl pt4al typicover
efficiency random+scratch full random+scratch random+scratch+noaugment random+scratch+flips random random+teacher random+selftrain typicover typicover+teacher typicover+selftrain
features random random saal saal+k5 saal+k20 saal+k50 kmeans saal+pool1 saal+standard saal+thumbnails saal+thumbnails+instance maxherding maxherding+thumbnails+instance typicover typicover+thumbnails typicover+thumbnails+instance saal+masks maxherding+masks typicover+masks
paper random+paper full+paper random+scratch+paper random+paper saal+paper maxherding+paper typicover+paper random-entropy+paper
query random random random-entropy random-margin random-bald random-ceal saal-ceal random-coreset random-badge random-power random-dsal+heads typicover-uherding
pretraining random+scratch random+scratch random random+all saal+scratch saal saal+all
released saal saal first saal+released1 permuted saal+released4 saal+released5
draws random+draws random saal saal+pool1 saal+thumbnails permuted kmeans typiclust probcover maxherding kcenter usl pt4al typicover typicover+thumbnails typicover+masks random+draw1 random+draw2 random+draw3 random+draw4 random+draw5 random+draw6 random+draw7 random+draw8" "
encoders random random random+trained random+unet+strong random+unet+encoder+strong random+untrained+strong random+untrained+encoder+strong random+encoder random+encoder+trained
selftraining random random random+selftrain random+selftrain+soft random+selftrain+half random+teacher random+largest random+views
steps random+steps1600 random+steps1600 random+steps1600+trained random+unet+strong+steps1600 random+untrained+strong+steps1600
steps-imagenet random random random+steps1600
steps-trained random+trained random+trained random+steps1600+trained
steps-unet random+unet+strong random+unet+strong random+unet+strong+steps1600
steps-scratch random+untrained+strong random+untrained+strong random+untrained+strong+steps1600
frozen random random random+frozen" "
tables random+trained full+trained random+trained random+trained+selftrain typicover+trained+selftrain+imagenet+pool1"
case " ${ARMS:-} " in *" random "*) : "${BASELINE:=random}" ;; *) : "${BASELINE:=none}" ;; esac
[ -z "${ARMS+set}" ] || TABLES="tables $BASELINE $ARMS"  # or your own table
: "${BACKBONE:=tf_efficientnet_lite0}" # for +imagenet: any backbone of timm
: "${IMAGENET:=package}"  # its weights: a file, imagenet (downloaded by timm), package (of the above)
: "${LINK_COPIES:=0}"    # 1: copies of a photograph, in other colours say, on one side of the split
: "${TEST_DATA:=}"        # a folder with images and masks to test on; then DATA is not split
: "${RUN:=runs/$PRESET}"  # folder for all output except the arrays
: "${DATA_OUT:=}"         # folder for the arrays; empty: named after DATA and SIZE, as data/demo-64gray
: "${DEVICE:=auto}"       # auto, cpu, cuda, cuda:N
: "${COMPILE:=off}"       # for the pretraining: off, on (torch.compile), graphs (CUDA graphs too)
: "${DETERMINISTIC:=0}"  # 1: on a GPU the same bytes in each call, at the cost of speed
: "${JOBS:=auto}"         # runs at the same time; auto: one on a GPU, one per core on a CPU
: "${MIXED:=0}"          # 1: tables also of runs that different code, or other options in an arm, has made
: "${SHARD:=1/1}"         # i/n: train only the i-th, (i+n)-th, ... run
: "${PYTHON:=python3}"    # used directly if it has all requirements; otherwise it creates .venv
export TABLES IMAGENET BACKBONE LINK_COPIES TEST_DATA RUN DATA_OUT DEVICE COMPILE DETERMINISTIC JOBS SHARD MIXED
# -------------------------------------------------------------------------------------------------

complete() { # PYTHON REQUIREMENTS...: whether this Python has all packages listed in these files
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

set_up() { # REQUIREMENTS...: sets PYTHON to an interpreter that has all of these packages
  if complete "$PYTHON" "$@"; then return; fi
  if ! complete .venv/bin/python "$@"; then
    echo "+ $PYTHON -m venv .venv; .venv/bin/python -m pip install ${*/#/-r } (minutes, once)"
    "$PYTHON" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "${@/#/-r}"
  fi
  PYTHON=.venv/bin/python
}

show() { # print a command, quoted
  printf +
  printf ' %q' "$@"
  printf '\n'
}

child=
called=${QUIET_STOP-} # by gpu.sh, to whose group of processes all that runs here belongs
unset QUIET_STOP
run() { # print a command, then run it in a group of its own, so that a signal can end it at once
  local code=0
  show "$@"
  [ -n "$called" ] || set -m
  "$@" <&0 &
  child=$!
  set +m
  wait "$child" || code=$?
  child=
  case $code in
    0) ;;
    130) stop Ctrl-C 130 ;;
    143) stop SIGTERM 143 ;;
    *) exit $code ;;
  esac
}

stop() { # NAME CODE: end the command that runs, then this script; at a second signal at once
  trap 'kill -KILL -- "-$child" "$child" 2>/dev/null; exit '"$2" INT TERM HUP
  if [ -n "$child" ] && kill -TERM "$child" 2>/dev/null; then
    wait "$child" || true
  fi
  echo "stopped by $1; the same command goes on from here" >&2 || true
  exit "$2"
}
trap 'stop Ctrl-C 130' INT
trap 'stop SIGTERM 143' TERM
trap 'stop SIGHUP 129' HUP

stages="prepare train tables"
if [ $# -gt 1 ] && [ "$1" != test ]; then
  echo "error: run.sh $*: give one word; nothing stands for prepare, train and tables" >&2 && exit 2
fi
case ${1:-} in
  test)
    set_up requirements.txt tests/requirements.txt
    show "$PYTHON" -m pytest --numprocesses auto "${@:2}"
    exec "$PYTHON" -m pytest --numprocesses auto "${@:2}" ;;
  setup) # only the packages; the last line is the Python that has them
    set_up requirements.txt tests/requirements.txt
    echo "$PYTHON"
    exit ;;
  prepare | train | tables) stages=$1 ;;
  "") ;;
  *) echo "error: run.sh $1 is not known; give nothing, prepare, train, tables, test or setup" >&2 && exit 2 ;;
esac
if [ "$SHARD" != 1/1 ] && [ "$stages" != train ]; then
  echo "error: SHARD=$SHARD is for bash run.sh train; prepare and tables are done once" >&2 && exit 2
fi
set_up requirements.txt
export QUIET_STOP=1 # the scripts leave it to this one to say that they were stopped
calls=$("$PYTHON" segmentation/arms.py --calls prepare train tables) # wrong settings stop here

of() { # STEP: prints its calls, one per line, quoted for the shell: name, script, options
  sed -n "s/^$1 //p" <<<"$calls"
}

one_by_one() { # STEP OPTIONS...: runs its calls one after the other, with these extra options
  local name words
  while read -r name words; do
    [ -z "$name" ] || eval "run \"\$PYTHON\" $words \"\${@:2}\"" </dev/null
  done <<<"$(of "$1")"
}

side_by_side() { # STEP: runs its calls, several at the same time on a CPU
  run "$PYTHON" segmentation/schedule.py --jobs "$JOBS" --device "$DEVICE" <<<"$(of "$1")"
}

prepare() { # data, pretraining and clusters
  one_by_one data
  if [ "$PRE_PROCESSES" = 1 ]; then
    side_by_side pretrain
  else
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} side_by_side pretrain
  fi
  side_by_side cluster
}

train() { # active learning, all arms and seeds
  side_by_side train
}

tables() { # tables of all finished runs, and pictures of the first arm's predictions
  local partial=() step
  [ "$stages" != tables ] || partial=(--partial)
  one_by_one choices ${partial[@]+"${partial[@]}"}
  [ "$MIXED" != 1 ] || partial+=(--mixed)
  for step in tables diagnose; do
    one_by_one "$step" ${partial[@]+"${partial[@]}"}
  done
  calls=$("$PYTHON" segmentation/arms.py --calls evaluate) # now that weights exist
  one_by_one evaluate
  echo "Pictures:"
  find "$RUN" -name '*.png' | sort | sed 's/^/  /'
}

for stage in $stages; do $stage; done
