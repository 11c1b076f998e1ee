#!/usr/bin/env bash
# All that a CUDA GPU is needed for, in one command. Writes results/gpu, ready to be committed.
#
#   bash benchmarks/gpu.sh                      on ISIC 2017, which it downloads (about 6 GB)
#   DATA=path/to/isic2017 bash benchmarks/gpu.sh      on images and masks in a folder
#   bash benchmarks/gpu.sh tests ratio          only the pieces whose names begin so
#   LIMIT=540 bash benchmarks/gpu.sh            stops after 540 s, for a machine lent by the minute
#   DEVICE=cpu bash benchmarks/gpu.sh           a rehearsal on tiny drawn images, about ten minutes
#
# It works in pieces of at most about ten minutes on a recent card (the download apart). A piece that
# is done is not done again, one that was interrupted goes on where it was, and one that failed does
# not stop others than those that need it. All work is in RUN; what is in OUT is made of it at the end of each call, with
# no image of the data set in it.
#
# Exit code 0: all that was asked for is done; 2: no CUDA device, or a piece failed, which the last
# line names; 3: LIMIT is over and the same command goes on; 130, 143: stopped.
set -euo pipefail
CDPATH='' cd -- "$(dirname "$0")/.."

# ---- Settings -----------------------------------------------------------------------------------
: "${DEVICE:=cuda}"    # cuda, cuda:N, or cpu for a rehearsal
: "${LIMIT:=}"         # seconds after which to stop; empty: none
: "${PEAK:=}"          # dense bf16 rate of the card in TFLOP/s (H100 SXM: 989), for the utilisation
if [ "$DEVICE" = cpu ]; then
  : "${DATA:=demo}" "${RUN:=runs/gpu-rehearsal}" "${OUT:=$RUN/results}"
else
  : "${DATA:=isic2017}" "${RUN:=runs/gpu}" "${OUT:=results/gpu}"
fi
# The protocol of the paper. Cut: two seeds of ten; the pretraining is 60 epochs in batches of 64 by
# Adam, in place of up to 10000 one by one by SGD.
arms="full saal-ceal saal random-entropy random random+scratch"
paper=(PRESET=paper "SEEDS=0 1" BASELINE=random SIZE=256
  PRE_EPOCHS=60 PRE_BATCH=64 PRE_OPTIMIZER=adam PRE_LR=0.003)
# EfficientNet-Lite0 with ImageNet weights, in colour, beside the paper's network of the same width.
# Cut: two seeds of five, three networks of eight, no pretraining.
networks="random random+trained random+unet+strong"
encoder=(PRESET=encoders "SEEDS=0 1" BASELINE=random SIZE=256
  ENCODER=tf_efficientnet_lite0 ENCODER_WEIGHTS=package)
ratio_corruptions=(--size 256 --batch 64)
ratio_pretraining=(--size 256 --width 64 --batch 64 ${PEAK:+--peak "$PEAK"})
ratio_scoring=(--size 256 --width 64 --images 256 --repeats 3)
ratio_encoders=(--size 256 --repeats 5)
if [ "$DEVICE" = cpu ]; then
  tiny=(DEMO_IMAGES=40 WIDTH=2 PASSES=2 JOBS=1)
  paper+=("${tiny[@]}" "DATA_OUT=$RUN/gray" SIZE=32 PRE_EPOCHS=2 PRE_BATCH=8 K=3 INITIAL=8 PER_ROUND=4 ROUNDS=1
    EPOCHS=1 EPOCHS_ROUND=1 FULL_EPOCHS=1)
  encoder+=("${tiny[@]}" "DATA_OUT=$RUN/colour" SIZE=64 "BUDGETS=4 8" STEPS=2)
  ratio_corruptions=(--size 48 --batch 3 --repeats 1 --samples 40)
  ratio_pretraining=(--size 32 --width 2 --batch 2 --steps 1 --repeats 1)
  ratio_scoring=(--size 32 --width 2 --images 4 --passes 2 --repeats 1)
  ratio_encoders=(--size 32 --width 1 --batch 2 --steps 1 --repeats 1)
fi
# -------------------------------------------------------------------------------------------------

refuse() { # MESSAGE
  echo "error: $1" >&2
  exit 2
}

sees_gpu() { # PYTHON: whether its PyTorch finds a CUDA device
  "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null
}

none="PyTorch finds no CUDA device; give the same command where there is one, or rehearse it with DEVICE=cpu"
if [ "$DEVICE" != cpu ]; then
  [[ $DEVICE =~ ^cuda(:[0-9]+)?$ ]] || refuse "DEVICE=$DEVICE: give cuda, cuda:N, or cpu to rehearse"
  sees_gpu "${PYTHON:-python3}" || sees_gpu .venv/bin/python || nvidia-smi -L >/dev/null 2>&1 ||
    refuse "$none"
fi
[[ $LIMIT =~ ^[0-9]*$ ]] || refuse "LIMIT=$LIMIT: give seconds, or nothing"
case $DATA in
  isic2017 | demo) ;;
  *) [ -d "$DATA" ] || refuse "DATA=$DATA: no such folder; give one with images and masks, or isic2017" ;;
