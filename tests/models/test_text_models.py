"""Rows of tokens: where views begin and end, what sees what, packed like alone, what is written token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sines import sines

from ssl_bench.config.schema import ViTConfig
from ssl_bench.data.images import square
from ssl_bench.data.texts import Texts
from ssl_bench.errors import UserError
from ssl_bench.models import texts
from ssl_bench.models.texts import END, PAD, PRED, START, Rows, asking, at, rows
from ssl_bench.models.vit import ViT

SHAPE = ViTConfig(16, 2, 2, patch_size=1, class_token=False, causal=True)
TEXT = torch.tensor([[7, 8, 9, 0, 0], [7, 8, 9, 10, 11]])
CODE = torch.tensor([[20, 21, 0, 0, 0], [22, 0, 0, 0, 0]])


def network(**changes: object) -> ViT:
    torch.manual_seed(0)
    return ViT(replace(SHAPE, **changes), Texts(5)).eval()


def test_views_follow_one_another_without_padding_and_positions_restart():
    found = rows(*asking(TEXT, 2), (CODE, 1))
    assert found.ids[0].tolist() == [7, 8, 9, PRED + 1, PRED, 20, 21, *[PAD] * 5]
    assert found.ids[1].tolist() == [7, 8, 9, 10, 11, PRED + 1, PRED, 22, *[PAD] * 4]
    assert found.view[0].tolist() == [0] * 5 + [1] * 2 + [-1] * 5
    assert found.places[0].tolist() == [0, 1, 2, 3, 4, 0, 1, *[0] * 5]
    assert found.places[1].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, *[0] * 4]


def test_the_readout_is_the_last_pred_and_without_one_the_last_token_of_the_text():
    for preds, place in ((0, [2, 4]), (1, [3, 5]), (3, [5, 7])):
        found = rows(*asking(TEXT, preds), (CODE, 1))
        assert found.last(0).tolist() == place
        token = found.ids[torch.arange(2), found.last(0)].tolist()
        assert token == ([PRED, PRED] if preds else [9, 11])
    assert found.last(1).tolist() == [7, 8]


def test_attention_keeps_views_apart_and_leaves_no_row_without_a_finite_entry():
    found = rows((TEXT, 0), (CODE, 1))
    for causal in (True, False):
        mask = texts.attention(found.view, causal)[:, 0]
        assert torch.isfinite(mask).any(2).all()
        seen = mask == 0
        for b in range(2):
            for i in range(10):
                for j in range(10):
                    same = found.view[b, i] == found.view[b, j] >= 0 and (j <= i or not causal)
                    assert seen[b, i, j] == (same or i == j)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_packed_views_are_as_each_alone(causal, positions):
    """Fact 6 of LLM-JEPA's code: with positions that do not restart the two differ, and padding makes NaN."""
    net = network(causal=causal, pos_embed=positions)
    both, first, second = rows(*asking(TEXT, 1), (CODE, 1)), rows(*asking(TEXT, 1)), rows((CODE, 0))
    with torch.no_grad():
        packed, text, code = (texts.states(net, one) for one in (both, first, second))
    assert torch.isfinite(packed).all()
    torch.testing.assert_close(at(packed, both.last(0)), at(text, first.last(0)), atol=1e-6, rtol=0)
    torch.testing.assert_close(at(packed, both.last(1)), at(code, second.last(0)), atol=1e-6, rtol=0)


def test_the_encoder_reads_text_as_a_row_does_whatever_padding_and_code_are():
    net = network()
    pairs = torch.stack([TEXT, CODE], 1).float()
    with torch.no_grad():
        row = texts.states(net, rows((TEXT, 0)))
        for found in (net(pairs), net.layers(pairs, [-1])[0], net(pairs * torch.tensor([1, 0])[:, None])):
            torch.testing.assert_close(found[0, :3], row[0, :3])
            torch.testing.assert_close(found[1], row[1])


def test_causal_and_bidirectional_differ_in_the_mask_alone():
    one, other = network(), network(causal=False)
    other.load_state_dict(one.state_dict())
    later = TEXT.clone()
    later[1, 4] = 99
    with torch.no_grad():
        for net, blind in ((one, True), (other, False)):
            a, b = (texts.states(net, rows((ids, 0))) for ids in (TEXT, later))
            assert torch.equal(a[1, :4], b[1, :4]) == blind
            assert not torch.equal(a[1, 4], b[1, 4])


def test_what_is_written_is_the_likeliest_token_each_time():
    """Against a plain loop over single rows; what follows the end is padding."""
    net, length = network(), 6
    with torch.no_grad():
        net.patch_embed.table.copy_(sines(3, *net.patch_embed.table.shape))
        found = texts.generate(net, TEXT, length)
        for text, mine in zip(TEXT, found, strict=True):
            row = [*text[text != 0].tolist(), START]
            for token in mine.tolist():
                ids = torch.tensor([row])
                scores = texts.logits(net, texts.states(net, Rows(ids, 0 * ids))[0, -1])
                scores[[PAD, START]] = -torch.inf
                assert token == (PAD if row[-1] in (END, PAD) else int(scores.argmax()))
                row.append(token)
                if token == PAD:
                    break
    assert found.shape == (2, length)


def test_what_texts_do_not_have_is_refused():
    with pytest.raises(UserError, match="class_token=false"):
        network(class_token=True)
    with pytest.raises(UserError, match="set it to 1"):
        network(patch_size=2)
    with pytest.raises(UserError, match="no effect on images"):
        ViT(ViTConfig(16, 2, 2, patch_size=4, causal=True), square(8))


def test_counts_leave_padding_out():
    found = texts.counts(torch.tensor([[[3, 3, 255, 0]]]))
    assert found.shape == (1, 255) and found[0, 2] == 2 and found[0, 254] == 1 and found.sum() == 3


def test_spans_are_drawn_evenly_and_never_the_whole():
    """s uniform, then t uniform above s, the whole drawn again: frequencies of all spans of four steps."""
    draw = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0))
    s, t = texts.spans(draw, torch.full((len(draw),), 4))
    expected = {(a, b): 1 / 4 / (4 - a) for a in range(4) for b in range(a + 1, 5) if (a, b) != (0, 4)}
    total = sum(expected.values())
    for (a, b), chance in expected.items():
        assert float(((s == a) & (t == b)).float().mean()) == pytest.approx(chance / total, abs=4e-3)
    assert not ((s == 0) & (t == 4)).any()
