"""FMA-small, from a server on this machine."""

import errno
import hashlib
import http.server
import io
import os
import stat
import threading
import zipfile

import pytest
import soundfile

import Music
from helpers import memory_peak, tune


def mp3(seconds, tmp_path):
    soundfile.write(tmp_path / "x.mp3", tune(seconds), Music.SR, format="MP3")
    return (tmp_path / "x.mp3").read_bytes()


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A zip pair of FMA-small's layout: three good tracks, an empty, a short, a hostile one."""
    tmp_path = tmp_path_factory.mktemp("fma")
    sound = mp3(30.0, tmp_path)
    audio = io.BytesIO()
    with zipfile.ZipFile(audio, "w") as archive:
        archive.writestr("fma_small/README.txt", "not a track")
        for name in ("000/000002", "000/000005", "012/012345"):
            archive.writestr(f"fma_small/{name}.mp3", sound)
        archive.writestr("fma_small/099/099134.mp3", b"")
        archive.writestr("fma_small/098/098565.mp3", mp3(1.6, tmp_path))
        archive.writestr("fma_small/999/999999.mp3", sound)      # unknown to the metadata
        archive.writestr("../../escaped.mp3", sound)
        archive.writestr("fma_small/000/../../000002.mp3", b"evil")
    tracks = (",album,set,set,track,track\n,title,split,subset,genre_top,title\ntrack_id,,,,,\n"
              '2,x,training,small,Hip-Hop,"A, b"\n5,x,training,small,Hip-Hop,c\n'
              "12345,x,test,small,Old-Time / Historic,d\n99134,x,test,small,Rock,e\n"
              "98565,x,test,small,Rock,f\n20,x,test,large,Jazz,g\n")
    metadata = io.BytesIO()
    with zipfile.ZipFile(metadata, "w") as archive:
        archive.writestr("fma_metadata/tracks.csv", tracks)
    return {"fma_small.zip": audio.getvalue(), "fma_metadata.zip": metadata.getvalue()}


@pytest.fixture
def troubles():
    """What the server answers first, in place of the files: pairs of a status and headers."""
    return []


