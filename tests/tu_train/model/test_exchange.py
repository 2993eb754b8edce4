"""Three ranks gather pieces and sum gradients to the bit what the same numbers give in one process."""

from tests.tu_train.ranked import said, start, wait


def test_pieces_and_sums_of_three_ranks_are_those_made_by_hand(tmp_path):
    codes = wait(start(3, ["tests.tu_train.model.exchange", tmp_path], tmp_path / "said"))
    assert codes == [0, 0, 0], said(tmp_path / "said")
    assert len(list(tmp_path.glob("*.done"))) == 3
