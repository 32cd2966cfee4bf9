"""The music notebook, through its own definitions, and once as a whole."""

import dataclasses
import os
from types import SimpleNamespace

import nbclient
import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT
from notebook_definitions import cells_tagged, load

import Music

gan = load("HW_04_music_gan")
TINY = gan.Config(name="tiny", steps=4, batch_size=4, generator_width=4, style_dim=8, event_dim=4,
                  discriminator_width=2, device="cpu", bfloat16=False, r1_every=2)


@pytest.fixture
def patches(rng):
    return gan.Patches(rng.uniform(-1, 1, (6, Music.N_MELS, 100)).astype(np.float16), range(6))


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("n_mels", [64, 128])
@pytest.mark.parametrize("frames", [16, 64, 96])
def test_generator_makes_codes_of_any_length(n_mels, frames):
    generator = gan.ConvGenerator(4, 8, 4, n_mels=n_mels)
    code = generator(*generator.latents(3, frames))
    assert code.shape == (3, 1, n_mels, frames) and code.abs().max() <= 1


@pytest.mark.parametrize("seconds", [0.04, 3.0, 30.0])
def test_generate_gives_the_seconds_asked_for(seconds):
    code = gan.generate(gan.ConvGenerator(4, 8, 4), seconds, seed=1)
    assert code.shape == (Music.N_MELS, int(np.ceil(seconds * Music.SR / Music.HOP_LENGTH)))


