"""What a trial's result depends on."""

import shutil
from pathlib import Path

import segmamba
from segmamba.environment import digest_of_code
from segmamba.orchestration.tracking.reuse import ROOMS

PACKAGE = Path(segmamba.__file__).parent


def test_an_edit_of_a_kernel_or_of_any_file_that_trains_makes_other_trials(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    for room in ROOMS:
        copy = shutil.copytree if (PACKAGE / room).is_dir() else shutil.copy
        options = {"ignore": ignored} if copy is shutil.copytree else {}
        copy(PACKAGE / room, tmp_path / room, **options)
    before = digest_of_code(tmp_path, ROOMS)
    assert before == digest_of_code(PACKAGE, ROOMS)
    for name in ("models/narrow_conv.cu", "training/fit.py", "device.py"):
        file = tmp_path / name
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert digest_of_code(tmp_path, ROOMS) != before, name
        file.write_bytes(content)
    (tmp_path / "models" / "__pycache__").mkdir()
    (tmp_path / "models" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert digest_of_code(tmp_path, ROOMS) == before
