"""Names of arms: what is read, what is refused, and the calls that they become."""

import ast
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from segmentation import arms
from segmentation.analysis.grammar import DRAW, MODIFIERS, NUMBER, legend, parse, without_draw
from segmentation.analysis.plan import Table, Values, calls
from segmentation.common.runfiles import UserError
from segmentation.model.encoders import PACKAGED
from segmentation.selection.strategies import COLD_STARTS, QUERIES

ROOT = Path(__file__).resolve().parents[1]


def hyperparameters(preset="demo", **changes):
    """What run.sh hands over, from run.sh itself."""
    script = (ROOT / "run.sh").read_text()
    block = script[script.index(': "${PRESET:=demo}"') : script.index("complete() {")]
    settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in changes.items())
    dump = f"PRESET={preset}\n{settings}{block}\nenv -0"
    clean = {"PATH": os.environ["PATH"]}
    result = subprocess.run(
        ["bash", "-c", dump], env=clean, capture_output=True, text=True, check=True
    )
    return Values(pair.split("=", 1) for pair in result.stdout.split("\0") if "=" in pair)


def words_of(step, values):
    """The words of a step's calls, by name."""
    lines = [shlex.split(line) for line in calls(step, values)]
    assert all(line[0] == step for line in lines)
    return {name: words for _, name, *words in lines}


# Names ------------------------------------------------------------------------------------------


def test_a_name_is_read_as_the_grammar_says():
    arm = parse("typiclust-ceal+scratch+k20")
    assert (arm.cold_start, arm.query) == ("typiclust", "ceal")
    assert arm.settings == {"init": "none", "k": 20} and arm.clustering == "cluster-k20"
    assert parse("saal") == parse("saal-saal") and parse("saal-saal").name == "saal"
    assert parse("full+paper").is_full and not parse("random").is_full


def written(modifier):
    return f"{modifier.name.removesuffix(NUMBER)}7" if modifier.value == NUMBER else modifier.name


def test_every_order_of_modifiers_is_one_arm():
    some = ["scratch", "strong", "flips", "heads", "thumbnails", "k5", "draw3"]
    names = {parse("+".join(["saal", *order])).name for order in itertools.permutations(some)}
    assert names == {"saal+" + "+".join(some)}


def test_every_modifier_alone_is_read_and_keeps_its_name():
    for modifier in MODIFIERS:
        name = f"saal-dsal+{written(modifier)}"
        arm = parse(name)
        assert arm.name == name and list(arm.settings) == [modifier.setting]
        assert parse(arm.name) == arm
        assert written(modifier) in arm.clustering or arm.clustering == "cluster"
        assert arm.pretraining == "pretrain" + f"-{modifier.name}" * (modifier.setting == "network")
    assert len({modifier.name for modifier in MODIFIERS}) == len(MODIFIERS)


