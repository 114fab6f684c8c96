"""breadcrumbs by numbers written out."""

DELTA = [4.0, -1.0, 3.0, -2.0]


def test_drops_outliers_and_small_entries(combine, close):
    close(combine("breadcrumbs", [DELTA], density=0.5, gamma=0.25), [0, 0, 3, -2])


def test_fewer_outliers_go_where_the_density_asks_for_more(combine, close):
    close(combine("breadcrumbs", [DELTA], density=0.75, gamma=0.5), [0, -1, 3, -2])


def test_a_small_tensor_keeps_what_its_density_says(combine, close):
    # ⌊0.01·4⌋ = 0 outliers; mergekit before 0.1.5 zeroed such tensors whole
    close(combine("breadcrumbs", [DELTA], density=0.5), [4, 0, 3, 0])


def test_omegas_rescale_normalize_and_lambda(combine, close):
    close(combine("breadcrumbs", [DELTA], density=0.5, gamma=0.25, rescale=True), [0, 0, 6, -4])
    close(combine("breadcrumbs", [[1.0], [2.0]], [1.0, 3.0], normalize=True), [1.75])
    close(combine("breadcrumbs", [[1.0], [2.0]], [1.0, 3.0], **{"lambda": 2.0}), [14])


def test_each_vector_has_its_gamma(combine, close):
    close(combine("breadcrumbs", [DELTA, DELTA], density=0.5, gamma=(0.25, 0.0)), [4, 0, 6, -2])


def test_density_0_leaves_nothing(combine, close):
    close(combine("breadcrumbs", [DELTA], density=0.0), [0, 0, 0, 0])
