import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from ieat_jax.data.quarantine import Quarantine, QuarantineError
from ieat_jax.errors import UserError


def test_every_id_counts_once_and_is_written_once(tmp_path):
    path = tmp_path / "logs" / "bad.jsonl"
    quarantine = Quarantine(1.0, path)
    assert quarantine.note("a", "missing", "a: no such file")
    assert not quarantine.note("a", "corrupt", "a: again")
    quarantine.note("b\ud800", "missing", "b: 没有\u2028")
    quarantine.note("c", "silent", "c")
    assert len(quarantine) == 3
    assert "a" in quarantine
    assert quarantine.summary() == {"missing": 2, "silent": 1}
    lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    assert [line["code"] for line in lines] == ["missing", "missing", "silent"]
    assert lines[1]["message"] == "b: 没有\u2028"


def test_a_new_run_replaces_the_old_report(tmp_path):
    path = tmp_path / "bad.jsonl"
    Quarantine(0.5, path).note("a", "x", "y")
    Quarantine(0.5, path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("bad", "total", "share", "fails"),
    [(0, 0, 0.0, False), (0, 10, 0.0, False), (1, 10, 0.0, True), (1, 10, 0.1, False), (2, 10, 0.1, True),
     (1, 0, 0.5, True), (10, 10, 1.0, False)],
)  # fmt: skip
def test_the_accepted_share(bad, total, share, fails):
    quarantine = Quarantine(share)
    quarantine.expect(total)
    for number in range(bad):
        quarantine.note(str(number), "missing", f"record {number}: gone")
    if fails:
        with pytest.raises(
            QuarantineError, match=rf"{bad} of {total} records are bad.*{bad} x missing.*record 0: gone"
        ):
            quarantine.check()
    else:
        quarantine.check()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_impossible_shares(share):
    with pytest.raises(UserError, match="max_share"):
        Quarantine(share)


def test_threads(tmp_path):
    quarantine = Quarantine(1.0, tmp_path / "bad.jsonl")

    def work(number):
        quarantine.expect(1)
        quarantine.note(str(number % 50), "x", "y")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(400)))
    assert (quarantine.total, len(quarantine)) == (400, 50)
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 50


def test_a_list_that_cannot_be_written_ends_no_run(tmp_path, capsys):
    quarantine = Quarantine(0.5, tmp_path / "quarantine.jsonl")
    (tmp_path / "quarantine.jsonl").mkdir()
    quarantine.expect(4)
    assert quarantine.note("a", "code", "message")
    assert quarantine.note("b", "code", "message")
    assert len(quarantine) == 2
    quarantine.check()
    assert capsys.readouterr().err.count("quarantine.jsonl: cannot be written") == 1
