"""A mean teacher: training also on all images of the pool, without their masks.

The teacher's weights are a running average of the student's (Tarvainen and Valpola 2017,
arXiv 1703.01780). The student sees an augmented view of an image (augment.py); the loss compares
its prediction with what the teacher predicts for the unaugmented image, moved in the same way:
transformation-consistent self-ensembling (Li et al. 2018, arXiv 1808.03887). The weight of this
loss rises from almost 0 over the first part of the training.
"""

import copy
import math

import torch
from torch.nn.functional import mse_loss

from segmentation.data.images import to_input
from segmentation.model.augment import draw

MOMENTUM = 0.99  # largest momentum of the average; at first it is the plain mean of all steps
WEIGHT = 1.0  # largest weight of the consistency loss
RISE = 0.4  # fraction of the training over which the weight rises


def consistency_weight(done):
    """WEIGHT exp(-5 (1 - t)^2), t = min(done / RISE, 1); `done`: fraction of the training done."""
    rest = 1 - min(done / RISE, 1.0)
    return WEIGHT * math.exp(-5 * rest**2)


class Teacher:
    """The averaged copy of `model`, and the `images` (an images.Images) that it teaches on.

    `generator` is a CPU generator that draws some of these images for each step.
    """

    def __init__(self, model, images, generator):
        self.model = copy.deepcopy(model).to(images.device).requires_grad_(False).train()
        self.images, self.generator = images, generator
        self.steps = 0

    def loss(self, student, count, done, views_rng, precision):
        """The weighted consistency loss on `count` random images: a scalar.

        It is the mean squared difference between the student's and the teacher's probabilities,
        times `consistency_weight`. `done` in [0,1) is the fraction of the training done.
        """
        places = torch.randint(len(self.images), (count,), generator=self.generator)
        inputs = to_input(self.images[places])
        views = draw(inputs.shape, "all", views_rng).to(inputs.device)
        seen = views.image(inputs)  # not under autocast, which would round where pixels go
        with torch.no_grad(), precision.autocast():
            taught = self.model(inputs)
        with precision.autocast():
            learnt = student(seen)
        target = views.move(taught.float().sigmoid(), "bilinear")
        return consistency_weight(done) * mse_loss(learnt.float().sigmoid(), target)

    @torch.no_grad()
    def follow(self, student):
        """Update the average with the student's weights. Call it after each step."""
        self.steps += 1
        keep = min(MOMENTUM, 1 - 1 / self.steps)
        for own, new in zip(self.model.parameters(), student.parameters(), strict=True):
            own.lerp_(new.to(own.dtype), 1 - keep)
