import contextlib
import io
import json
import os
import resource
import time

import jax.numpy as jnp
import numpy as np
import pytest

from ieat_jax.training import metrics
from ieat_jax.training.clock import Throughput
from ieat_jax.training.console import format_metrics, working
from ieat_jax.training.metrics import MetricWriter, Window, reduce_parts


def test_a_window_goes_on_from_what_a_checkpoint_kept_of_it():
    def of(step):
        return {"loss": jnp.float32(0.1 * step), "parts": {"ce": (jnp.float32(step), jnp.int32(3))}}

    whole, before = Window(), Window()
    for step in range(4):
        whole.add(of(step))
    for step in range(2):
        before.add(of(step))
    kept = json.loads(json.dumps(before.as_json()))
    after, other = Window(kept), Window(kept)
    for step in (2, 3):
        after.add(of(step))
    assert after.take() == whole.take()
    assert (after.as_json(), after.steps) == (None, 0)
    other.add({"loss": jnp.float32(7.0)})  # another version's metrics: they are a window of their own
    assert other.take() == ({"loss": 7.0}, 1)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_parts_become_means_and_unmeasured_ones_are_left_out():
    parts = {"loss/write": (jnp.float32(6.0), jnp.int32(4)), "loss/think": (jnp.float32(0), 0.0), "x": (3, 2)}
    assert reduce_parts(parts) == {"loss/write": 1.5, "x": 1.5}


def test_one_line_per_write_on_the_console_and_in_the_file(tmp_path, capsys):
    with MetricWriter(tmp_path, total_steps=20) as writer:
        values = writer.write(10, {"grad_norm": jnp.float32(0.5), "bad": np.nan}, {"loss": (3.0, 2.0)})
        writer.advance(11)
        writer.write(20, {"tokens_per_second": 123456.7})
        writer.print("done")
    assert values["loss"] == 1.5
    assert lines(tmp_path) == [
        {"step": 10, "loss": 1.5, "grad_norm": 0.5, "bad": None},  # NaN is not JSON
        {"step": 20, "tokens_per_second": 123456.7},
    ]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "step 10/20 | loss 1.5 | grad_norm 0.5 | bad nan",
        "step 20/20 | tokens_per_second 123,457",
        "done",
    ]


def test_a_line_says_by_groups_how_it_goes_and_how_long_it_will_take(tmp_path, capsys):
    metrics = {"loss": 2.0, "step_seconds": 30.0, "learning_rate": 0.1, "bad_records": 3, "data_seconds": 0.5}
    with MetricWriter(tmp_path, total_steps=20) as writer:
        writer.write(10, metrics, {"ce": (3.0, 2.0), "extra_of_mine": (1.0, 1.0)})
        writer.write(20, metrics)
    first, last = capsys.readouterr().out.splitlines()
    assert first == (
        "step 10/20 | loss 2  ce 1.5  extra_of_mine 1 | learning_rate 0.1 | bad_records 3 | "
        "step_seconds 30  data_seconds 0.5 | about 5 min left"
    )
    assert "left" not in last
    assert lines(tmp_path)[0] == {"step": 10, "ce": 1.5, "extra_of_mine": 1.0, **metrics}
    (events,) = (tmp_path / "tensorboard").iterdir()
    tags = {tag for tag, step, _ in scalars(events) if step == 10}
    assert tags == {
        "loss/ce",
        "loss/extra_of_mine",
        "loss/loss",
        "optimizer/learning_rate",
        "data/bad_records",
        "speed/step_seconds",
        "speed/data_seconds",
    }


def test_long_work_says_what_it_is_and_for_how_long():
    said = []
    with working("compiling", said.append, every=0.02):
        time.sleep(0.2)
    assert said[0] == "compiling"
    assert said.count("compiling: 0 s so far") >= 3
    count = len(said)
    time.sleep(0.1)
    assert len(said) == count
    with pytest.raises(OSError, match="full"), working("saving", said.append):
        raise OSError("full")
    assert said[count:] == ["saving"]


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with MetricWriter(tmp_path, total_steps=20, console=False) as writer:
        writer.write(10, {"loss": 1.25})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert scalars(events) == [("loss/loss", 10, 1.25)]


