"""Every strategy by name, through a View, and what `ask` insists on."""

import dataclasses

import numpy as np
import pytest
import torch

from segmentation.common.precision import Precision
from segmentation.data.datafolder import open_data
from segmentation.data.images import Images
from segmentation.model.inference import Inference
from segmentation.model.unet import UNet
from segmentation.selection import query
from segmentation.selection.distances import normalise
from segmentation.selection.strategies import COLD_STARTS, QUERIES, Answer, Strategy, View, ask

COUNT = 48  # of the pool of the fixture `data`


@pytest.fixture(scope="module")
def arrays():
    """What cluster.py would write, of four blobs."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 4, COUNT)
    features = rng.normal(0, 0.2, (COUNT, 6)).astype(np.float32)
    features[np.arange(COUNT), cluster] += 3
    return {
        "features": features,
        "cluster": cluster,
        "distance": rng.random(COUNT),
        "pretext_loss": rng.random(COUNT, dtype=np.float32),
        "patterns": normalise(rng.normal(size=(COUNT * 5, 6))).reshape(COUNT, 5, 6),
    }


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return UNet(width=2, dropout=0.5, heads=True).eval()


@pytest.fixture(scope="module")
def make_view(data, arrays, model):
    def make(labelled=(), seed=0):
        opened = open_data(data)
        mask = np.zeros(COUNT, dtype=bool)
        mask[list(labelled)] = True
        return View(
            mask,
            np.random.default_rng(seed),
            arrays.__getitem__,
            number=6,
            images=Images(opened, opened.pool, "cpu"),
            model=model,
            passes=3,
            stream=(seed, "dropout"),
            inference=Inference(7, Precision(torch.device("cpu"))),
            ceal=query.CealSettings(),
        )

    return make


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize(("labelled", "budget"), [((3, 4, 40), 9), (range(40), 8), ((7,), 1)])
def test_queries(make_view, name, labelled, budget):
    """ask checks number, distinctness and labels; here: the seed, scores, pseudo-labels."""
    answer = ask(QUERIES[name], make_view(labelled), budget)
    again = ask(QUERIES[name], make_view(labelled), budget)
    assert answer.places.tolist() == again.places.tolist()
    assert len(answer.places) == budget and not set(answer.places) & set(labelled)
    if answer.scores is not None:
        assert answer.scores.shape == (COUNT - len(labelled),) and np.isfinite(answer.scores).all()
    assert answer.sources is None or len(answer.sources) == budget
    assert not set(answer.pseudo) & (set(labelled) | set(answer.places))


@pytest.mark.parametrize("name", COLD_STARTS)
def test_cold_starts_see_no_model(make_view, arrays, name):
    blind = View(np.zeros(COUNT, dtype=bool), np.random.default_rng(0), arrays.__getitem__)
    answer = ask(COLD_STARTS[name], blind, 12)
    assert len(answer.places) == 12
    goes_on = ask(COLD_STARTS[name], make_view(answer.places), 12)
    assert not set(goes_on.places) & set(answer.places)


def test_saal_of_two_steps_is_that_of_one(make_view):
    """Nearest to the centroid, in proportion to the clusters: going on adds what is missing."""
    first = ask(COLD_STARTS["saal"], make_view(), 16).places
    second = ask(COLD_STARTS["saal"], make_view(first), 16).places
    at_once = ask(COLD_STARTS["saal"], make_view(), 32).places
    assert set(first) | set(second) == set(at_once)


@pytest.mark.parametrize("name", QUERIES)
def test_a_strategy_reads_what_it_says(make_view, arrays, name):
    """Arms are refused by it: a modifier of the features does nothing for a rule without them."""
    read = set()

    def watched(array):
        read.add(array)
        return arrays[array]

    ask(QUERIES[name], dataclasses.replace(make_view((1, 2)), read=watched), 4)
    assert read == QUERIES[name].reads


@pytest.mark.parametrize("name", QUERIES)
def test_a_strategy_draws_if_it_says_so(make_view, name):
    """Arms are refused by it too: +draw1 does nothing for a rule without chance."""
    choices = set()
    for seed in range(8):
        view = make_view(() if name in COLD_STARTS else (1, 2))
        answer = ask(QUERIES[name], dataclasses.replace(view, rng=np.random.default_rng(seed)), 8)
        choices.add((tuple(answer.places), tuple(answer.pseudo)))
    assert (len(choices) > 1) == QUERIES[name].draws


def test_uncertainty_herding_with_equal_uncertainty_is_herding(make_view, monkeypatch):
    from segmentation.selection import strategies

    monkeypatch.setattr(
        strategies.uncertainty, "score_entropy", lambda model, images, *how: np.ones(len(images))
    )
    view = dataclasses.replace(make_view())  # nothing labelled: all weights are equal
    herding = ask(QUERIES["maxherding"], make_view(), 6).places
    assert ask(QUERIES["uherding"], view, 6).places.tolist() == herding.tolist()


@pytest.mark.parametrize(
    "places", [[1, 1, 2], [1, 2], [0, 1, 2], [1, 2, 3, 4]], ids=["twice", "few", "known", "many"]
)
def test_a_strategy_that_breaks_its_word_is_stopped(make_view, places):
    with pytest.raises(AssertionError):
        ask(Strategy(lambda view, budget: np.array(places), ""), make_view((0,)), 3)
    with pytest.raises(AssertionError):
        ask(Strategy(lambda view, budget: Answer(np.array(places)), ""), make_view((0,)), 3)
