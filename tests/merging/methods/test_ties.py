"""ties by numbers written out."""

import torch

ONE, OTHER = [1.0, 5.0, 3.0, 4.0], [0.0, 1.0, 2.0, -6.0]


def test_trims_elects_and_averages(combine, close):
    # trimmed to half: [0, 5, 0, 4] and [0, 0, 2, −6]; the last entry elects −
    close(combine("ties", [ONE, OTHER], density=0.5), [0, 5, 2, -6])


def test_the_divisor_is_the_sum_of_the_agreeing_weights(combine, close):
    stack = [[2.0, 2.0], [4.0, -1.0]]
    close(combine("ties", stack, [1.0, 3.0]), [(2 + 12) / 4, -3 / 3])
    close(combine("ties", stack, [1.0, 3.0], normalize=False), [14, -3])
    close(combine("ties", stack, [1.0, 3.0], divide_by="count"), [14 / 2, -3])


def test_mergekit_elects_by_weight_and_the_paper_does_not(combine, close):
    stack = [[3.0], [-2.0]]
    close(combine("ties", stack, [0.2, 0.8]), [-2])  # 0.6 − 1.6 < 0
    close(combine("ties", stack, [0.2, 0.8], elect="unweighted"), [3])  # 3 − 2 > 0


def test_a_tie_elects_plus(combine, close):
    close(combine("ties", [[2.0], [-2.0]]), [2])


def test_each_vector_has_its_density(combine, close):
    close(combine("ties", [ONE, ONE], density=(0.25, 1.0), normalize=False), [1, 10, 3, 4])


def test_rescaling_keeps_the_sum_of_magnitudes(combine, close):
    close(combine("ties", [ONE], density=0.5, rescale=True), [0, 5 * 13 / 9, 0, 4 * 13 / 9])


def test_lambda_is_a_factor(combine, close):
    close(combine("ties", [ONE, OTHER], density=0.5, **{"lambda": -0.5}), [0, -2.5, -1, 3])


def test_at_least_one_entry_is_kept_and_at_density_0_none(combine, close):
    close(combine("ties", [ONE], density=0.01), [0, 5, 0, 0])
    close(combine("ties", [ONE], density=0.0), [0, 0, 0, 0])


def test_the_papers_variant_is_the_papers(combine):
    """A plain loop over entries, as section 3 of the paper writes it: trim, elect by mass, mean of those that agree."""
    generator = torch.Generator().manual_seed(1)
    stack = torch.randn(5, 41, generator=generator, dtype=torch.float64)
    count = int(0.2 * 41)
    trimmed = [
        [x if sorted(map(abs, row))[-count] <= abs(x) else 0.0 for x in row]
        for row in stack.tolist()
    ]
    wanted = []
    for entries in zip(*trimmed, strict=True):
        sign = 1 if sum(entries) >= 0 else -1
        agreeing = [x for x in entries if x * sign > 0]
        wanted.append(sum(agreeing) / max(1, len(agreeing)))
    found = combine("ties", stack.tolist(), density=0.2, elect="unweighted", divide_by="count")
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
