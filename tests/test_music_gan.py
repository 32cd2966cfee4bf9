"""The music notebook, through its own definitions, and once as a whole."""

import dataclasses
import os
from types import SimpleNamespace

import nbclient
import nbformat
import numpy as np
import pytest
import torch
from helpers import ROOT
from notebook_definitions import cells_tagged, load

import Music
import Quality

gan = load("HW_04_music_gan")
TINY = gan.Config(name="tiny", steps=4, batch_size=4, generator_width=4, style_dim=8, event_dim=4,
                  discriminator_width=2, device="cpu", bfloat16=False, r1_every=2)
CONV, GRU = {"generator": "convolutional"}, {"memory": "gru"}
ASKED = {"classes": (0.25, 0.75)}
GENERATORS = pytest.mark.parametrize("kind", [CONV, {}, GRU], ids=["conv", "trunk", "gru"])


@pytest.fixture
def patches(rng):
    return gan.Patches(rng.uniform(-1, 1, (6, Music.N_MELS, 100)).astype(np.float16), range(6),
                       target=np.arange(6) % 2)


def tiny(**changes):
    return dataclasses.replace(TINY, **changes)


def make(**changes):
    """The generator of a tiny configuration."""
    return gan.GENERATORS[tiny(**changes).generator](tiny(**changes))


def lively(net):
    """The same network in float64, ready to sample, with weights that let all inputs be felt."""
    torch.manual_seed(1)
    for p in net.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, 0, (p.numel() / max(p.shape[:2])) ** -0.5)
    return net.double().eval()


def drawn(generator, n, frames, seed=0, kind=None):
    """Latents in float64."""
    rng = torch.Generator().manual_seed(seed)
    return [x.double() for x in generator.latents(n, frames, rng, kind)]


def far(a, b):
    """The largest difference, in standard deviations of `a`."""
    return ((a - b).abs().max() / a.std()).item()


