"""The same call, spread over a Dask cluster, or by other backends of joblib."""

import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
import soundfile
from numpy.testing import assert_array_equal

import Music
from helpers import tune

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
    local = distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None)
    with local, distributed.Client(local) as client:
        yield local, client


@pytest.mark.slow
def test_a_cluster_gives_the_same_codes_to_the_bit(music, cluster, tmp_path):
    here = Music.get_musics_coded(music, 3, n_jobs=1, cache=tmp_path / "here")
    with joblib.parallel_config(backend="dask"):
        there = Music.get_musics_coded(music, 3, cache=tmp_path / "there")
    assert_array_equal(here.codes, there.codes)
    assert here.paths == there.paths and not there.skipped


@pytest.mark.slow
def test_a_worker_that_dies_loses_nothing(music, cluster, tmp_path):
    _, client = cluster
    victim = next(iter(client.scheduler_info()["workers"]))
    client.submit(os._exit, 1, workers=[victim], retries=0, pure=False)
    with joblib.parallel_config(backend="dask"):
        coded = Music.get_musics_coded(music, 3, cache=tmp_path / "codes")
    here = Music.get_musics_coded(music, 3, n_jobs=1, cache=tmp_path / "here")
    assert_array_equal(here.codes, coded.codes)


THREADS = """
import sys, Music, threadpoolctl
with threadpoolctl.threadpool_limits(int(sys.argv[3])):
    Music.get_musics_coded(sys.argv[1], 3, n_jobs=1, cache=sys.argv[2])
"""


def test_threads_give_the_same_codes_to_the_bit(music, tmp_path):
    here = Music.get_musics_coded(music, 3, n_jobs=1, cache=tmp_path / "here")
    with joblib.parallel_config(backend="threading"):
        there = Music.get_musics_coded(music, 3, n_jobs=4, cache=tmp_path / "there")
    assert_array_equal(here.codes, there.codes)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["", "Haswell"])    # small products round differently in some
def test_the_number_of_threads_does_not_change_codes(music, tmp_path, kernel):
    environment = {**os.environ, "PYTHONPATH": str(Music.Path(Music.__file__).parent)}
    if kernel:
        environment["OPENBLAS_CORETYPE"] = kernel
    for threads in ("1", "2"):
        subprocess.run([sys.executable, "-c", THREADS, music, tmp_path / threads, threads],
                       env=environment, check=True, capture_output=True)
    one, two = (next((tmp_path / threads).glob("*/all-*.npy")) for threads in ("1", "2"))
    codes = np.load(one)
    assert_array_equal(codes, np.load(two))
    bare = Music.get_musics_coded(music, 3, denoise=False, n_jobs=1, cache=tmp_path / "bare")
    assert np.abs(codes - bare.codes).mean() > 0.05    # a floor was found: the gain was at work


def test_a_backend_that_gives_lists_only_does(music, tmp_path, monkeypatch):
    from joblib._parallel_backends import ThreadingBackend
    here = Music.get_musics_coded(music, 3, limit=5, n_jobs=1, cache=tmp_path / "here")
    monkeypatch.setattr(ThreadingBackend, "supports_return_generator", False)
    with joblib.parallel_config(backend="threading"):
        there = Music.get_musics_coded(music, 3, limit=5, n_jobs=2, cache=tmp_path / "there")
    assert_array_equal(here.codes, there.codes)
    assert len(there.codes) == 5


@pytest.mark.slow
def test_ray_gives_the_same_codes_to_the_bit(music, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray
    monkeypatch.setenv("PYTHONPATH", str(Music.Path(Music.__file__).parent))
    register_ray()
    here = Music.get_musics_coded(music, 3, n_jobs=1, cache=tmp_path / "here")
    ray.init(num_cpus=2, include_dashboard=False)
    with joblib.parallel_config(backend="ray"):
        there = Music.get_musics_coded(music, 3, cache=tmp_path / "there")
    ray.shutdown()
    assert_array_equal(here.codes, there.codes)