@pytest.fixture
def waits(monkeypatch):
    """The seconds that are waited, without waiting."""
    seconds = []
    monkeypatch.setattr(Music.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def server(archives, troubles):
    """Serve the archives with Range; the first answer for the audio is cut in the middle."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = archives[self.path.strip("/")]
            start = int(self.headers["Range"].split("=")[1].rstrip("-"))
            requests.append((self.path.strip("/"), start))
            if troubles:
                self.refuse(*troubles.pop(0))
                return
            if start >= len(body):
                self.refuse(416, {})
                return
            self.send_response(206)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cut = "small" in self.path and start == 0
            self.wfile.write(body[start:len(body) // 2 if cut else None])

        def refuse(self, status, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/", requests
        httpd.shutdown()


@pytest.fixture
def sha1(archives):
    return {name: hashlib.sha1(body).hexdigest() for name, body in archives.items()}


def test_download_resumes_after_a_cut_and_lays_out_by_genre(tmp_path, archives, server, sha1):
    url, requests = server
    with pytest.warns(UserWarning, match="099134 .empty.") as caught:
        audio = Music.download_fma_small(tmp_path / "fma", url, sha1)
    assert "098565 (1." in str(caught[0].message)
    half = len(archives["fma_small.zip"]) // 2
    starts = [start for name, start in requests if name == "fma_small.zip"]
    assert len(starts) == 2 and starts[0] == 0 and half - (1 << 14) <= starts[1] <= half
    found = sorted(p.relative_to(audio).as_posix() for p in audio.rglob("*.mp3"))
    assert found == ["Hip-Hop/000002.mp3", "Hip-Hop/000005.mp3",
                     "Old-Time_Historic/012345.mp3", "Rock/098565.mp3", "Rock/099134.mp3"]


def test_nothing_leaves_the_folder(tmp_path, server, sha1):
    with pytest.warns(UserWarning):
        audio = Music.download_fma_small(tmp_path / "a" / "b" / "fma", server[0], sha1)
    assert not list(tmp_path.rglob("escaped*"))
    assert soundfile.info(audio / "Hip-Hop" / "000002.mp3").duration > 29


def test_a_second_call_downloads_nothing_and_a_lost_track_comes_back(tmp_path, server, sha1):
    url, requests = server
    with pytest.warns(UserWarning):
        audio = Music.download_fma_small(tmp_path, url, sha1)
    count = len(requests)
    (audio / "Hip-Hop" / "000005.mp3").unlink()
    with pytest.warns(UserWarning):
        Music.download_fma_small(tmp_path, url, sha1)
    assert len(requests) == count and (audio / "Hip-Hop" / "000005.mp3").exists()


def test_a_wrong_checksum_is_refused(tmp_path, server, sha1):
    with pytest.raises(ValueError, match="hash"):
        Music.download_fma_small(tmp_path, server[0], {**sha1, "fma_small.zip": "0" * 40})


def test_an_unreachable_server_keeps_what_came(tmp_path, monkeypatch):
    monkeypatch.setattr(Music.time, "sleep", lambda seconds: None)
    (tmp_path / "fma_small.zip.part").write_bytes(b"half")
    with pytest.raises(ConnectionError, match="is kept"):
        Music.download_fma_small(tmp_path, "http://127.0.0.1:9/")
    assert (tmp_path / "fma_small.zip.part").read_bytes() == b"half"


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_passing_trouble_of_the_server_ends_nothing(
        tmp_path, archives, server, sha1, troubles, waits, status):
    troubles += [(status, {})]
    part = tmp_path / "fma_small.zip.part"
    Music._resume_download(server[0] + "fma_small.zip", tmp_path / "audio.zip", None)
    assert (tmp_path / "audio.zip").read_bytes() == archives["fma_small.zip"]
    assert waits[0] >= 1
    assert not part.exists()


@pytest.mark.parametrize("asked, seconds", [("7", 7), ("0", 1), ("soon", 1),
                                            ("99999", Music.LONGEST_WAIT),
                                            ("Fri, 31 Dec 1999 23:59:59 GMT", 1)])
def test_the_server_may_ask_for_some_patience(
        tmp_path, server, troubles, waits, asked, seconds):
    troubles += [(503, {"Retry-After": asked})]
    Music._resume_download(server[0] + "fma_metadata.zip", tmp_path / "metadata.zip", None)
    assert waits == [seconds]


def test_a_server_that_stays_busy_is_given_up_after_six_tries(
        tmp_path, server, sha1, troubles, waits):
    url, requests = server
    troubles += 20 * [(503, {})]
    with pytest.raises(ConnectionError, match=f"{url}fma_small.zip: 503 .*call again"):
        Music.download_fma_small(tmp_path, url, sha1)
    assert len(requests) == 6


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_lasting_answer_is_told_at_once(tmp_path, server, sha1, troubles, waits, status):
    url, requests = server
    troubles += [(status, {})]
    with pytest.raises(ConnectionError, match=f"{url}fma_small.zip: {status}"):
        Music.download_fma_small(tmp_path, url, sha1)
    assert len(requests) == 1
    assert not waits


def test_a_full_disk_is_named_and_what_came_is_kept(tmp_path, archives, server, monkeypatch):
    class FullDisk(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    came = archives["fma_small.zip"][:1000]
    (tmp_path / "fma_small.zip.part").write_bytes(came)
    monkeypatch.setattr(Music, "open", lambda *args: FullDisk(), raising=False)
    with pytest.raises(OSError, match=r"No space left.*fma_small\.zip\.part"):
        Music._resume_download(server[0] + "fma_small.zip", tmp_path / "fma_small.zip", None)
    assert (tmp_path / "fma_small.zip.part").read_bytes() == came


def test_genres_come_from_the_metadata(tmp_path, archives):
    (tmp_path / "fma_metadata.zip").write_bytes(archives["fma_metadata.zip"])
    assert Music.fma_genres(tmp_path / "fma_metadata.zip") == {
        2: "Hip-Hop", 5: "Hip-Hop", 12345: "Old-Time / Historic", 99134: "Rock", 98565: "Rock"}


@pytest.mark.parametrize("table", ["", "a,b\n", "a,b\nc,d\n1,2\n"])
def test_metadata_without_genres_is_named(tmp_path, table):
    with zipfile.ZipFile(tmp_path / "fma_metadata.zip", "w") as archive:
        archive.writestr("fma_metadata/tracks.csv", table)
    with pytest.raises(ValueError, match=r"fma_metadata\.zip"):
        Music.fma_genres(tmp_path / "fma_metadata.zip")


def test_metadata_that_is_damaged_is_named(tmp_path, archives):
    path = tmp_path / "fma_metadata.zip"
    path.write_bytes(archives["fma_metadata.zip"][:-30])
    with pytest.raises(ValueError, match=r"fma_metadata\.zip.*tracks\.csv"):
        Music.fma_genres(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fma_metadata/genres.csv", "")
    with pytest.raises(ValueError, match=r"fma_metadata\.zip.*tracks\.csv"):
        Music.fma_genres(path)


def test_coding_names_the_tracks_that_hold_no_music(tmp_path, server, sha1):
    with pytest.warns(UserWarning):
        audio = Music.download_fma_small(tmp_path, server[0], sha1)
    coded = Music.get_musics_coded(audio, n_jobs=1)
    assert coded.labels == ["Hip-Hop", "Hip-Hop", "Old-Time_Historic"]
    assert {p.stem: reason.split(":")[0] for p, reason in coded.skipped.items()} == {
        "098565": "too short", "099134": "empty file"}


# ---------------------------------------------------------------- archives that lie

GENRES = {2: "Rock", 5: "Rock", 7: "Rock"}
TABLE = (",set,track\n,subset,genre_top\ntrack_id,,\n"
         "2,small,Rock\n5,small,Rock\n7,small,Rock\n" + "9,large,Jazz\n" * 20)


def zipped(path, members, **options):
    """Write a zip file of members by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data, **options)
    return path


