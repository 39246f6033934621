import math

import pytest
import torch

from rectiflow.nn.embeddings import (
    PositionTable,
    patchify,
    position_table,
    time_features,
    unpatchify,
)


def coordinates(table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(horizontal, vertical) coordinate of every token, read back from the slowest waves."""
    features = table.double()
    half, quarter = features.shape[-1] // 2, features.shape[-1] // 4
    slowest = 10000 ** -((quarter - 1) / quarter)
    sin, cos = features[..., quarter - 1], features[..., 2 * quarter - 1]
    sin_y, cos_y = features[..., half + quarter - 1], features[..., half + 2 * quarter - 1]
    return torch.atan2(sin, cos) / slowest, torch.atan2(sin_y, cos_y) / slowest


@pytest.mark.parametrize(("side", "first", "last"), [(192, -16, 31.75), (384, -40, 55.75)])
def test_tables_of_the_released_models_span_the_coordinates_of_their_files(side, first, last):
    """coordinate(i) = (i - (N - 64) / 2) / 4: from -16 to 31.75 for N = 192, from -40 for 384."""
    across, down = coordinates(position_table(32, 64, side, side))
    expected = torch.linspace(first, last, side, dtype=torch.float64)
    for row in (0, side // 2, side - 1):
        torch.testing.assert_close(across[row], expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(down[:, row], expected, rtol=0, atol=1e-3)
    base = slice((side - 64) // 2, (side + 64) // 2)
    assert across[0, base][[0, -1]].tolist() == pytest.approx([0, 15.75], abs=1e-3)


@pytest.mark.parametrize("base_side", [8, 16, 24, 64])
@pytest.mark.parametrize("extents", [(64, 64), (64, 96), (128, 70)])
def test_a_square_of_the_base_size_spans_0_to_16_whatever_its_size_and_the_table(
    base_side, extents
):
    crop = PositionTable(32, base_side, *extents)(base_side, base_side)
    across, down = coordinates(crop.view(base_side, base_side, 32))
    expected = torch.arange(base_side, dtype=torch.float64) * 16 / base_side
    for x in (across, down.t()):
        torch.testing.assert_close(x, expected.expand_as(x), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(10, 10), (4, 9), (7, 3)])
def test_every_entry_equals_a_reference_in_float64(rows, columns):
    width, s = 24, 3
    table = position_table(width, s, rows, columns)
    assert table.dtype == torch.float32
    for row in range(rows):
        for column in range(columns):
            entry = []
            for i, n in ((column, columns), (row, rows)):  # width first
                coordinate = (i - (n - s) / 2) * 16 / s
                waves = [coordinate / 10000 ** (2 * k / (width / 2)) for k in range(width // 4)]
                entry += [math.sin(w) for w in waves] + [math.cos(w) for w in waves]
            assert table[row, column].tolist() == pytest.approx(entry, abs=1e-7)


def test_pictures_see_the_centre_whatever_the_size_of_the_table():
    small, wide, large = (PositionTable(16, 64, *n) for n in ((96, 192), (96, 384), (384, 384)))
    for rows, columns in ((64, 64), (96, 42), (2, 192)):
        assert small(rows, columns).equal(large(rows, columns))
        assert wide(rows, columns).equal(large(rows, columns))


def test_crop_is_row_by_row_and_centred():
    positions = PositionTable(8, 4, 8, 10)
    crop = positions(4, 7).view(4, 7, 8)
    for row in range(4):
        for column in range(7):
            assert crop[row, column].equal(positions.table[2 + row, 1 + column])


def test_the_table_is_saved_with_the_weights():
    assert set(PositionTable(8, 4, 10, 10).state_dict()) == {"table"}


@pytest.mark.parametrize(("rows", "columns"), [(4, 11), (9, 4)])
def test_pictures_beyond_the_table_are_refused(rows, columns):
    with pytest.raises(ValueError, match=f"may have 8x10 tokens, got {rows}x{columns}"):
        PositionTable(8, 4, 8, 10)(rows, columns)


def test_patches_are_undone_exactly_and_hold_neighbouring_pixels():
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)
    tokens = patchify(x, 2)
    assert tokens.shape == (2, 6, 12)
    assert tokens[1, 4].view(2, 2, 3).equal(x[1, :, 2:4, 2:4].permute(1, 2, 0))
    assert unpatchify(tokens, 2, 4, 6).equal(x)


def test_sides_that_are_no_multiple_of_the_patch_are_refused():
    with pytest.raises(ValueError, match="multiples of the patch size 2, got 4x5"):
        patchify(torch.zeros(1, 1, 4, 5), 2)


def test_time_features_equal_a_reference_in_float64():
    t = torch.tensor([0.0, 0.001, 0.3, 1.0])
    features = time_features(t)
    assert features.dtype == torch.float32
    for time, row in zip(t.tolist(), features, strict=True):
        angles = [1000 * time * 10000 ** (-k / 128) for k in range(128)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        assert row.tolist() == pytest.approx(expected, abs=3e-4)  # 1000 t in float32
