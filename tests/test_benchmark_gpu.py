"""The benchmark for GPUs runs without one, says so, and finds its place in the README."""

from pathlib import Path

import pytest
from gpu import BEGIN, END, NO_GPU, README, counters, main, record


def test_without_a_gpu_the_cpu_is_measured_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    monkeypatch.setattr("sys.argv", ["gpu.py", "--networks", "--elements", "1000", "--rounds", "1"])
    main()
    told = capsys.readouterr()
    assert NO_GPU in told.out
    assert NO_GPU in told.err
    assert "| torch.quantile on the CPU |" in told.out
    assert "on the GPU" not in told.out


def test_who_is_compared() -> None:
    rows, same = counters(1000, 1, "cpu")
    assert [row[0] for row in rows] == ["qgraph on the CPU", "torch.histc on the CPU", "torch.quantile on the CPU"]
    assert same is None


def test_results_replace_the_last_ones(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    record("new", readme)
    assert readme.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert README.read_text().count(BEGIN) == 1
