"""Images per second: the notebook's loop beside the plain loop of the PyTorch DCGAN tutorial.

    python tests/evidence/benchmark_training.py

Both train the same networks on the same batches of 64 patches, in turns in one run: the
tutorial's loop in float32, its gradients of D in G's step included; the notebook's with
bfloat16 where the processor has it, channels last, D frozen in G's step.
"""

import statistics
import time

import numpy as np
import torch
from helpers import ROOT  # noqa: F401  (puts the project on the path)
from notebook_definitions import load
from torch import nn

gan = load("HW_04_music_gan")


def tutorial_config(width, batch):
    """The tutorial's recipe: a picture generator and a picture judge, told no repertoire."""
    return gan.Config(generator="convolutional", generator_width=width, rows=False,
                      modulated=False, classes=(), discriminators=("picture",),
                      discriminator_width=width, loss="bce", r1_gamma=0.0, lr=2e-4, lr_end=1.0,
                      betas=(0.5, 0.999), average=0.0, batch_size=batch)


class TutorialLoop:
    """What the tutorial does each iteration, in its order."""

    def __init__(self, config):
        torch.manual_seed(0)
        self.generator, self.discriminator = gan.ConvGenerator(config), gan.Discriminator(config)
        self.optimisers = [torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999))
                           for net in (self.generator, self.discriminator)]
        self.criterion = nn.BCEWithLogitsLoss()

    def step(self, real):
        one, zero = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        self.discriminator.zero_grad()
        loss_real = self.criterion(self.discriminator(real), one)
        loss_real.backward()
        fake = self.generator(*self.generator.latents(len(real), real.shape[-1]))
        loss_fake = self.criterion(self.discriminator(fake.detach()), zero)
        loss_fake.backward()
        self.optimisers[1].step()
        self.generator.zero_grad()
        loss = self.criterion(self.discriminator(fake), one)
        loss.backward()
        self.optimisers[0].step()
        return loss.item(), loss_real.item() + loss_fake.item()


def measure(width, steps=5, rounds=4, batch=64):
    """Median images per second of both loops, in turns: (tutorial, ours)."""
    config = tutorial_config(width, batch)
    noise = np.random.default_rng(0).uniform(-1, 1, (64, config.n_mels, config.frames))
    patches = gan.Patches(noise.astype(np.float16), range(64), config.frames)
    tutorial, trainer, rng = TutorialLoop(config), gan.Trainer(config), np.random.default_rng(0)
    loops = (lambda: tutorial.step(patches.draw(batch, rng)[0]),
             lambda: gan.train_step(trainer, patches))
    rates = ([], [])
    for round_ in range(rounds + 1):
        for loop, rate in zip(loops, rates):
            started = time.perf_counter()
            for _ in range(steps):
                loop()
            if round_:      # the first round warms up
                rate.append(steps * batch / (time.perf_counter() - started))
    return tuple(map(statistics.median, rates))


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"bfloat16 {gan.has_bfloat16(torch.device('cpu'))}, patches 128 x 64, batch 64")
    print("width  tutorial (images/s)  ours (images/s)  ratio")
    for width in (16, 32, 64):
        tutorial, ours = measure(width)
        print(f"{width:5}  {tutorial:19.0f}  {ours:15.0f}  {ours / tutorial:5.2f}")