def scalars(path):
    """(tag, step, value) of an event file: TFRecords of Event messages."""
    from tensorboardX.proto.event_pb2 import Event

    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + size])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        at += 12 + size + 4
    return found


def test_resuming_drops_later_lines_and_one_that_was_cut(tmp_path):
    with MetricWriter(tmp_path, total_steps=50, console=False) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, "lo')
    with MetricWriter(tmp_path, total_steps=50, start_step=20, console=False) as writer:
        writer.write(30, {"loss": -1})
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(10, 10), (20, 20), (30, -1)]
    with MetricWriter(tmp_path, total_steps=50, console=False) as writer:
        assert lines(tmp_path) == []


def test_a_full_disk_costs_lines_and_no_run(tmp_path, capsys):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricWriter(tmp_path, total_steps=50, console=False) as writer:
        writer.write(10, {"loss": 1.0})
        size = (tmp_path / "metrics.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))  # a line is cut short
        try:
            for step in (20, 30):
                writer.write(step, {"loss": 2.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        said = capsys.readouterr().err
        assert said.count("metrics.jsonl: cannot be written (") == 1
        assert said.count("tensorboard: cannot be written (") == 1
        writer.write(40, {"loss": 4.0})
    assert [line["step"] for line in lines(tmp_path)] == [10, 40]


def test_files_that_cannot_be_made_or_read_stop_no_run(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "tensorboard").write_text("")
    with MetricWriter(tmp_path, total_steps=20) as writer:
        writer.write(10, {"loss": 1.0})
    assert "metrics.jsonl: cannot be written" in (printed := capsys.readouterr()).err
    assert "tensorboard: cannot be written" in printed.err
    assert printed.out == "step 10/20 | loss 1\n"
    (tmp_path / "metrics.jsonl").rmdir()
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "loss": 3}\n{"step": 2, "l\xffss": 3}\n[]\n{"step": null}\n\xff\n'
    )
    with MetricWriter(tmp_path, total_steps=20, start_step=1) as writer:
        assert lines(tmp_path) == [{"step": 1, "loss": 3}]


def test_a_console_that_is_gone_stops_no_run(tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        with MetricWriter(tmp_path, total_steps=20) as writer:
            writer.write(10, {"loss": 1.0})
            writer.write(20, {"loss": 1.0})
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            gone.close()
    assert len(lines(tmp_path)) == 2


def test_a_terminal_gets_a_progress_bar(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with MetricWriter(tmp_path, total_steps=20, start_step=4) as writer:
        writer.write(10, {"loss": 1.5})
        writer.advance(10)
    assert "step 10/20 | loss 1.5" in terminal.getvalue()
    assert "10/20" in terminal.getvalue().split("loss 1.5")[1]


def test_only_process_0_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metrics.jax, "process_index", lambda: 1)
    with MetricWriter(tmp_path / "run", total_steps=20) as writer:
        assert writer.write(10, {}, {"loss": (3.0, 2.0)}) == {"loss": 1.5}
        writer.advance(11)
        writer.print("hello")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_throughput_divides_the_time_of_a_step():
    throughput = Throughput()
    assert throughput.report() == {}
    for _ in range(2):
        with throughput.data():
            time.sleep(0.02)
        time.sleep(0.03)
        throughput.step(jnp.int32(100), 2.0)
    with throughput.pause():
        time.sleep(0.2)
    report = throughput.report()
    assert report["data_seconds"] == pytest.approx(0.02, abs=0.015)
    assert 0.03 <= report["compute_seconds"] < 0.09
    assert report["step_seconds"] == pytest.approx(report["data_seconds"] + report["compute_seconds"])
    assert report["tokens_per_second"] == pytest.approx(100 / report["step_seconds"])
    assert report["audio_seconds_per_second"] == pytest.approx(2 / report["step_seconds"])
    assert throughput.report() == {}


def test_numbers_read_well():
    assert format_metrics({"a": 0.00012345, "b": 12.0, "c": 98765.4, "d": float("inf")}) == (
        "a 0.0001234  b 12  c 98,765  d inf"
    )