def test_generate_repeats_from_its_seed():
    generator = gan.ConvGenerator(4, 8, 4)
    one, two, other = (gan.generate(generator, 2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_generator_is_convolutional_in_time():
    generator = gan.ConvGenerator(4, 8, 4).eval()
    style, events = generator.latents(1, 320)
    whole, part = generator(style, events), generator(style, events[..., 5:15])
    torch.testing.assert_close(whole[..., 80 + 48:80 + 112], part[..., 48:112])


@pytest.mark.parametrize("kinds", [("picture",), ("bands",), ("picture", "bands")])
def test_discriminator_gives_a_logit_per_judge(kinds):
    logits = gan.Discriminator(kinds, 2)(torch.zeros(3, 1, Music.N_MELS, 64))
    assert logits.shape == (3, len(kinds))


def test_losses_equal_their_formulas():
    a, b = torch.randn(50, 2), torch.randn(50, 2)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(a, torch.ones_like(a)) + bce(b, torch.zeros_like(b))
    torch.testing.assert_close(gan.discriminator_loss("bce", a, b), expected)
    torch.testing.assert_close(gan.generator_loss("bce", None, b), bce(b, torch.ones_like(b)))
    torch.testing.assert_close(gan.discriminator_loss("relativistic", a, b),
                               bce(a - b, torch.ones_like(a)))
    torch.testing.assert_close(gan.generator_loss("relativistic", a, b),
                               gan.discriminator_loss("relativistic", b, a))


def test_r1_penalty_equals_known_gradient():
    def quadratic(x):
        return (x ** 2).sum((1, 2, 3), keepdim=False)[:, None]
    x = torch.randn(5, 1, 3, 4)
    torch.testing.assert_close(gan.r1_penalty(quadratic, x), (4 * x ** 2).sum((1, 2, 3)).mean())


def test_discriminator_step_leaves_generator_untouched(patches):
    trainer, record = gan.Trainer(TINY), {}
    real, _ = patches.draw(4, np.random.default_rng(0))
    fake = trainer.generator(*trainer.generator.latents(4, 64))
    before = weights(trainer.generator), weights(trainer.discriminator)
    gan.discriminator_step(trainer, real, fake, record)
    assert same(before[0], weights(trainer.generator))
    assert not same(before[1], weights(trainer.discriminator))
    assert {"loss/D", "score/real", "score/fake", "grad_norm/D", "penalty/r1"} <= record.keys()


def test_generator_step_leaves_discriminator_untouched(patches):
    trainer = gan.Trainer(TINY)
    real, _ = patches.draw(4, np.random.default_rng(0))
    fake = trainer.generator(*trainer.generator.latents(4, 64))
    before = weights(trainer.generator), weights(trainer.discriminator)
    gan.generator_step(trainer, real, fake, {})
    assert not same(before[0], weights(trainer.generator))
    assert same(before[1], weights(trainer.discriminator))
    assert all(p.requires_grad for p in trainer.discriminator.parameters())


def test_weight_average_has_its_half_life():
    trainer = gan.Trainer(dataclasses.replace(TINY, steps=100, average=0.1))
    with torch.no_grad():
        for p in trainer.average.parameters():
            p.zero_()
    for _ in range(10):
        gan.update_average(trainer)
    for average, p in zip(trainer.average.parameters(), trainer.generator.parameters()):
        torch.testing.assert_close(average, p / 2)


def test_patches_are_crops_of_the_clips_asked_for():
    codes = np.arange(5 * 2 * 30, dtype=np.float32).reshape(5, 2, 30)
    crops, clips = gan.Patches(codes, [1, 3], 8).draw(40, np.random.default_rng(0))
    assert crops.shape == (40, 1, 2, 8) and set(clips) == {1, 3}
    for crop, clip in zip(crops[:, 0].numpy(), clips):
        start = int(crop[0, 0] - codes[clip, 0, 0])
        np.testing.assert_array_equal(crop, codes[clip, :, start:start + 8])


def test_training_repeats_from_its_seed_and_differs_for_another(patches):
    runs = [gan.train(dataclasses.replace(TINY, seed=seed), patches, progress=False)
            for seed in (0, 0, 1)]
    assert runs[0].scalars == runs[1].scalars != runs[2].scalars
    assert same(weights(runs[0].generator), weights(runs[1].generator))


def test_a_stopped_training_goes_on_exactly(patches, tmp_path, monkeypatch):
    whole = gan.train(TINY, patches, tmp_path / "a", tmp_path / "a", views=4, progress=False)
    step, calls = gan.train_step, []

    def stops(trainer, patches):
        if len(calls) == 3:
            calls.append("killed")
            raise KeyboardInterrupt
        calls.append(trainer.step)
        return step(trainer, patches)

    monkeypatch.setattr(gan, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        gan.train(TINY, patches, tmp_path / "b", tmp_path / "b", views=4, progress=False)
    again = gan.train(TINY, patches, tmp_path / "b", tmp_path / "b", views=4, progress=False)
    assert calls == [0, 1, 2, "killed", 3]
    assert again.scalars == whole.scalars
    assert same(weights(again.generator), weights(whole.generator))
    assert [p.name for p in (tmp_path / "b").glob("*.pt")] == ["tiny-generator.pt"]


def test_run_holds_scalars_pictures_sound_and_configuration(patches, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    gan.train(TINY, patches, tmp_path, views=2, progress=False,
              measure=lambda generator: {"quality/frechet": 1.0})
    events = list((tmp_path / "tiny").iterdir())
    assert [p.name for p in events] == ["events.out.tfevents.0.tiny"]
    run = EventAccumulator(str(tmp_path / "tiny")).Reload()
    tags = run.Tags()
    assert {"loss/G", "loss/D", "score/real", "score/fake", "penalty/r1", "grad_norm/G",
            "grad_norm/D", "quality/frechet"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"samples/mel", "real/mel"}
    assert set(tags["audio"]) == {"samples/audio", "real/audio"}
    assert "config/text_summary" in tags["tensors"]
    assert "_hparams_/session_start_info" in run.summary_metadata


def test_frechet_equals_the_closed_form_of_two_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 2, (200000, 3)), rng.normal(1, [1, 2, 3], (200000, 3))
    expected = (3 + (1 ** 2 + 0 + 1 ** 2)) / 14     # ||mu||^2 + sum of (sigma_a - sigma_b)^2
    assert gan.frechet(a, b) == pytest.approx(expected, rel=0.03)
    assert gan.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_survives_features_that_never_vary():
    rng = np.random.default_rng(0)
    a = np.hstack([rng.normal(size=(50, 3)), np.zeros((50, 60))])
    assert np.isfinite(gan.frechet(a, a + 1))


def test_no_piece_is_on_both_sides_of_the_split():
    names = [f"p{i}-{c}.flac" for i in range(20) for c in range(3)]
    coded = SimpleNamespace(paths=[ROOT / n for n in names], labels=["x"] * 60)
    train, held = gan.split_by_piece(coded)
    assert len(train) == 48 and len(held) == 12
    piece = [n.split("-")[0] for n in names]
    assert not {piece[i] for i in train} & {piece[i] for i in held}


def test_note_measures_tell_lines_from_noise():
    lines = -np.ones((2, 128, 10))
    lines[:, 40] = 1
    assert gan.note_measures(lines)[0] < 0.01 and gan.note_measures(lines)[1] > 0.99
    flat = np.zeros((2, 128, 10))
    assert gan.note_measures(flat) == pytest.approx((1.0, 5 / 128), rel=1e-4)


def test_unevenness_sees_seams():
    code = np.random.default_rng(0).normal(size=(8, 20, 161)).cumsum(2)
    assert gan.unevenness(code) < 1.5
    code += 30 * (np.arange(161) // 16)
    assert gan.unevenness(code) > 5


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """The whole notebook, executed at tiny size in a folder of its own."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(ROOT / "HW_04_music_gan.ipynb", as_version=4)
    index, _ = cells_tagged(ROOT / "HW_04_music_gan.ipynb", "parameters")[0]
    notebook.cells[index].source += ("\nPIECES, CLASSIFIER_STEPS, PLAIN_STEPS, MODERN_STEPS = "
                                     f"45, 80, 12, 60\nDATA, RUNS, CHECKPOINTS = 'd', 'r', 'c'")
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = str(ROOT) + os.pathsep + path
    try:
        nbclient.NotebookClient(notebook, timeout=900, coalesce_streams=True,
                                allow_errors=True, kernel_name="python3",
                                resources={"metadata": {"path": str(folder)}}).execute()
    finally:
        os.environ["PYTHONPATH"] = path
    return notebook, folder


def test_notebook_runs_as_a_whole(executed):
    notebook, folder = executed
    outputs = [(c, o) for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    # two asserts are about trained music, which a minute of steps does not make
    errors = [(o.evalue, c.source) for c, o in outputs if o.output_type == "error"
              and "check" not in c.metadata.get("tags", [])]
    assert not errors
    assert not [o.text for _, o in outputs if o.get("name") == "stderr"]
    assert {p.name for p in (folder / "r").iterdir()} == {"plain", "modern", "samples.png"}