def marked_as_encrypted(path, name):
    """Set the bit of a member that says that it is encrypted, in both of its headers."""
    data = bytearray(path.read_bytes())
    written = name.encode()
    local = data.index(written) - 30
    central = data.rindex(written) - 46
    data[local + 6] |= 1
    data[central + 8] |= 1
    path.write_bytes(data)


def test_what_is_no_archive_is_named(tmp_path):
    path = tmp_path / "fma_small.zip"
    path.write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=r"fma_small\.zip: not a zip"):
        Music._unpack_fma(path, GENRES, tmp_path / "audio")
    with pytest.raises(ValueError, match=r"fma_small\.zip: a zip file with"):
        Music.fma_genres(path)


def test_an_encrypted_or_damaged_track_is_named_and_the_rest_unpacked(tmp_path):
    good = mp3(30.0, tmp_path)
    names = [f"fma_small/000/{track:06d}.mp3" for track in GENRES]
    path = zipped(tmp_path / "fma_small.zip", dict.fromkeys(names, good))
    marked_as_encrypted(path, names[0])
    data = bytearray(path.read_bytes())
    second = data.index(names[1].encode())
    data[second + 5000] ^= 1
    path.write_bytes(data)
    odd = Music._unpack_fma(path, GENRES, tmp_path / "audio")
    assert [text[:6] for text in odd] == ["000002", "000005"]
    assert "encrypted" in odd[0] and "cannot be unpacked" in odd[1]
    assert [path.name for path in (tmp_path / "audio" / "Rock").iterdir()] == ["000007.mp3"]


def test_a_member_of_zeros_is_named_and_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(Music, "LARGEST_TRACK", 20 << 20)
    path = zipped(tmp_path / "fma_small.zip", {"fma_small/000/000002.mp3": bytes(60 << 20)})
    with memory_peak() as traced:
        odd = Music._unpack_fma(path, GENRES, tmp_path / "audio")
    assert "60 MiB, too large" in odd[0]
    assert traced.peak < 10e6


def understated(path, name, size):
    """Let the list of a zip file declare another size of a member."""
    data = bytearray(path.read_bytes())
    central = data.rindex(name.encode()) - 46
    data[central + 24:central + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)


LIAR = "fma_small/000/000002.mp3"
PACKED = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", PACKED)
def test_a_track_that_understates_its_size_takes_no_memory_and_the_rest_is_unpacked(tmp_path,
                                                                                    method):
    path = tmp_path / "fma_small.zip"
    good = mp3(30.0, tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(LIAR, bytes(300 << 20), method)
        archive.writestr("fma_small/000/000005.mp3", good, zipfile.ZIP_BZIP2)
    understated(path, LIAR, 1000)
    with memory_peak() as traced:
        odd = Music._unpack_fma(path, GENRES, tmp_path / "audio")
    assert len(odd) == 1
    assert odd[0].startswith("000002 (cannot be unpacked: ")
    unpacked, = (tmp_path / "audio" / "Rock").iterdir()
    assert unpacked.name == "000005.mp3"
    assert unpacked.read_bytes() == good
    assert traced.peak < 10e6


@pytest.mark.parametrize("method", PACKED)
def test_a_table_that_understates_its_size_takes_no_memory(tmp_path, monkeypatch, method):
    monkeypatch.setattr(Music, "LARGEST_TABLE", 20 << 20)
    path = tmp_path / "fma_metadata.zip"
    row = "9,large," + 10_000 * "x" + "\n"
    rows = TABLE + 4_000 * row
    name = "fma_metadata/tracks.csv"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, rows)
    understated(path, name, 1000)
    with memory_peak() as traced, pytest.raises(ValueError, match=r"fma_metadata\.zip"):
        Music.fma_genres(path)
    assert traced.peak < 30e6


@pytest.mark.parametrize("size, amount", [(99, "more"), (101, "fewer")])
def test_a_track_of_another_length_than_declared_is_named(tmp_path, size, amount):
    path = tmp_path / "fma_small.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr(LIAR, bytes(100))
    understated(path, LIAR, size)
    odd = Music._unpack_fma(path, GENRES, tmp_path / "audio")
    assert odd == [f"000002 (cannot be unpacked: it declares {size} bytes and holds {amount})"]


