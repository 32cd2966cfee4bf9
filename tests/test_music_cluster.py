"""The same call, spread over a Dask cluster."""

import os

import joblib
import numpy as np
import pytest
import soundfile
from conftest import tune

import Music

distributed = pytest.importorskip("dask.distributed")


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for seed in range(8):
        noise = 0.01 * Music.pink_noise(3 * Music.SR, seed)
        soundfile.write(folder / f"{seed}.flac", tune(3.0, seed=seed) + noise, Music.SR)
    return folder


@pytest.fixture
def cluster(monkeypatch):
    paths = str(Music.Path(Music.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", paths)       # workers import Music
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as local:
        with distributed.Client(local) as client:
            yield local, client


def test_a_cluster_gives_the_same_codes_to_the_bit(music, cluster, tmp_path):
    here = Music.get_musics_coded(music, 3, n_jobs=1, cache=tmp_path / "here")
    with joblib.parallel_config(backend="dask"):
        there = Music.get_musics_coded(music, 3, cache=tmp_path / "there")
    np.testing.assert_array_equal(here.codes, there.codes)
    assert here.paths == there.paths and not there.skipped


def test_a_worker_that_dies_loses_nothing(music, cluster, tmp_path):
    _, client = cluster
    victim = next(iter(client.scheduler_info()["workers"]))
    client.submit(os._exit, 1, workers=[victim], retries=0, pure=False)
    with joblib.parallel_config(backend="dask"):
        coded = Music.get_musics_coded(music, 3, cache=tmp_path / "codes")
    here = Music.get_musics_coded(music, 3, n_jobs=1, cache=tmp_path / "here")
    np.testing.assert_array_equal(here.codes, coded.codes)
