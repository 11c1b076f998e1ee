"""The mean teacher: a running average that sees what the student does not."""

import math
from types import SimpleNamespace

import pytest
import torch

from segmentation.common.precision import Precision
from segmentation.model import engine, teacher
from segmentation.model.augment import draw
from segmentation.model.recipes import Recipe
from segmentation.model.unet import UNet

CPU = Precision(torch.device("cpu"))


class Pool:
    """uint8 images by position, as images.Images."""

    device = torch.device("cpu")

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, places):
        return self.images[places]


def pool(count=6, size=32):
    values = torch.randint(0, 256, (count, 1, size, size), generator=generator(4))
    return Pool(values.to(torch.uint8))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed=0):
    torch.manual_seed(seed)
    return UNet(width=2)


def test_weight_rises_to_its_height():
    weights = [teacher.consistency_weight(done / 100) for done in range(100)]
    assert weights[0] == pytest.approx(teacher.WEIGHT * math.exp(-5))
    assert weights == sorted(weights)
    assert weights[round(100 * teacher.RISE)] == weights[-1] == teacher.WEIGHT


def test_follows_the_mean_of_the_first_steps_and_then_with_momentum():
    model = network()
    own = teacher.Teacher(model, pool(), generator())
    values = torch.randn(300, generator=generator(1)).tolist()
    expected = 0.0
    for number, value in enumerate(values, 1):
        with torch.no_grad():
            model.head.bias.fill_(value)
        own.follow(model)
        if number <= 100:  # 1 - 1/100 is the momentum
            assert own.model.head.bias.item() == pytest.approx(
                sum(values[:number]) / number, abs=1e-5
            )
            expected = own.model.head.bias.item()
        else:
            expected = teacher.MOMENTUM * expected + (1 - teacher.MOMENTUM) * value
    assert own.model.head.bias.item() == pytest.approx(expected, abs=1e-5)


def test_loss_is_the_difference_of_the_moved_prediction_and_that_of_the_moved_image():
    model, images = network(), pool()
    own = teacher.Teacher(model, images, generator(2))
    student = network(1).train()
    done = 0.3
    loss = own.loss(student, 4, done, generator(3), CPU)
    places = torch.randint(len(images), (4,), generator=generator(2))
    inputs = images[places].float() / 255
    views = draw(inputs.shape, "all", generator(3))
    taught = network().train()(inputs).sigmoid()
    learnt = network(1).train()(views.image(inputs)).sigmoid()
    expected = ((learnt - views.move(taught, "bilinear")) ** 2).mean()
    assert loss.item() == pytest.approx(
        teacher.consistency_weight(done) * expected.item(), rel=1e-4
    )


def test_autocast_does_not_move_what_the_student_sees():
    """The grid of a view would be bfloat16, and the image lie beside its target."""
    seen, own = [], teacher.Teacher(network(), pool(), generator(2))

    def student(images):
        seen.append(images)
        return images

    own.loss(student, 4, 0.3, generator(3), Precision(torch.device("cpu"), torch.bfloat16))
    places = torch.randint(len(own.images), (4,), generator=generator(2))
    inputs = own.images[places].float() / 255
    assert torch.equal(seen[0], draw(inputs.shape, "all", generator(3)).image(inputs))


def test_loss_teaches_the_student_and_not_the_teacher():
    own, student = teacher.Teacher(network(), pool(), generator()), network(1).train()
    own.loss(student, 2, 0.9, generator(), CPU).backward()
    assert all(value.grad is not None for value in student.parameters())
    assert all(value.grad is None for value in own.model.parameters())


def test_training_with_a_teacher_uses_the_unlabelled_images():
    labelled = torch.zeros(4, 1, 32, 32, dtype=torch.uint8)
    labelled[:, :, 8:20, 8:20] = 200
    masks = (labelled[:, 0] > 0).to(torch.uint8)

    def train(images):
        model = network()
        own = images and teacher.Teacher(model, images, generator())
        how = {"recipe": Recipe(lr=0.01), "steps": 6, "stream": (0, "t"), "precision": CPU}
        engine.train(model, labelled, masks, teacher=own, **how)
        return SimpleNamespace(model=model, teacher=own)

    alone, one, other = train(None), train(pool()), train(Pool(pool().images.flip(0)))
    heads = [run.model.head.weight for run in (alone, one, other)]
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])
    assert one.teacher.steps == 6
    assert not torch.equal(one.teacher.model.head.weight, heads[1])


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_norm_is_frozen_in_the_teacher_too(frozen):
    model = network()
    own = teacher.Teacher(model, pool(), generator())
    before = {name: value.clone() for name, value in own.model.state_dict().items()}
    images, masks = pool().images, torch.zeros(len(pool()), 32, 32, dtype=torch.uint8)
    how = {"steps": 2, "stream": (0, "t"), "precision": CPU, "teacher": own}
    engine.train(model, images, masks, recipe=Recipe(frozen_norm=frozen), **how)
    after = own.model.state_dict()
    moved = [n for n in after if "running_" in n and not torch.equal(after[n], before[n])]
    assert {n.split(".")[0] for n in moved} == ({"decoder"} if frozen else {"encoder", "decoder"})
