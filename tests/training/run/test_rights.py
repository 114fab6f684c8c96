"""Files that a library wrote for their owner alone become readable as the umask says."""

import os

import pytest
import torch
from safetensors.torch import save_file

from training.run.rights import give_usual_rights


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_weights_get_the_rights_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        (tmp_path / "below").mkdir()
        for folder in (tmp_path, tmp_path / "below"):
            save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
        (tmp_path / "config.json").touch()
        give_usual_rights(tmp_path)
    finally:
        os.umask(before)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {mode}
