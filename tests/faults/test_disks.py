"""A disk that is full, or that cannot be written to: told in a line, and nothing is lost."""

import pytest

from tests.faults.disks import on_a_small_disk


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["train_while_it_fills_up", "encode_while_it_fills_up", "train_where_it_is_read_only"],
)
def test_what_is_lost_is_told_and_the_same_command_ends_as_if_nothing_had_been(name, tmp_path):
    on_a_small_disk(name, tmp_path / "disk")
