"""A mean teacher: what the unlabelled pool can teach, beside the labelled images.

The teacher is the running average of the student's weights (Tarvainen and Valpola 2017,
arXiv 1703.01780). On unlabelled images the student, who sees a flipped, turned and relit view,
shall predict what the teacher predicts of the image as it is, moved alike: Li et al. 2018, arXiv
1808.03887, transformation-consistent self-ensembling. The weight of that rises over the first part
of the training, as there is nothing to learn from a teacher that knows nothing.
"""

import copy
import math

import torch
from torch.nn.functional import mse_loss

from segmentation.data.images import to_input
from segmentation.model.augment import draw

MOMENTUM = 0.99  # of the average, at most; over the first steps it is that of all so far
WEIGHT = 1.0  # of the consistency loss at its height
RISE = 0.4  # part of the training over which the weight rises


def consistency_weight(done):
    """WEIGHT exp(-5 (1 - t)^2), t = done / RISE up to 1; `done` is the part of the training."""
    rest = 1 - min(done / RISE, 1.0)
    return WEIGHT * math.exp(-5 * rest**2)


class Teacher:
    """The averaged copy of `model`, and the unlabelled `images` (a images.Images) it teaches on.

    `generator` is a CPU generator that draws the unlabelled images of each step.
    """

    def __init__(self, model, images, generator):
        self.model = copy.deepcopy(model).to(images.device).requires_grad_(False).train()
        self.images, self.generator = images, generator
        self.steps = 0

    def loss(self, student, count, done, views_rng, precision):
        """Mean squared difference of student's and teacher's probabilities on `count` images.

        `done` is the part of the training that is over, in [0,1).
        """
        places = torch.randint(len(self.images), (count,), generator=self.generator)
        inputs = to_input(self.images[places])
        views = draw(inputs.shape, "all", views_rng).to(inputs.device)
        with torch.no_grad(), precision.autocast():
            taught = self.model(inputs)
        with precision.autocast():
            learnt = student(views.image(inputs))
        target = views.move(taught.float().sigmoid(), "bilinear")
        return consistency_weight(done) * mse_loss(learnt.float().sigmoid(), target)

    @torch.no_grad()
    def follow(self, student):
        """Move the average towards the student's weights, after a step."""
        self.steps += 1
        keep = min(MOMENTUM, 1 - 1 / self.steps)
        for own, new in zip(self.model.parameters(), student.parameters(), strict=True):
            own.lerp_(new.to(own.dtype), 1 - keep)
