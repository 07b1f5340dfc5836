"""The picture of masks: means of cells as in a naive loop, the marks of empty rows and columns, names, and the file."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from winning_tickets.cli.tickets import check_figure_file
from winning_tickets.report import masks
from winning_tickets.report.figures import printed
from winning_tickets.runs.errors import UsageError


def ticket_of(**shapes):
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.rand(shape, generator=generator) < 0.4 for name, shape in shapes.items()}
    return SimpleNamespace(masks={name.replace("__", "."): mask for name, mask in drawn.items()})


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (48, 49), (100, 7), (200, 131)])
def test_a_cell_is_the_mean_of_its_weights(shape):
    mask = np.random.default_rng(0).random(shape) < 0.3
    means = masks._means(mask)
    assert means.shape == tuple(min(length, masks.CELLS) for length in shape)
    down, across = ([*masks._edges(length), length] for length in shape)
    naive = [
        [mask[top:bottom, left:right].mean() for left, right in itertools.pairwise(across)]
        for top, bottom in itertools.pairwise(down)
    ]
    np.testing.assert_allclose(means, naive)


def test_rows_and_columns_without_a_weight_are_marked():
    mask = np.ones((4, 6), dtype=bool)
    mask[2], mask[:, 1] = False, False
    picture = masks._colored(mask, masks._means(mask), masks._Colors("Blues", 0.0, 1.0))
    white = (picture == 1).all(2)
    assert white[masks._STRIP :, 0].tolist() == [True, True, False, True]
    assert white[0, masks._STRIP :].tolist() == [True, False, True, True, True, True]


def test_a_matrix_has_the_shortest_name_that_no_other_kind_has():
    names = [
        "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.attention.output.dense.weight",
        "encoder.layer.0.output.dense.weight",
        "encoder.layer.11.output.dense.weight",
        "embeddings.word_embeddings.weight",
    ]
    assert list(masks._places(names).values()) == [
        ("layer 1", "query"),
        ("layer 1", "attention.output"),
        ("layer 1", "output"),
        ("layer 12", "output"),
        ("other", "word_embeddings"),
    ]


def test_the_same_ticket_gives_the_same_files_and_text_stays_text():
    ticket = ticket_of(layer__0__query__weight=(6, 4), embeddings__weight=(90, 4))
    ticket.masks["layer.0.query.weight"][3] = False
    first, second = (masks.mask_figure(ticket, "a title")["svg"] for _ in range(2))
    assert first == second
    for text in (b"a title", b"layer 1", b"query", b"embeddings", b"weights remaining (%)", b"without a weight"):
        assert text in first


def test_the_change_since_another_ticket_diverges_from_zero():
    before, after = (ticket_of(layer__0__query__weight=(4, 4)) for _ in range(2))
    before.masks["layer.0.query.weight"][:] = torch.eye(4) > 0
    after.masks["layer.0.query.weight"][:] = torch.eye(4).flip(0) > 0
    made = masks.mask_figure(after, before=before)
    assert b"change of weights remaining" in made["svg"]
    (picture,) = made.figure.axes[0].get_images()
    cells = np.asarray(picture.get_array())[masks._STRIP :, masks._STRIP :]
    red, blue = cells[..., 0] - cells[..., 2] > 0.2, cells[..., 2] - cells[..., 0] > 0.2
    assert red.tolist() == (np.eye(4) > 0).tolist(), "fewer weights remain"
    assert blue.tolist() == (np.eye(4)[::-1] > 0).tolist(), "more weights remain"
    with pytest.raises(UsageError, match=r"--before needs a ticket with the same matrices; these two are of other"):
        masks.mask_figure(after, before=ticket_of(layer__0__query__weight=(4, 5)))


def test_refused_files(tmp_path):
    (tmp_path / "there.svg").write_text("mine")
    for name, message in (
        ("masks.gif", r"ends with \.png, \.svg, \.pdf"),
        ("nowhere/masks.svg", "there is no folder"),
        ("there.svg", "is there already"),
    ):
        with pytest.raises(UsageError, match=message):
            check_figure_file(tmp_path / name, force=False)
    check_figure_file(tmp_path / "there.svg", force=True)


def test_in_a_narrow_column_long_names_are_turned():
    ticket = ticket_of(layer__0__intermediate__weight=(6, 4), layer__0__key__weight=(6, 4), embeddings__weight=(9, 4))
    with printed(4):
        turned = {one.get_title(): one.title.get_rotation() for one in masks.mask_figure(ticket).figure.axes}
    assert {name: turned[name] for name in ("intermediate", "key")} == {"intermediate": 90, "key": 0}


def test_a_width_without_room_for_the_text_is_refused():
    ticket = ticket_of(**{f"layer__{layer}__{'long' * 20}{layer}__weight": (2, 2) for layer in range(30)})
    with (
        pytest.raises(UsageError, match=r"A figure of 4 cm has no room for its text; give a larger --width\."),
        printed(4),
    ):
        masks.mask_figure(ticket)