def test_two_modifiers_contradict_each_other_if_they_set_the_same():
    for one, other in itertools.combinations(MODIFIERS, 2):
        name = f"saal+{written(other)}+{written(one)}"
        if one.setting == other.setting:
            with pytest.raises(UserError, match="contradicts"):
                parse(name)
        else:
            assert parse(name).settings.keys() == {one.setting, other.setting}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random+luck", r"random\+luck: \+luck is not known; there are \+unet, .*\+released5"),
        ("random+k0", r"\+k0 is not known"),
        ("random+draw", r"\+draw is not known"),
        ("saal+", r"\+ is not known"),
        ("saal+k5+k5", r"\+k5 stands there twice; write it once"),
        ("saal+k5+k6", r"\+k5 contradicts \+k6; remove one"),
        ("random+flips+light", r"\+flips contradicts \+light; remove one"),
        ("", "'' is no arm; ARM = COLDSTART"),
        ("+scratch", "'.scratch' is no arm"),
        ("random-", "'random-' is no arm"),
        ("best", "best is no arm; cold starts are random, saal"),
        ("random-best", "random-best is no arm"),
        ("ceal-random", "ceal-random is no arm"),
        ("ceal", "ceal is no arm"),
        ("full-entropy", "full has all labels and asks for none"),
        ("random+k20", r"\+k20 would change nothing, as random does not look at clusters"),
        ("typiclust+k20", r"\+k20 would change nothing, as typiclust does not look at clusters"),
        ("random-entropy+thumbnails", "random-entropy does not look at features; remove it"),
        ("pt4al+thumbnails", "pt4al does not look at features"),
        ("full+l2", "full does not look at features"),
        ("patterns+l2", r"\+l2 would change nothing, as patterns does not look at features"),
        ("patterns+thumbnails", r"\+thumbnails has no feature maps, which patterns needs; remo"),
        ("saal-patterns+released1", r"\+released1 has no feature maps, which patterns needs"),
        ("saal+thumbnails+pool1", "pool1 would change nothing, as only the feature maps"),
        ("saal+draw1", r"\+draw1 would change nothing, as saal draws nothing"),
        ("full+draw1", "full draws nothing"),
        ("random+flips+frozen", r"\+flips would change nothing, as \+frozen trains no network"),
        ("random-bald+frozen", r"\+frozen has no dropout, which bald needs; remove it"),
        ("random+soft", r"\+soft would change nothing, as only a student learns from a model"),
        ("random+half", r"\+half would change nothing, as only a student learns from a model"),
        ("random-dsal", "random-dsal: dsal compares the heads of a model; add .heads"),
    ],
)  # fmt: skip
def test_what_is_refused(name, message):
    with pytest.raises(UserError, match=message) as error:
        arms.check(parse(name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["random-saal+k20", "saal-entropy+pool1", "random-uherding+l2", "saal+released1+pool1",
     "saal+imagenet+pool1", "random-dsal+heads", "saal-ceal+draw2", "saal+heads", "full+heads",
     "patterns+imagenet", "saal-patterns+l2",
     "pt4al+scratch", "random+selftrain+soft+half", "random+untrained"],
)  # fmt: skip
def test_what_is_not(name):
    arms.check(parse(name))


def test_draws():
    assert without_draw("random+draw3+scratch") == "random+scratch"
    assert without_draw("random+draw00") == "random" and without_draw("random+drawn") is None
    assert DRAW.search("random+draw1") and not DRAW.search("random")


def test_the_legend_passes_over_what_is_no_arm():
    text = legend(["random+scratch", "by hand+luck", "saal+scratch+k3", "saal"])
    assert text.count("`+scratch`: ") == 1 and "`+k3`: 3 clusters" in text and "luck" not in text
    assert legend(["random", "a folder"]) == ""


# Calls ------------------------------------------------------------------------------------------


def test_the_default_tables_have_known_arms_and_keep_their_names():
    for preset in ("demo", "cpu", "paper", "study", "encoders", "lab"):
        values = hyperparameters(preset)
        for arm in values.arms():
            arms.check(arm)
        names = {word for line in values["TABLES"].splitlines() for word in line.split()[2:]}
        assert {arm.name for arm in values.arms()} == names


def test_calls_of_the_paper():
    values = hyperparameters("paper", DATA="/images/isic", SEEDS="0 1")
    (data,) = calls("data", values)
    assert data == (
        "data data preprocess.py --out data/isic-256gray --size 256 --seed 0 --gray "
        "--root /images/isic"
    )
    for stage in ("pretrain", "train"):
        for value in "01":
            made = calls(stage, Values({**values, "DETERMINISTIC": value}))
            assert all((" --deterministic" in line) == (value == "1") for line in made)
    (linked,) = calls("data", Values({**values, "LINK_COPIES": "1"}))
    assert linked == data.replace("256gray ", "256gray-linked ").replace(
        "--gray ", "--gray --link-copies "
    )
    (pretrain,) = calls("pretrain", values)
    assert pretrain == (
        "pretrain pretrain self_supervised/pretrain.py --data data/isic-256gray --width 64 "
        "--epochs 10000 --patience 50 --optimizer sgd --lr 0.01 --batch 1 --device auto --amp auto "
        "--compile off --out runs/paper/pretrain --seed 0"
    )
    (cluster,) = calls("cluster", values)
    assert cluster == (
        "cluster cluster cluster.py --data data/isic-256gray --pca 0 --device auto --out "
        "runs/paper/cluster --weights runs/paper/pretrain/best.pt --pooling 2 --scale none --k 10 "
        "--budget 300 --seed 0"
    )
    runs = words_of("train", values)
    order = ["full", "saal-ceal", "saal", "random-entropy", "random", "random+scratch"]
    assert list(runs) == [f"{arm}/seed{seed}" for arm in order for seed in (0, 1)]
    assert " ".join(runs["saal-ceal/seed1"]) == (
        "segmentation/active_learning.py --width 64 --dropout 0.5 --passes 20 --device auto --amp "
        "auto --out runs/paper/seg/saal-ceal/seed1 --seed 1 --data data/isic-256gray --cold-start "
        "saal --query ceal --init all --recipe paper --epochs 10 --epochs-round 2 --batch 10 --lr "
        "0.0001 --initial 300 --per-round 35 --rounds 9 --weights runs/paper/pretrain/best.pt "
        "--clusters runs/paper/cluster"
    )
    assert "--initial all --rounds 0" in " ".join(runs["full/seed0"])
    assert "--weights" not in runs["random+scratch/seed0"]


def test_the_encoder_is_that_of_pretraining_and_training():
    plain = hyperparameters("paper")
    timm = hyperparameters("paper", ENCODER="resnet18", ENCODER_WEIGHTS="w.pth")
    for step in ("data", "pretrain", "cluster", "train"):
        for one, other in zip(calls(step, plain), calls(step, timm), strict=True):
            assert "--encoder " not in one
            added = " --encoder resnet18 --encoder-weights w.pth"
            assert other.replace(added, "") == one
            assert (added in other) == (step in ("pretrain", "train"))
    random = hyperparameters("paper", ENCODER="resnet18")
    assert "--encoder resnet18 --out" in next(iter(calls("train", random)))


def test_an_arm_with_a_network_of_its_own_has_its_own_pretraining():
    """Only those pretrainings and clusterings are made that an arm starts from or looks at."""
    arms_named = "random+untrained random+untrained+encoder saal+unet saal+unet+imagenet random"
    values = hyperparameters("study", ARMS=arms_named, SEEDS="3", CHOICES="", INIT="none")
    values.looks = arms.looks
    values |= {"ENCODER": "resnet18", "ENCODER_WEIGHTS": "w.pth"}
    pretrain = words_of("pretrain", values)
    assert list(pretrain) == ["pretrain-unet/seed3", "pretrain-untrained/seed3"]
    assert "--encoder" not in pretrain["pretrain-unet/seed3"]
    given = options(pretrain["pretrain-untrained/seed3"])
    assert given["encoder"] == [PACKAGED] and "encoder-weights" not in given
    cluster = {name: options(words) for name, words in words_of("cluster", values).items()}
    assert list(cluster) == ["cluster-imagenet/seed3", "cluster-unet/seed3"]
    assert cluster["cluster-unet/seed3"]["weights"] == ["runs/study/pretrain-unet/seed3/best.pt"]
    runs = {name: options(words) for name, words in words_of("train", values).items()}
    assert runs["random/seed3"]["encoder"] == ["resnet18"]
    assert runs["random/seed3"]["encoder-weights"] == ["w.pth"]
    assert runs["random+untrained/seed3"]["encoder"] == [PACKAGED]
    assert "weights" not in runs["random+untrained/seed3"]
    weights = runs["random+untrained+encoder/seed3"]["weights"]
    assert weights == ["runs/study/pretrain-untrained/seed3/best.pt"]
    assert "encoder" not in runs["saal+unet/seed3"]
    assert runs["saal+unet/seed3"]["clusters"] == ["runs/study/cluster-unet/seed3"]
    assert runs["saal+unet+imagenet/seed3"]["clusters"] == ["runs/study/cluster-imagenet/seed3"]
    alone = hyperparameters("study", ARMS="random", CHOICES="", INIT="none")
    alone.looks = arms.looks
    assert not words_of("pretrain", alone) and not words_of("cluster", alone)
    alone["CHOICES"] = "20"  # looks at what was chosen by the run's own features
    assert len(words_of("pretrain", alone)) == len(words_of("cluster", alone)) == 5


def test_every_recipe_trains_as_many_steps_if_they_are_given():
    values = hyperparameters("study", ARMS="random full random+strong random+paper", STEPS="70")
    assert all(options(w)["steps"] == ["70"] for w in words_of("train", values).values())
    longer = hyperparameters("study", ARMS="random+steps900", STEPS="70")
    assert options(words_of("train", longer)["random+steps900/seed0"])["steps"] == ["900"]
    assert not any("--steps" in w for w in words_of("train", hyperparameters("paper")).values())


def options(words):
    """Options as a dict: name -> the words that follow it."""
    text = " ".join(words)
    return {part.split()[0]: part.split()[1:] for part in text.split(" --")[1:]}


def test_a_modifier_changes_the_options_that_it_sets_and_no_others():
    """Against the plain arm, at the hyperparameters of the study."""
    values = hyperparameters("study", ARMS="saal random-dsal+heads", SEEDS="3", DATA="/d")
    changes = {
        "scratch": {"init", "weights"},
        "encoder": set(),  # is what the study's INIT says
        "all": {"init"},
        "paper": {"recipe", "from-scratch", "min-steps"},  # a recipe as it is
        "strong": {"from-scratch", "min-steps"},
        "pretrained": {"recipe", "from-scratch", "min-steps"},
        "unet": {"encoder", "clusters", "weights"},
        "backbone": {"encoder", "encoder-weights", "clusters", "weights"},
        "untrained": {"encoder", "clusters", "weights"},
        "largest": {"largest"},
        "views": {"views"},
        "soft": {"own-masks"},
        "half": {"labelled-share"},
        "frozen": {"frozen"},
        "stepsN": {"steps"},
        "trained": {"encoder-rate"},
        "noaugment": {"augment"},
        "flips": {"augment"},
        "light": {"augment"},
        "heads": {"heads"},
        "teacher": {"mean-teacher"},
        "selftrain": {"self-train"},
        "drawN": {"draw"},
        "released4": {"released-scale"},
        "released5": {"training-masks"},
    }
    values["ENCODER"] = "resnet18"
    plain = options(words_of("train", values)["saal/seed3"])
    cluster = options(words_of("cluster", values)["cluster/seed3"])
    for modifier in MODIFIERS:
        name = f"saal+{written(modifier)}"
        changed = Values({**values, "TABLES": f"t none {name}", "IMAGENET": "w.pth"})
        changed |= {"OTHER_BUDGETS": "", "CHOICES": "", "ENCODER": "resnet18"}
        run = options(words_of("train", changed)[f"{name}/seed3"])
        differ = {key for key in plain.keys() | run.keys() if plain.get(key) != run.get(key)}
        assert "out" in differ
        expected = changes.get(modifier.name, {"clusters"})
        assert differ - {"out", "budgets"} == expected, name
        if expected == {"clusters"}:
            (folder,) = run["clusters"]
            (other,) = words_of("cluster", changed).values()
            other = options(other)
            assert other["out"] == [folder] and {
                key for key in cluster.keys() | other.keys() if cluster.get(key) != other.get(key)
            } >= {"out"}


def test_budgets_are_those_of_the_first_line_that_fits():
    values = hyperparameters("study", OTHER_BUDGETS="typi* b: 5 6\n\ntypiclust: 7\n*+flips: 8")
    budgets = {name: values.budgets(parse(name)) for name in ("typiclust", "saal+flips", "saal")}
    assert {name: text.split() for name, text in budgets.items()} == {
        "typiclust": ["5", "6"],
        "saal+flips": ["8"],
        "saal": ["10", "20", "40", "80", "100", "160", "300"],
    }


def test_the_cold_start_is_that_of_budgets_where_there_are_any():
    budgets = {}
    for given in ("10 20", ""):
        values = hyperparameters("cpu", BUDGETS=given, ARMS="saal")
        (cluster,) = words_of("cluster", values).values()
        budgets[given] = options(cluster)["budget"]
    assert budgets == {"10 20": ["10"], "": ["300"]}


def test_shares_make_up_all_runs():
    values = hyperparameters("study")
    whole = list(calls("train", values))
    shares = [list(calls("train", Values({**values, "SHARD": f"{i}/7"}))) for i in range(1, 8)]
    assert sorted(itertools.chain(*shares)) == sorted(whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_names_with_blanks_and_shell_characters_stay_one_word():
    nasty = "my 'own' \"images\" $(touch x); `y` *"
    values = hyperparameters("cpu", DATA=f"/p/{nasty}", RUN=f"r/{nasty}", TEST_DATA=nasty)
    words = words_of("data", values)["data"]
    assert words[words.index("--root") + 1] == f"/p/{nasty}"
    assert words[words.index("--test-root") + 1] == nasty
    assert words[words.index("--out") + 1] == f"data/{nasty}-64gray"
    run = words_of("train", values)["full/seed0"]
    assert run[run.index("--out") + 1] == f"r/{nasty}/seg/full/seed0"
    for line in calls("train", values):  # a shell reads what Python wrote
        shown = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
        )
        assert shown.stdout.split("\0")[:-1] == shlex.split(line)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SHARD": "3/2"}, "SHARD=3/2 is not a share"),
        ({"SHARD": "x"}, "SHARD=x is not a share"),
        ({"OTHER_BUDGETS": "x"}, "OTHER_BUDGETS: 'x' is not PATTERN...: NUMBER..."),
        ({"ARMS": "random+frozen"}, r"random\+frozen: set ENCODER to a backbone of timm"),
        ({"RECIPE": "pretrained"}, "leaves the encoder as it is, here random"),
        ({"ARMS": ""}, "has no arms; give NAME BASELINE ARM"),
        ({"ARMS": "random+luck"}, r"\+luck is not known"),
        ({"RUN": "two\nlines"}, "a name has a line break; rename it"),
    ],
)
def test_values_that_are_refused(changes, message):
    values = hyperparameters("study", **changes)
    with pytest.raises(UserError, match=message):
        for step in ("data", "pretrain", "cluster", "train"):
            list(calls(step, values))


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("cpu", {"INITIAL": "all", "ROUNDS": "0", "ARMS": "saal"}, "INITIAL='all': the rules of"),
        ("cpu", {"INITIAL": "", "ARMS": "full saal"}, "BUDGETS and INITIAL are empty"),
        ("cpu", {"INITIAL": "", "ARMS": "random"}, "BUDGETS and INITIAL are empty"),
        ("study", {"CHOICES": "12"}, r"CHOICES=12: random is measured at \[10, 20, "),
        ("demo", {"BASELINE": "random", "ARMS": "saal"}, "random, the baseline of tables, is none"),
        ("demo", {"TABLES": "t random saal"}, "random, the baseline of t, is none of its arms"),
        ("demo", {"SEEDS": "00"}, "SEEDS='00': give numbers"),
        ("demo", {"FINISH": "smooth"}, "FINISH='smooth': give nothing, views, largest or both"),
    ],
)
def test_values_that_are_refused_before_anything_runs(preset, changes, message):
    with pytest.raises(UserError, match=message):
        hyperparameters(preset, **changes).check()


