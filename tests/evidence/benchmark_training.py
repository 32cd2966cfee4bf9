"""Images per second: the notebook's loop beside the plain loop of the PyTorch DCGAN tutorial.

    python tests/evidence/benchmark_training.py

Both train the same networks on the same batches of 64 patches, in turns in one run: the
tutorial's loop in float32, its gradients of D in G's step included; the notebook's with
bfloat16 where the processor has it, channels last, D frozen in G's step.
"""

import statistics
import time
from typing import NamedTuple

import numpy as np
import torch
from common import gan
from torch import nn


class Rates(NamedTuple):
    """Images per second of both loops."""

    tutorial: float
    ours: float


def tutorial_config(width, batch):
    """The tutorial's recipe: a picture generator and a picture judge, told no repertoire."""
    return gan.plain_recipe(
        generator_width=width,
        discriminator_width=width,
        batch_size=batch,
    )


class TutorialLoop:
    """What the tutorial does each iteration, in its order."""

    def __init__(self, config):
        torch.manual_seed(0)
        self.generator = gan.ConvGenerator(config)
        self.discriminator = gan.Discriminator(config)
        self.optimisers = []
        for net in (self.generator, self.discriminator):
            self.optimisers.append(torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)))
        self.criterion = nn.BCEWithLogitsLoss()

    def step(self, real):
        """Train both networks on one batch: losses of G and of D."""
        optimiser_g, optimiser_d = self.optimisers
        one = torch.ones(len(real), 1)
        zero = torch.zeros(len(real), 1)
        self.discriminator.zero_grad()
        loss_real = self.criterion(self.discriminator(real), one)
        loss_real.backward()
        latents = self.generator.latents(len(real), real.shape[-1])
        fake = self.generator(*latents)
        loss_fake = self.criterion(self.discriminator(fake.detach()), zero)
        loss_fake.backward()
        optimiser_d.step()
        self.generator.zero_grad()
        loss = self.criterion(self.discriminator(fake), one)
        loss.backward()
        optimiser_g.step()
        return loss.item(), loss_real.item() + loss_fake.item()


def images_per_second(step, steps, batch):
    """Images per second of so many calls of `step`."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    seconds = time.perf_counter() - started
    return steps * batch / seconds


def measure(width, steps=5, rounds=4, batch=64):
    """Median images per second of both loops, in turns."""
    config = tutorial_config(width, batch)
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, (64, config.n_mels, config.frames))
    patches = gan.Patches(noise.astype(np.float16), range(64), config.frames)
    tutorial = TutorialLoop(config)
    trainer = gan.Trainer(config)

    def tutorial_step():
        real, _ = patches.draw(batch, rng)
        tutorial.step(real)

    def our_step():
        gan.train_step(trainer, patches)

    images_per_second(tutorial_step, steps, batch)      # warms up
    images_per_second(our_step, steps, batch)
    rates = []
    for _ in range(rounds):
        theirs = images_per_second(tutorial_step, steps, batch)
        rates.append(Rates(theirs, images_per_second(our_step, steps, batch)))
    return Rates(*map(statistics.median, zip(*rates)))


def main():
    """Print both rates for three widths."""
    bfloat16 = gan.has_bfloat16(torch.device("cpu"))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"bfloat16 {bfloat16}, patches 128 x 64, batch 64")
    print("width  tutorial (images/s)  ours (images/s)  ratio")
    for width in (16, 32, 64):
        rates = measure(width)
        ratio = rates.ours / rates.tutorial
        print(f"{width:5}  {rates.tutorial:19.0f}  {rates.ours:15.0f}  {ratio:5.2f}")


if __name__ == "__main__":
    main()
