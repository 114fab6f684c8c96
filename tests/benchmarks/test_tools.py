"""The benchmarks' tools: weights of real shapes, the plain copy, contenders in turn, tables."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import copying, machine, shapes


class TestShapes:
    def test_the_largest_has_as_many_parameters_as_llama_3_2_1b(self):
        assert shapes.parameters("1.2B") == 1_235_814_400
        assert shapes.nbytes("1.2B", 7) == 17_301_401_600

    def test_one_size_has_an_untied_head_and_as_many_parameters_as_llama_3_1_8b(self):
        assert shapes.parameters("8B") == 8_030_261_248
        assert shapes.config("8B")["tie_word_embeddings"] is False
        assert shapes.config("1.2B")["tie_word_embeddings"] is True

    def test_sizes_up_to_one(self):
        assert shapes.up_to("1.2B") == ["0.1B", "0.5B", "1.2B"]
        assert shapes.up_to("0.1B") == ["0.1B"]
        assert shapes.up_to("tiny") == ["tiny"]

    @pytest.mark.slow
    def test_kept_weights_are_made_once_and_a_missing_one_is_added(self, tmp_path):
        from safetensors.torch import load_file

        with shapes.checkpoints("tiny", 1, tmp_path) as folder:
            file = folder / "base" / "model.safetensors"
            made = file.stat().st_mtime_ns
        with shapes.checkpoints("tiny", 2, tmp_path) as folder:
            assert file.stat().st_mtime_ns == made
            base, one, two = (
                load_file(folder / name / file.name) for name in ("base", "expert0", "expert1")
            )
        assert {name: tuple(value.shape) for name, value in base.items()} == dict(
            shapes.tensors("tiny")
        )
        name = "model.layers.1.mlp.up_proj.weight"
        away = [(tuned[name].float() - base[name].float()).abs() for tuned in (one, two)]
        assert not away[0].equal(away[1])
        assert all(
            0 < float(values.mean()) < 1e-3 < float(base[name].float().std()) for values in away
        )


class TestCopying:
    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_every_byte_is_read_and_those_of_the_first_file_are_written(
        self, threads, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(copying, "BLOCK", 64)
        files = [tmp_path / name for name in "abc"]
        for number, file in enumerate(files):
            file.write_bytes(bytes((number + place) % 251 for place in range(1009)))
        read = []

        def preadv(file, buffers, offset, real=os.preadv):
            read.append(real(file, buffers, offset))
            return read[-1]

        monkeypatch.setattr(os, "preadv", preadv)
        copying.copy(files, tmp_path / "out", threads)
        assert (tmp_path / "out").read_bytes() == files[0].read_bytes()
        assert sum(read) == 3 * 1009
        copying.copy(files, None, threads)
        assert sum(read) == 2 * 3 * 1009


class TestMachine:
    def test_every_other_round_runs_backwards(self):
        ran = []
        contenders = {
            name: lambda name=name: ran.append(name) or machine.Cost(len(ran)) for name in "abc"
        }
        found = machine.in_turn(3, contenders)
        assert "".join(ran) == "abccbaabc"
        assert [cost.seconds for cost in found["a"]] == [1, 6, 7]

    def test_a_ratio_is_taken_round_by_round(self):
        these = [machine.Cost(2, 30), machine.Cost(9, 30), machine.Cost(4, 30)]
        those = [machine.Cost(1, 10), machine.Cost(3, 15), machine.Cost(4, 60)]
        assert machine.ratio(these, those) == (2, 1, 3)
        assert machine.ratio(these, those, "peak").text() == "2.00 (0.50–3.00)"

    def test_waiting_takes_no_cpu_time(self):
        waited = machine.timed(lambda: time.sleep(0.3))
        worked = machine.timed(lambda: [sum(range(1000)) for _ in range(20_000)])
        assert waited.seconds >= 0.3
        assert waited.cpu < 0.1
        assert worked.cpu > waited.cpu

    def test_the_peak_of_a_cold_process_is_its_own(self):
        hold = "import time; held = b'x' * 150_000_000; time.sleep(0.2)"
        code = (
            "import json, sys\nfrom benchmarks import machine\n"
            f"codes = ('pass', {hold!r})\n"
            "print(json.dumps([machine.cold([sys.executable, '-c', code]) for code in codes]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=machine.ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        (_, little, *_), (seconds, much, own, _) = json.loads(done.stdout)
        assert seconds > 0.2
        assert little < 60e6  # this test's own process holds several times as much
        assert 150e6 < own <= much < 210e6

    def test_a_command_that_fails_is_reported_with_its_stderr(self):
        with pytest.raises(SystemExit, match=r"ended with code 3:\n.*the reason"):
            machine.cold(
                [
                    sys.executable,
                    "-c",
                    "import sys; print('the reason', file=sys.stderr); sys.exit(3)",
                ]
            )

    def test_flushing_what_was_made_is_part_of_the_time(self, tmp_path, monkeypatch):
        flushed = []
        monkeypatch.setattr(
            os,
            "fsync",
            lambda number: flushed.append(Path(f"/proc/self/fd/{number}").readlink().name),
        )
        words = [
            sys.executable,
            "-c",
            "import sys; open(sys.argv[1], 'w').write('x')",
            tmp_path / "made",
        ]
        machine.cold(words, flush=tmp_path)
        assert flushed == ["made"]

    def test_a_table(self, capsys):
        machine.show(
            ["what", "s"],
            [["a", machine.Spread(1.239, 1, 2).text()], ["bc", machine.target(1.4, 1.3)]],
        )
        assert capsys.readouterr().out == (
            "| what | s                |\n"
            "| ---- | ---------------- |\n"
            "| a    | 1.24 (1.00–2.00) |\n"
            "| bc   | ≤ 1.3: missed    |\n\n"
        )

    def test_without_git_the_facts_say_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(machine, "ROOT", tmp_path)
        assert "commit:   not a git checkout" in machine.facts("x")
