"""Curves from event files that a kill has cut off anywhere."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from switchq.posttraining.report.events import read_curves


def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path / "whole") as writer:
        for step in range(12):
            writer.add_scalar("loss", 1 / (1 + step), step)
    (whole,) = (tmp_path / "whole").iterdir()
    content, curve = whole.read_bytes(), read_curves(tmp_path / "whole")["loss"]
    assert len(curve) == 12
    (tmp_path / "cut").mkdir()
    lengths = []
    for end in range(0, len(content) + 1, 7):
        (tmp_path / "cut" / whole.name).write_bytes(content[:end])
        found = read_curves(tmp_path / "cut").get("loss", ())
        assert found == curve[: len(found)]
        lengths.append(len(found))
    assert lengths == sorted(lengths)
    assert set(lengths) >= set(range(11))