@pytest.mark.parametrize("preset", ["demo", "cpu", "paper", "study", "encoders", "lab"])
def test_the_presets_pass_the_check(preset):
    for changes in ({}, {"ARMS": "saal"}, {"ARMS": "full random", "SEEDS": "0 10"}):
        hyperparameters(preset, CHOICES="", **changes).check()
    hyperparameters(preset).check()


def test_an_arm_adds_to_the_finish_of_all():
    for finish, arm, expected in (
        ("", "random", []),
        ("both", "random", ["--views", "--largest"]),
        ("largest views", "random", ["--views", "--largest"]),
        ("largest", "random+views", ["--views", "--largest"]),
        ("views", "random+views", ["--views"]),
    ):
        values = hyperparameters("lab", FINISH=finish, ARMS=arm)
        words = next(iter(words_of("train", values).values()))
        assert [word for word in words if word in ("--views", "--largest")] == expected


def test_tables_name_their_baseline_and_their_bound():
    values = hyperparameters("study", CHOICES="20")
    tables = words_of("tables", values)
    assert "--baseline random --bound full" in " ".join(tables["tables/coldstart"])
    assert "--baseline random+draws" in " ".join(tables["tables/draws"])
    none = hyperparameters("demo", ARMS="saal full", BASELINE="none", CHOICES="")
    assert "--baseline" not in words_of("tables", none)["tables"]
    assert not words_of("choices", none) and not words_of("diagnose", none)
    shown = words_of("choices", values)["choices"]
    examined = shown[shown.index("--arms") + 1 : shown.index("--data")]
    assert examined[:3] == ["random", "saal", "permuted"] and "full" not in examined


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("random random+draw1", False),
        ("random+draws random", False),
        ("random+draws random+draw1 random+draw2", True),
        ("random+draws random+draw1+released4", False),
        ("random+released4+draws random+draw1+released4", True),
    ],
)
def test_a_mean_of_draws_is_the_baseline_under_the_name_that_tables_give_it(line, among):
    assert Table.of(f"t {line}").has_baseline == among