def weights(net):
    return [p.detach().clone() for p in net.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@GENERATORS
@pytest.mark.parametrize("n_mels", [64, 128])
@pytest.mark.parametrize("frames", [16, 64, 96])
def test_generators_make_codes_of_any_length(kind, n_mels, frames):
    generator = make(**kind, n_mels=n_mels)
    code = generator(*generator.latents(3, frames))
    assert code.shape == (3, 1, n_mels, frames) and code.abs().max() <= 1


@GENERATORS
@pytest.mark.parametrize("seconds", [0.04, 3.0, 30.0])
def test_generate_gives_the_seconds_asked_for(kind, seconds):
    code = gan.generate(make(**kind), seconds, seed=1)
    assert code.shape == (Music.N_MELS, int(np.ceil(seconds * Music.SR / Music.HOP_LENGTH)))


@GENERATORS
def test_generate_repeats_from_its_seed(kind):
    generator = make(**kind)
    one, two, other = (gan.generate(generator, 2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_generator_is_convolutional_in_time():
    generator = lively(make(**CONV))
    style, events = drawn(generator, 1, 320)
    whole, part = generator(style, events), generator(style, events[..., 5:15])
    torch.testing.assert_close(whole[..., 80 + 48:80 + 112], part[..., 48:112])
    assert far(whole[..., 80:240], part) > 0.1


REACH = 2 + (1 + 2 + 4 + 8) + 1    # steps of 4 frames: events, trunk, and the picture's kernels


def test_trunk_of_convolutions_is_convolutional_in_time():
    generator = lively(make())
    style, events = drawn(generator, 1, 400)
    whole, part = generator(style, events), generator(style, events[..., 20:80])
    inner = slice(4 * REACH, 4 * (60 - REACH))
    torch.testing.assert_close(whole[..., 80:320][..., inner], part[..., inner])
    # and no further inside: the steps next to these do feel the ends
    for i in range(4 * (REACH - 1), 4 * REACH), range(-4 * REACH, 4 - 4 * REACH):
        assert not torch.allclose(whole[..., 80:320][..., list(i)], part[..., list(i)])


def test_trunk_with_a_gru_looks_ahead_only_by_its_kernels():
    generator = lively(make(**GRU))
    style, events = drawn(generator, 1, 160)
    changed = events.clone()
    changed[..., 20:] += 1
    before, after = generator(style, events), generator(style, changed)
    reach = 4 * (2 + (1 + 2) + 1)      # frames: events, two convolutions, the picture
    torch.testing.assert_close(before[..., :80 - reach], after[..., :80 - reach])
    assert not torch.allclose(before[..., 80 - reach:84 - reach], after[..., 80 - reach:84 - reach])
    assert not torch.allclose(before[..., 84:], after[..., 84:])


@pytest.mark.parametrize("memory, carries", [("convolutions", False), ("gru", True)])
def test_only_a_gru_carries_on_beyond_the_reach_of_kernels(memory, carries):
    generator = lively(make(memory=memory))
    style, events = drawn(generator, 1, 160)
    changed = events.clone()
    changed[..., 0] += 1
    before, after = generator(style, events), generator(style, changed)
    assert torch.allclose(before[..., 4 * (REACH + 1):], after[..., 4 * (REACH + 1):],
                          rtol=0, atol=1e-15) != carries
    assert not torch.allclose(before[..., :16], after[..., :16])


@pytest.mark.parametrize("memory", ["convolutions", "gru"])
def test_style_given_once_is_that_of_each_step(memory):
    generator = lively(make(memory=memory, **ASKED))
    style, events = drawn(generator, 3, 64)
    once = generator(style, events)
    torch.testing.assert_close(generator(style[..., None].expand(-1, -1, 16), events), once)
    torch.testing.assert_close(generator(style[..., None], events), once)
    moving = torch.where(torch.arange(16) < 8, style[..., None], style.flip(0)[..., None])
    assert far(once, generator(moving, events)) > 0.1


@GENERATORS
def test_last_entries_of_the_style_are_the_repertoire_asked_for(kind):
    generator = make(**kind, classes=(0.2, 0.3, 0.5))
    style, events = generator.latents(4, 64, torch.Generator().manual_seed(0), [2, 0, 1, 1])
    expected = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert style.shape == (4, TINY.style_dim + 3) and style[:, TINY.style_dim:].tolist() == expected
    other, same_events = generator.latents(4, 64, torch.Generator().manual_seed(0), [0, 0, 0, 0])
    assert torch.equal(style[:, :TINY.style_dim], other[:, :TINY.style_dim])
    assert torch.equal(events, same_events)
    net = lively(generator)
    assert far(net(style.double(), events.double()), net(other.double(), events.double())) > 0.1


def test_repertoires_not_asked_for_are_drawn_by_their_shares():
    shares = (0.2, 0.3, 0.5)
    style, _ = make(classes=shares).latents(4000, 4, torch.Generator().manual_seed(0))
    asked = style[:, TINY.style_dim:]
    assert (asked.sum(1) == 1).all() and asked.unique().tolist() == [0, 1]
    np.testing.assert_allclose(asked.mean(0), shares, atol=0.03)


def test_sampling_asks_for_repertoires_in_their_order():
    generator, asked = make(**ASKED).eval(), []
    generator.register_forward_pre_hook(
        lambda _, latents: asked.extend(latents[0][:, TINY.style_dim:].argmax(1).tolist()))
    kind = torch.tensor([0, 1, 1, 0, 1])
    codes = gan.sample(generator, 5, 16, batch=2, kind=kind)
    assert codes.shape == (5, 1, Music.N_MELS, 16) and asked == kind.tolist()
    asked.clear()
    gan.generate(generator, 1, 0, kind=1), gan.generate(generator, 1, 0, kind=0)
    assert asked == [1, 0]


def law(dims, steps):
    """Covariance (dims, steps, steps) of the events that `remember` makes of white ones."""
    root = gan.remember(torch.eye(steps)[:, None].expand(-1, dims, -1))       # it is linear
    return torch.einsum("ndt,nds->dts", root, root)


def test_remembered_events_have_their_variance_and_correlation():
    white = torch.randn(20000, 4, 12, generator=torch.Generator().manual_seed(0))
    events = gan.remember(white).numpy()
    tau = np.geomspace(0.5, 20, 4)
    np.testing.assert_allclose(events.var(0), 1, atol=0.05)
    for lag in (1, 3, 10):
        found = (events[..., lag:] * events[..., :-lag]).mean((0, 2))
        np.testing.assert_allclose(found, np.exp(-lag / tau), atol=0.03)
    across = np.einsum("nat,nbt->ab", events, events) / events[:, 0].size
    np.testing.assert_allclose(across - np.diag(np.diag(across)), 0, atol=0.03)


def test_memory_of_events_does_not_depend_on_the_length():
    short, long = law(4, 10), law(4, 60)
    torch.testing.assert_close(torch.diagonal(long, 0, 1, 2), torch.ones(4, 60))
    for start in (0, 1, 25, 50):
        torch.testing.assert_close(long[:, start:start + 10, start:start + 10], short)
    assert (short[:-1, 0, 5] < short[1:, 0, 5]).all()


def test_steering_begins_with_one_style_and_ends_with_the_other():
    generator, frames = lively(make(**ASKED)), 646
    generator.float()
    code = gan.steer(generator, 30, seeds=(1, 2), kinds=(0, 1))
    one, _ = generator.latents(1, frames, torch.Generator().manual_seed(1), [0])
    two, events = generator.latents(1, frames, torch.Generator().manual_seed(2), [1])
    with torch.no_grad():
        first, last = (generator(style, events)[0, 0, :, :frames].numpy() for style in (one, two))
    assert code.shape == (Music.N_MELS, frames)
    inner = 4 * (events.shape[2] // 4 - REACH)
    np.testing.assert_allclose(code[:, :inner], first[:, :inner], atol=1e-5)
    np.testing.assert_allclose(code[:, -inner:], last[:, -inner:], atol=1e-5)
    middle = slice(frames // 2 - 20, frames // 2 + 20)
    for other in first, last:
        assert np.abs(code - other)[:, middle].mean() > 0.1 * other.std()
    np.testing.assert_array_equal(gan.generate(generator, 30, 2, 1), last)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("pack", [2, 3])
def test_packed_discriminator_judges_several_patches_at_once(pack, norm):
    net = gan.Discriminator(tiny(pack=pack, discriminator_norm=norm)).eval()
    x = torch.randn(6, 1, Music.N_MELS, 64)
    assert net(x).shape == (6 // pack, 3)
    changed = x.clone()
    changed[0] += 1
    moved = (net(x) - net(changed)).abs().sum(1) > 1e-6
    assert moved.tolist() == [True] + [False] * (6 // pack - 1)
    assert net(x[:pack].flip(0)).shape == (1, 3)


def test_packed_patches_have_no_repertoire():
    with pytest.raises(ValueError, match="pack"):
        gan.Discriminator(tiny(pack=2, **ASKED))


@pytest.mark.parametrize("kinds", [("picture",), ("bands",), ("frames",), ("picture", "bands"),
                                   ("picture", "bands", "frames")])
def test_discriminator_gives_a_logit_per_judge(kinds):
    logits = gan.Discriminator(tiny(discriminators=kinds))(torch.zeros(3, 1, Music.N_MELS, 64))
    assert logits.shape == (3, len(kinds))


@pytest.mark.parametrize("judge", ["picture", "bands", "frames"])
def test_repertoire_moves_the_logit_by_projection(judge):
    net = lively(gan.Discriminator(tiny(discriminators=(judge,), **ASKED)))
    x = torch.randn(5, 1, Music.N_MELS, 64).double()
    head, features = net.judges[0].head, []
    head.register_forward_pre_hook(lambda _, seen: features.append(seen[0].flatten(1)))
    kind = torch.eye(2).double()[[0, 1, 1, 0, 1]]
    logit, other = net(x, kind)[:, 0], net(x, 1 - kind)[:, 0]
    vectors = head.shared.weight + head.kind.weight.T[kind.argmax(1)]       # w + W kind
    torch.testing.assert_close(logit, (vectors * features[0]).sum(1))
    assert far(logit, other) > 0.1


def test_discriminator_without_repertoires_ignores_them():
    net = lively(gan.Discriminator(TINY))
    x = torch.randn(4, 1, Music.N_MELS, 64).double()
    assert torch.equal(net(x), net(x, torch.randn(4, 2).double()))
    assert not [name for name, _ in net.named_parameters() if "kind" in name]


@pytest.mark.parametrize("judge, blind", [("picture", False), ("bands", False), ("frames", True)])
def test_only_the_frames_judge_is_blind_to_the_order_of_frames(judge, blind):
    net = lively(gan.Discriminator(tiny(discriminators=(judge,)))).train()
    x = torch.randn(4, 1, Music.N_MELS, 64).double()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert (far(net(x), net(x[..., order])) < 1e-9) == blind
    # it averages: the logit of a patch is the mean of those of its halves
    halves = [net.eval()(half.repeat(1, 1, 1, 2)) for half in x.split(32, 3)]
    assert (far(net(x), sum(halves) / 2) < 1e-9) == blind
    # and is blind to nothing else
    assert far(net(x), net(x.flip(2))) > 0.1 and far(net(x), net(x * (1 + x))) > 0.1


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
    torch.testing.assert_close(gan.discriminator_loss("minimax", a, b), expected)
    torch.testing.assert_close(gan.generator_loss("minimax", None, b),
                               torch.log(1 - torch.sigmoid(b)).mean())
    torch.testing.assert_close(gan.discriminator_loss("wasserstein", a, b), b.mean() - a.mean())
    torch.testing.assert_close(gan.generator_loss("wasserstein", a, b), -b.mean())


def test_r1_penalty_equals_known_gradient():
    def quadratic(x):
        return (x ** 2).sum((1, 2, 3), keepdim=False)[:, None]
    x = torch.randn(5, 1, 3, 4)
    torch.testing.assert_close(gan.r1_penalty(quadratic, x), (4 * x ** 2).sum((1, 2, 3)).mean())


@pytest.mark.parametrize("changes", [{}, ASKED], ids=["told nothing", "told the repertoire"])
def test_discriminator_step_leaves_generator_untouched(patches, changes):
    trainer, record = gan.Trainer(tiny(**changes)), {}
    real, _ = patches.draw(4, np.random.default_rng(0))
    style, events = trainer.generator.latents(4, 64)
    fake, kind = trainer.generator(style, events), style[:, TINY.style_dim:]
    before = weights(trainer.generator), weights(trainer.discriminator)
    gan.discriminator_step(trainer, real, fake, kind, record)
    assert same(before[0], weights(trainer.generator))
    assert not same(before[1], weights(trainer.discriminator))
    assert {"loss/D", "score/real", "score/fake", "grad_norm/D", "penalty/r1"} <= record.keys()


@pytest.mark.parametrize("changes", [{}, ASKED], ids=["told nothing", "told the repertoire"])
def test_generator_step_leaves_discriminator_untouched(patches, changes):
    trainer = gan.Trainer(tiny(**changes))
    real, _ = patches.draw(4, np.random.default_rng(0))
    style, events = trainer.generator.latents(4, 64)
    fake, kind = trainer.generator(style, events), style[:, TINY.style_dim:]
    before = weights(trainer.generator), weights(trainer.discriminator)
    gan.generator_step(trainer, real, fake, kind, {})
    assert not same(before[0], weights(trainer.generator))
    assert same(before[1], weights(trainer.discriminator))
    assert all(p.requires_grad for p in trainer.discriminator.parameters())


def test_fakes_are_asked_for_the_repertoires_of_the_real_batch():
    target = np.array([1, 0, 2, 0, 1])
    codes = np.linspace(-1, 1, 5, dtype=np.float32)[:, None, None].repeat(128, 1).repeat(80, 2)
    patches = gan.Patches(codes, range(5), target=target)       # a clip's code says which it is
    trainer = gan.Trainer(tiny(batch_size=8, classes=(0.4, 0.4, 0.2), generator_steps=2))
    asked, told, reals = [], [], []
    trainer.generator.register_forward_pre_hook(
        lambda _, latents: asked.append(latents[0][:, TINY.style_dim:]))
    trainer.discriminator.register_forward_pre_hook(lambda _, seen: told.append(seen[1]))
    trainer.discriminator.register_forward_pre_hook(lambda _, seen: reals.append(seen[0]))
    gan.train_step(trainer, patches)
    clips = ((reals[0][:, 0, 0, 0] + 1) * 2).round().long().numpy()
    expected = torch.eye(3)[target[clips]]
    assert len(set(clips)) > 2 and len(asked) == 2
    # D: real, fake, R1; G, twice: real, fake
    assert len(told) == 7 and all(torch.equal(kind, expected) for kind in asked + told)


def test_mean_logit_tells_each_batch_its_repertoires(patches):
    net = lively(gan.Discriminator(tiny(**ASKED))).float()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x, kind = torch.randn(8, 1, Music.N_MELS, 64), torch.tensor([0, 0, 1, 0, 0, 1, 0, 0])
    found = gan.mean_logit(net.eval(), x, kind, batch=4)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    onehot = torch.eye(2)[kind]
    with torch.no_grad():
        expected = torch.cat([net.train()(x[i:i + 4], onehot[i:i + 4]) for i in (0, 4)]).mean()
        other = torch.cat([net(x[i:i + 4], 1 - onehot[i:i + 4]) for i in (0, 4)]).mean()
    assert found == pytest.approx(expected.item(), rel=1e-4) != pytest.approx(other.item(), rel=0.1)


def test_input_noise_has_its_standard_deviation():
    trainer = gan.Trainer(tiny(input_noise=0.5))
    x = torch.zeros(8, 1, Music.N_MELS, 64)
    assert gan.seen_by(trainer, x).std().item() == pytest.approx(0.5, rel=0.02)
    assert gan.seen_by(gan.Trainer(TINY), x) is x


def test_more_steps_of_the_generator_move_it_further(patches):
    # with momentum: without it, five steps on other fakes each are nearer to a random walk
    trainers = [gan.Trainer(tiny(generator_steps=n, betas=(0.9, 0.999))) for n in (1, 5)]
    before = weights(trainers[0].generator)
    for trainer in trainers:
        gan.train_step(trainer, patches)
    one, five = (sum((a - b).abs().sum() for a, b in zip(before, weights(t.generator)))
                 for t in trainers)
    assert five > 2 * one


def test_diversity_is_one_for_the_real_and_small_for_copies():
    real = torch.randn(16, 1, 8, 8)
    same = gan.diversity(real, real)
    assert all(v.item() == pytest.approx(1) for v in same.values()) and len(same) == 3
    two = torch.randn(2, 1, 8, 8).repeat(8, 1, 1, 1) + 0.01 * torch.randn(16, 1, 8, 8)
    found = {k: v.item() for k, v in gan.diversity(two, real).items()}
    assert found["diversity/nearest"] < 0.1 and found["diversity/dimensions"] < 0.2
    assert found["diversity/mean"] > 0.4


def test_weight_average_has_its_half_life():
    trainer = gan.Trainer(tiny(steps=100, average=0.1))
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


@pytest.mark.parametrize("changes", [{}, {**GRU, **ASKED}], ids=["trunk", "gru, asked"])
def test_training_repeats_from_its_seed_and_differs_for_another(patches, changes):
    runs = [gan.train(tiny(seed=seed, **changes), patches, progress=False) for seed in (0, 0, 1)]
    assert runs[0].scalars == runs[1].scalars != runs[2].scalars
    assert same(weights(runs[0].generator), weights(runs[1].generator))


@pytest.mark.parametrize("changes", [CONV, {}, {**GRU, **ASKED}],
                         ids=["conv", "trunk", "gru, asked"])
def test_a_stopped_training_goes_on_exactly(patches, tmp_path, monkeypatch, changes):
    config = tiny(**changes)
    whole = gan.train(config, patches, tmp_path / "a", tmp_path / "a", views=4, progress=False)
    step, calls = gan.train_step, []

    def stops(trainer, patches, watch):
        if len(calls) == 3:
            calls.append("killed")
            raise KeyboardInterrupt
        calls.append(trainer.step)
        return step(trainer, patches, watch)

    monkeypatch.setattr(gan, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        gan.train(config, patches, tmp_path / "b", tmp_path / "b", views=4, progress=False)
    again = gan.train(config, patches, tmp_path / "b", tmp_path / "b", views=4, progress=False)
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


def made_up(n=100, **changes):
    """A history in which all is well, but for `changes`: tag to values."""
    rng = np.random.default_rng(0)
    values = {"loss/G": 2.0, "loss/D": 0.4, "score/real": 1.5, "score/fake": -1.5,
              "grad_norm/D": 10.0, "grad_norm/fake": 0.2, "diversity/mean": 1.0,
              "diversity/nearest": 0.9, "diversity/dimensions": 0.95, **changes}
    return gan.History(TINY, {tag: list(enumerate(v * rng.uniform(0.97, 1.03, n)))
                              for tag, v in values.items()})


ramp = np.linspace(0, 1, 100)


@pytest.mark.parametrize("verdict, changes", [
    ("healthy", {}),
    ("diminished gradient", {"grad_norm/fake": 0.2 * np.exp(-20 * ramp), "score/real": 8.0}),
    ("non-convergence", {"grad_norm/D": 10 * np.exp(5 * ramp)}),
    ("non-convergence", {"diversity/mean": 1 + 0.3 * np.sin(20 * ramp)}),
    ("non-convergence", {"loss/D": np.where(ramp > 0.9, np.nan, 1)}),
    ("mode collapse", {"score/real": -1.5, "diversity/dimensions": 0.5}),
    ("mode collapse", {"diversity/nearest": 0.05}),
    ("mode collapse", {"score/real": -1.5, "diversity/dimensions": 0.5,     # that wanders
                       "diversity/mean": 1 + 0.3 * np.sin(20 * ramp)}),
    ("undecided", {"score/real": -1.5, "diversity/dimensions": 0.87})])
def test_diagnose_names_what_goes_wrong(verdict, changes):
    found, evidence, cure = gan.diagnose(made_up(**changes))
    assert found == verdict and evidence and cure == gan.CURES[verdict]


def test_diagnose_needs_some_steps():
    assert gan.diagnose(made_up(5))[0] == "undecided"
    assert gan.diagnose(gan.History(TINY))[0] == "undecided"


def test_a_recorded_run_is_read_back_as_it_was(patches, tmp_path):
    live = gan.train(tiny(steps=12), patches, tmp_path, progress=False)
    read = gan.read_history(tmp_path / "tiny")
    assert read.config["loss"] == "relativistic" and int(read.config["steps"]) == 12
    assert set(gan.TRAINING_TAGS) <= set(read.scalars)
    for tag, values in live.scalars.items():
        np.testing.assert_allclose(read.scalars[tag], values, rtol=1e-6)
    assert gan.diagnose(read)[:2] == gan.diagnose(live)[:2]


@pytest.mark.parametrize("became, distance, difference", [
    ("healthy", [0.5, 0.2], 0.3), ("mode collapse", [0.5, 0.3], 0.8),
    ("diminished gradient", [2.0, 1.5], 0.8), ("non-convergence", [0.6, 0.9], 0.8),
    ("non-convergence", [0.6, np.nan], 0.8)])
def test_outcome_goes_by_quality_alone(became, distance, difference):
    history = gan.History(TINY, {"quality/frechet": list(enumerate(distance)),
                                 "quality/total_variation": [(0, 0.9), (1, difference)]})
    assert gan.outcome(history) == became


def test_balanced_accuracy_counts_every_class_alike():
    made = ["a"] * 90 + ["b"] * 10
    score, low, high = gan.balanced_accuracy(made, ["a"] * 100)
    assert (score, low, high) == (0.5, 0.5, 0.5)
    score, low, high = gan.balanced_accuracy(made, made[:95] + ["a"] * 5)
    assert score == 0.75 and low < 0.75 < high


def test_recording_keeps_runs_and_goes_on(patches, tmp_path, monkeypatch):
    import record_failures
    monkeypatch.setattr(record_failures, "RECORDED", tmp_path / "failures")
    monkeypatch.setattr(record_failures, "NARROW", dataclasses.asdict(TINY))
    judges = SimpleNamespace(quick=lambda generator: {"quality/frechet": 1.0})
    run = record_failures.Run("plain-0", "healthy", "derive", {"steps": 12})
    (tmp_path / "failures").mkdir()
    record_failures.record(run, lambda music: (patches, patches, judges))
    kept = gan.read_history(tmp_path / "failures" / "plain-0")
    assert kept.config["made"] == "healthy" and kept.last("quality/frechet") == 1
    assert {p.name for p in (tmp_path / "failures" / "plain-0").iterdir()} == {
        "events.out.tfevents.0.scalars", "samples.npz"}
    before = (tmp_path / "failures" / "plain-0").stat().st_mtime_ns
    record_failures.record(run, lambda music: (patches, patches, judges))
    assert (tmp_path / "failures" / "plain-0").stat().st_mtime_ns == before


def test_duality_gap_is_what_either_network_could_still_win(patches, monkeypatch):
    import record_failures
    history = gan.train(TINY, patches, progress=False)
    values, value = [], record_failures.game_value
    monkeypatch.setattr(record_failures, "game_value",
                        lambda *args: values.append(value(*args)) or values[-1])
    gaps = [record_failures.duality_gap(history, patches, patches, steps) for steps in (0, 30)]
    same_d, same_g, worst_d, worst_g = values
    # without a search both values are those of the same pair, but for the batches
    assert same_d == pytest.approx(same_g, abs=0.2)
    assert worst_d > same_d + 0.05 and worst_g < same_g - 0.05
    assert gaps == [same_d - same_g, worst_d - worst_g]


def test_sides_of_a_run_of_both_generators_are_kept(patches, tmp_path, monkeypatch):
    import record_failures
    monkeypatch.setattr(record_failures, "RECORDED", tmp_path)
    monkeypatch.setattr(record_failures, "NARROW", dataclasses.asdict(TINY))
    pca = gan.PCA(4).fit(patches.draw(20, np.random.default_rng(0))[0].flatten(1).numpy())
    judges = SimpleNamespace(
        quick=lambda generator: {"quality/frechet": 1.0},
        describe=lambda codes: {"quality/frechet": pca.transform(codes.flatten(1).numpy())})
    run = record_failures.Run("recurrent-0", "healthy", "generators", {"generator": "recurrent"})
    record_failures.record(run, lambda music: (patches, patches, judges))
    kept = gan.read_history(tmp_path / "recurrent-0")
    for tag in ("piece/rhythm", "piece/memory", "piece/return", "copies/nearest",
                "copies/unseen_logit", "size/generator"):
        assert np.isfinite(kept.last(tag))


def beats(rng, period, frames=400):
    """A code in which the same chord is struck every `period` frames."""
    code = rng.uniform(-1, -0.8, (Music.N_MELS, frames)).astype(np.float32)
    code[20:60, ::period] = 0.5
    return code


def test_pulse_peaks_at_the_period_of_the_beat(rng):
    curve = Music.pulse(beats(rng, 13))
    assert curve[0] == pytest.approx(1) and 5 + curve[5:20].argmax() == 13 and curve[13] > 0.7


def test_similarity_finds_what_returns(rng):
    part = rng.uniform(-1, 1, (Music.N_MELS, 160))
    again, never = np.tile(part, 2), rng.uniform(-1, 1, (Music.N_MELS, 320))
    matrix = Music.similarity(again)
    np.testing.assert_allclose(np.diagonal(matrix, 160 // 8), 1, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    measured, floor = (Music.piece_measures(code[None]) for code in (again, never))
    assert measured["piece/return"] > 0.9 > 0.2 > floor["piece/return"]
    assert Music.piece_measures(beats(rng, 13)[None])["piece/rhythm"] > 0.7


def test_nearest_ratio_sees_copies(rng):
    codes = rng.uniform(-1, 1, (300, 64)).astype(np.float32)
    features = gan.PCA(16).fit(codes).transform
    training, unseen, fresh = np.split(codes, 3)
    found = [Quality.nearest_ratio(*map(features, (x, training, unseen)))
             for x in (training + 0.01, fresh)]
    assert found[0] < 0.3 and found[1] == pytest.approx(1, abs=0.1)


def test_some_clips_are_spread_evenly_over_all(patches):
    few = gan.Patches(patches.codes, np.arange(100), 8, patches.target).some(5)
    assert few.clips.tolist() == [0, 24, 49, 74, 99] and few.frames == 8
    assert few.target is patches.target


def test_runs_are_named_once_and_unseen_ones_are_sixty():
    import record_failures
    runs = record_failures.all_runs()
    assert len({run.name for run in runs}) == len(runs)
    unseen = [run for run in runs if run.use == "unseen"]
    assert len(unseen) == 60
    derived = {(run.config.seed, run.made) for run in runs if run.use == "derive"}
    assert not derived & {(run.config.seed, run.made) for run in unseen}


def test_recorded_runs_have_the_settings_that_the_script_gives():
    import record_failures
    runs = {run.name: run for run in record_failures.all_runs()}
    assert {path.name for path in record_failures.RECORDED.iterdir()} == set(runs)
    for name in list(runs)[::7]:
        kept = gan.read_history(record_failures.RECORDED / name).config
        now = {field: str(value) for field, value in dataclasses.asdict(runs[name].config).items()}
        # fields that are newer than the runs have the value that changes nothing
        assert {**now, **kept} == {**kept, **now} and now.keys() - kept.keys() == {
            "modulated", "memory", "classes"}
        assert (now["modulated"], now["classes"]) == ("False", "()")


def test_tutorial_loop_of_the_benchmark_trains_what_the_notebooks_does():
    import benchmark_training
    config = dataclasses.replace(benchmark_training.tutorial_config(2, 4), device="cpu",
                                 bfloat16=False)
    tutorial, trainer = benchmark_training.TutorialLoop(config), gan.Trainer(config)
    for optimiser in tutorial.optimisers:
        group, = optimiser.param_groups
        assert (type(optimiser).__name__, group["lr"], group["betas"]) == ("Adam", 2e-4,
                                                                           (0.5, 0.999))
    patches = gan.Patches(np.random.default_rng(0).uniform(-1, 1, (6, 128, 80)), range(6))
    rng = np.random.default_rng(0)
    torch.manual_seed(0)     # the tutorial draws latents from the global generator
    for _ in range(3):
        record = gan.train_step(trainer, patches)
        loss_g, loss_d = tutorial.step(patches.draw(4, rng)[0])
        assert loss_d == pytest.approx(float(record["loss/D"]), rel=1e-4)
        assert loss_g == pytest.approx(float(record["loss/G"]), rel=1e-4)
    # DCGAN's generator but for the events: one layer that the style enters by
    names = {name.replace(".norm", "") for name, _ in tutorial.generator.named_parameters()}
    assert names == {"style.weight", "events.weight", *(
        f"{part}.{i}.{of}" for i in range(4) for part, of in (
            ("norms", "weight"), ("norms", "bias"), ("ups", "weight")))}
    assert {type(judge).__name__ for judge in tutorial.discriminator.judges} == {
        "PictureDiscriminator"}


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
    assert Music.note_measures(lines)[0] < 0.01 and Music.note_measures(lines)[1] > 0.99
    flat = np.zeros((2, 128, 10))
    assert Music.note_measures(flat) == pytest.approx((1.0, 5 / 128), rel=1e-4)


def test_unevenness_sees_seams():
    code = np.random.default_rng(0).normal(size=(8, 20, 161)).cumsum(2)
    assert Music.unevenness(code) < 1.5
    code += 30 * (np.arange(161) // 16)
    assert Music.unevenness(code) > 5


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    """The whole notebook, executed at tiny size in a folder of its own."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(ROOT / "HW_04_music_gan.ipynb", as_version=4)
    index, _ = cells_tagged(ROOT / "HW_04_music_gan.ipynb", "parameters")[0]
    notebook.cells[index].source += ("\nPIECES, CLASSIFIER_STEPS = 45, 80\n"
                                     "PLAIN_STEPS, MODERN_STEPS, RECURRENT_STEPS = 12, 60, 24\n"
                                     "QUICK, SAMPLES, VIEWS = True, 500, 2\n"
                                     "DATA, RUNS, CHECKPOINTS = 'd', 'r', 'c'")
    path, threads = os.environ.get("PYTHONPATH", ""), os.environ.pop("OMP_NUM_THREADS", None)
    os.environ["PYTHONPATH"] = str(ROOT) + os.pathsep + path
    try:
        nbclient.NotebookClient(notebook, timeout=900, coalesce_streams=True,
                                allow_errors=True, kernel_name="python3",
                                resources={"metadata": {"path": str(folder)}}).execute()
    finally:
        os.environ["PYTHONPATH"] = path
        if threads:       # set by the scripts that record evidence, for themselves
            os.environ["OMP_NUM_THREADS"] = threads
    return notebook, folder


def test_notebook_runs_as_a_whole(executed):
    notebook, folder = executed
    outputs = [(c, o) for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    errors = [(o.evalue, c.source) for c, o in outputs if o.output_type == "error"]
    assert not errors
    assert not [o.text for _, o in outputs if o.get("name") == "stderr"]
    assert {p.name for p in (folder / "r").iterdir()} == {
        "plain", "modern", "recurrent", "embedding", "samples.png"}