esac
PYTHON=$(bash run.sh setup | tail -n 1)
[ "$DEVICE" = cpu ] || sees_gpu "$PYTHON" || refuse "$none"
export PYTHON DATA DEVICE QUIET_STOP=1 # what runs leaves it to this script to say that it stopped

child= piece=
note_time() { # of the piece that runs, as it may take several calls
  echo $((SECONDS - started)) >>"$RUN/pieces/$piece.times"
}

stop() { # NAME CODE: end the piece that runs, then this script; at a second signal at once
  trap 'kill -KILL -- "-$child" 2>/dev/null; exit '"$2" INT TERM HUP
  if [ -n "$child" ] && kill -TERM "$child" 2>/dev/null; then
    wait "$child" || true
    note_time
  fi
  echo "stopped by $1; the same command goes on from here" >&2 || true
  exit "$2"
}
trap 'stop Ctrl-C 130' INT
trap 'stop SIGTERM 143' TERM
trap 'stop SIGHUP 129' HUP

record() { # WORDS...: what measured.py does
  "$PYTHON" benchmarks/measured.py "$@" --run "$RUN"
}

page() { # with which every call ends
  record page --out "$OUT" --data "$DATA" --device "$DEVICE"
}

names=("$@") known= failed= waits= planning=
wanted() { # PIECE: whether it is asked for, by the beginning of its name
  local name
  [ ${#names[@]} -gt 0 ] || return 0
  for name in "${names[@]}"; do
    case $1 in "$name"*) known+=" $name " && return 0 ;; esac
  done
  return 1
}

do_piece() { # NAME COMMAND...: unless it is done
  local code=0 log left
  wanted "$1" || return 0
  [ -z "$planning" ] || return 0
  piece=$1 log=$RUN/pieces/$1.log
  shift
  if [ -e "$RUN/pieces/$piece.json" ]; then
    echo "$piece: done already"
    return 0
  fi
  local words=("$@")
  if [ -n "$LIMIT" ]; then
    left=$((LIMIT - SECONDS))
    if [ $left -le 0 ]; then waits+=" $piece" && return 0; fi
    words=(timeout --foreground --signal TERM --kill-after 30 "$left" "$@")
  fi
  echo "$piece: see $log"
  started=$SECONDS
  set -m # in a group of its own, to be ended whole
  "${words[@]}" >"$log" 2>&1 </dev/null &
  child=$!
  set +m
  wait "$child" || code=$?
  child=
  note_time
  case $code in
    0)
      record mark "$piece" --device "$DEVICE"
      echo "$piece: done in $((SECONDS - started)) s" ;;
    124) waits+=" $piece" ;;
    *)
      failed+=" $piece"
      echo "$piece: failed: $(tail -n 1 "$log")" ;;
  esac
}

after() { # "PIECE..." NAME COMMAND...: do_piece if those pieces are done
  local before
  for before in $1; do
    if [ -z "$planning" ] && [ ! -e "$RUN/pieces/$before.json" ]; then
      ! wanted "$2" || waits+=" $2"
      return 0
    fi
  done
  do_piece "${@:2}"
}

ratio() { # PIECE SCRIPT WORDS...
  do_piece "$1" "$PYTHON" "benchmarks/$2.py" --device "$DEVICE" --out "$RUN/$1" "${@:3}"
}

table_of() { # NAME ARMS VALUES...: the pieces of one call of run.sh; its last value of a name counts
  local name=$1 arms=$2 number=0 count seed arm needs=
  shift 2
  local settings=("$@" "ARMS=$arms" "RUN=$RUN/$name")
  [ -n "$planning" ] || printf '%s\n' "$@" "ARMS=$arms" >"$RUN/pieces/$name.settings"
  do_piece "$name-prepare" env "${settings[@]}" bash run.sh prepare
  count=$((2 * $(wc -w <<<"$arms")))
  for arm in $arms; do
    for seed in 0 1; do
      number=$((number + 1))
      after "$name-prepare" "$name-$arm-seed$seed" \
        env "${settings[@]}" "SHARD=$number/$count" bash run.sh train
      needs+=" $name-$arm-seed$seed"
    done
  done
  after "$needs" "$name-tables" env "${settings[@]}" bash run.sh tables
}

every_piece() {
  do_piece tests bash run.sh test -m gpu --numprocesses 4
  ratio ratio-corruptions corruptions "${ratio_corruptions[@]}"
  ratio ratio-pretraining pretraining "${ratio_pretraining[@]}"
  ratio ratio-deterministic pretraining --deterministic "${ratio_pretraining[@]}"
  ratio ratio-scoring scoring "${ratio_scoring[@]}"
  ratio ratio-encoders encoders "${ratio_encoders[@]}"
  table_of paper "$arms" "${paper[@]}"
  table_of encoder "$networks" "${encoder[@]}"
}

planning=1 # only to see which names there are
every_piece
planning=
for name in ${names[@]+"${names[@]}"}; do
  [[ $known == *" $name "* ]] || refuse "$name: no piece has a name that begins so"
done
mkdir -p "$RUN/pieces"
every_piece
if compgen -G "$RUN/pieces/*.json" >/dev/null; then page; fi
[ -z "$failed" ] || refuse "failed:$failed; see $RUN/pieces, mend it, and give the same command again"
if [ -n "$waits" ]; then
  echo "not all is done; the same command goes on with:$waits" >&2
  exit 3
fi