def test_a_table_in_bzip2_is_read(tmp_path):
    path = tmp_path / "fma_metadata.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("fma_metadata/tracks.csv", TABLE)
    assert Music.fma_genres(path) == GENRES


def test_a_table_of_one_endless_line_takes_no_memory(tmp_path):
    path = zipped(tmp_path / "fma_metadata.zip", {"fma_metadata/tracks.csv": bytes(100 << 20)})
    refused = pytest.raises(ValueError, match=r"fma_metadata\.zip: tracks\.csv is no table")
    with memory_peak() as traced, refused:
        Music.fma_genres(path)
    assert traced.peak < 30e6


def test_encrypted_metadata_is_named(tmp_path):
    name = "fma_metadata/tracks.csv"
    path = zipped(tmp_path / "fma_metadata.zip", {name: "a,b\n"})
    marked_as_encrypted(path, name)
    with pytest.raises(ValueError, match=r"fma_metadata\.zip.*encrypted"):
        Music.fma_genres(path)


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_archive_is_named_whatever_is_damaged(tmp_path, rng, method):
    path = tmp_path / "any.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("fma_small/000/000002.mp3", rng.bytes(100))
        archive.writestr("fma_metadata/tracks.csv", TABLE)
    whole = path.read_bytes()
    for byte in range(0, len(whole), 3):
        data = bytearray(whole)
        data[byte] ^= 0xff
        path.write_bytes(data)
        try:
            Music._unpack_fma(path, GENRES, tmp_path / "audio")
            Music.fma_genres(path)
        except ValueError as error:
            assert "any.zip" in str(error)


def test_a_table_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = zipped(tmp_path / "fma_metadata.zip", {"fma_metadata/tracks.csv": TABLE})
    assert Music.fma_genres(path) == GENRES
    monkeypatch.setattr(Music, "LARGEST_TABLE", len(TABLE) - 1)
    with pytest.raises(ValueError, match=r"fma_metadata\.zip: tracks\.csv has 0 MiB, too large"):
        Music.fma_genres(path)


def test_a_genre_that_can_name_no_folder_is_refused(tmp_path):
    endless = TABLE.replace("Rock", 300 * "R", 1)
    path = zipped(tmp_path / "fma_metadata.zip", {"fma_metadata/tracks.csv": endless})
    with pytest.raises(ValueError, match=r"fma_metadata\.zip.*track 2 has a genre of 300"):
        Music.fma_genres(path)


@pytest.mark.parametrize("name", [
    "../000002.mp3", "fma_small/../../000002.mp3", "/fma_small/000/000002.mp3",
    "{tmp_path}/000002.mp3", "fma_small\\000\\000002.mp3", "..\\..\\000002.mp3",
    "C:\\fma_small\\000\\000002.mp3", "fma_small/000/000002.mp3/../../../../000005.mp3",
    "fma_small/000/000002.mp3\n", "fma_small/000/"])
def test_hostile_paths_of_an_archive_are_left_out(tmp_path, name):
    name = name.format(tmp_path=tmp_path)
    path = zipped(tmp_path / "fma_small.zip", {name: b"evil"})
    assert Music._unpack_fma(path, GENRES, tmp_path / "a" / "audio") == []
    assert list(tmp_path.rglob("*")) == [path]


def test_a_link_in_an_archive_becomes_a_file(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("not to be read")
    link = zipfile.ZipInfo("fma_small/000/000002.mp3")
    link.create_system = 3    # Unix
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = tmp_path / "fma_small.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, str(secret))
    assert Music._unpack_fma(path, GENRES, tmp_path / "audio") == ["000002 (empty)"]
    track = tmp_path / "audio" / "Rock" / "000002.mp3"
    assert not track.is_symlink()
    assert track.read_text() == str(secret)


@pytest.mark.parametrize("genre", ["..", "/etc", "..\\..", "a/../../b", "\0", " ", ""])
def test_hostile_genres_stay_in_the_folder(tmp_path, genre):
    path = zipped(tmp_path / "fma_small.zip", {"fma_small/000/000002.mp3": b"no music"})
    audio = tmp_path / "deep" / "audio"
    Music._unpack_fma(path, {2: genre}, audio)
    track, = tmp_path.rglob("*.mp3")
    assert track.parent.parent == audio


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_track_that_cannot_be_written_is_named_and_not_left_half(tmp_path, monkeypatch, number):
    def full(source, target, size):
        target.write(source.read(10))
        raise OSError(number, os.strerror(number))

    path = zipped(tmp_path / "fma_small.zip", {"fma_small/000/000002.mp3": bytes(1000)})
    monkeypatch.setattr(Music, "_copy_declared", full)
    with pytest.raises(OSError, match=r"000002\.mp3") as caught:
        Music._unpack_fma(path, GENRES, tmp_path / "audio")
    assert caught.value.errno == number
    assert not [file for file in (tmp_path / "audio").rglob("*") if file.is_file()]