# The command line -------------------------------------------------------------------------------


def test_the_list_has_a_line_for_every_part():
    lines = arms.listing().splitlines()
    named = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith("  ")}
    strategies = {**COLD_STARTS, **QUERIES}
    assert named.keys() == {*strategies, "full", *(f"+{part.name}" for part in MODIFIERS)}
    assert all(named[name] == strategy.help for name, strategy in strategies.items())
    assert max(map(len, lines)) <= 110


def test_the_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["arms.py", "--calls", "pretrain", "cluster"])
    monkeypatch.setattr(arms.os, "environ", dict(hyperparameters("demo")))
    arms.main()
    steps = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["pretrain", "cluster"]
    monkeypatch.setattr(arms.os, "environ", {})
    with pytest.raises(UserError, match="is not set; call this through run.sh"):
        arms.main()


def test_no_modifier_is_named_in_another_place():
    """The grammar is read in one place: no script or run.sh takes a name of an arm apart."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("segmentation/*.py"), *ROOT.glob("segmentation/*/*.py")]
    for path in files:
        if path.name == "grammar.py":
            continue
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & {f"+{part.name}" for part in MODIFIERS}, path
    shell = (ROOT / "run.sh").read_text().split("\ncomplete() {")[1]
    assert not re.search(r"\+(scratch|k\[|draw|released)", shell)
