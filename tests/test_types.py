"""Types, as far as the project states them."""

import pytest
from helpers import ROOT


def test_modules_have_no_type_errors(tmp_path):
    api = pytest.importorskip("mypy.api")
    config = tmp_path / "mypy.ini"    # reading all of music21 would take longer than all the rest
    config.write_text("[mypy]\n[mypy-music21.*]\nfollow_imports = skip\n")
    out, err, status = api.run(["--ignore-missing-imports", "--check-untyped-defs",
                                "--config-file", str(config), "--cache-dir", str(tmp_path),
                                str(ROOT / "Music.py"), str(ROOT / "Quality.py")])
    assert status == 0, out + err
