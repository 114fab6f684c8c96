"""consensus by numbers written out."""

import torch

STACK = [[2.0, 3.0, 1.0], [2.0, 0.0, -9.0]]


def test_only_what_matters_to_both_is_added(combine, close):
    # third entry: 1 > 0.4·9 is false for the first task
    close(combine("consensus", STACK), [4, 0, 0])
    close(combine("consensus", STACK, [1.0, 0.5], **{"lambda": 2.0}), [6, 0, 0])


def test_least_and_thresholds(combine, close):
    close(combine("consensus", STACK, least=1), [4, 3, -8])
    close(combine("consensus", STACK, threshold=(0.1, 0.4)), [4, 0, -8])


def test_one_task_alone_has_to_agree_with_itself_only(combine, close):
    close(combine("consensus", STACK[:1]), [2, 3, 1])


def test_an_entry_on_the_threshold_is_not_above_it(combine):
    """Three equal changes: each is ½ of the other two, not more. A float32 sum of three rounds."""
    found = combine("consensus", [[0.7]] * 3, threshold=0.5, dtype=torch.float32)
    assert found.item() == 0
