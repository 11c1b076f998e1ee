"""The paper's values stand in run.sh, in the scripts' defaults and in a recipe: all the same."""

from dataclasses import asdict

import pytest
from conftest import command_line
from test_arms import hyperparameters, words_of

import cluster
import preprocess
from segmentation import active_learning
from segmentation.model.recipes import RECIPES, steps_of
from self_supervised import pretrain

PAPER = hyperparameters("paper")
WHERE = {"data", "out", "root", "download", "weights", "clusters"}
CHOICE = {"cold_start", "query", "init"}  # what makes the arm


def parsed(parse, words):
    """The options that a script takes from these words, as a dict."""
    with command_line(*words):
        return vars(parse())


@pytest.mark.parametrize(
    ("step", "name", "parse", "given"),
    [
        ("data", "data", lambda: preprocess.parse(None), WHERE),
        ("pretrain", "pretrain", pretrain.parse_args, WHERE),
        ("cluster", "cluster", cluster.parse_args, WHERE),
        ("train", "saal-ceal/seed0", active_learning.parse_args, WHERE | CHOICE),
    ],
)
def test_the_preset_calls_each_script_with_its_defaults(step, name, parse, given):
    words = words_of(step, PAPER)[name]
    asked = parsed(parse, words)
    needed = [words[0]]
    for place, word in enumerate(words):
        if word.startswith("--") and word[2:].replace("-", "_") in given:
            end = next((i for i in range(place + 1, len(words)) if words[i][:2] == "--"), None)
            needed += words[place:end]
    assert len(needed) < len(words)
    assert parsed(parse, needed) == asked


def test_the_recipe_is_the_default_of_the_loop():
    words = ["active_learning.py", "--data", "d", "--out", "o"]
    asked = parsed(active_learning.parse_args, words)
    recipe = asdict(RECIPES["paper"])
    assert {name: asked[name] for name in recipe} == recipe


def test_full_supervision_trains_as_long_as_the_whole_loop():
    recipe = RECIPES["paper"]
    later = int(PAPER["ROUNDS"]) * steps_of(recipe, 300, is_first=False)
    steps = steps_of(recipe, 300, is_first=True) + later
    assert int(PAPER["FULL_EPOCHS"]) * 300 / recipe.batch == steps
    labels = int(PAPER["INITIAL"]) + int(PAPER["ROUNDS"]) * int(PAPER["PER_ROUND"])
    assert labels == 615
