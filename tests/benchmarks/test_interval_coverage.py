import numpy as np

from benchmarks.interval_coverage import SEEDS, SPREADS, coverage, main
from benchmarks.power import Spread


def test_few_seeds_make_bootstrap_intervals_too_short_and_the_t_test_knows():
    seeds_matter = Spread(seed=1.0, conversation=0.1, rest=0.1)
    few, many = (coverage(seeds_matter, n, np.random.default_rng(n), n_trials=150, n_replicates=100) for n in (2, 12))
    # Of two seeds, half of the resamples hold one of them twice: the interval is what lies between the two.
    assert 0.35 < few.bootstrap < 0.65
    assert few.t_test > 0.9
    assert many.bootstrap > 0.83
    assert 0.9 < many.t_test < 1


def test_the_table_has_a_row_for_each_number_of_seeds_and_is_the_same_again(capsys):
    main(["--trials", "3", "--replicates", "20"])
    first = capsys.readouterr().out
    main(["--trials", "3", "--replicates", "20"])
    assert capsys.readouterr().out == first
    lines = first.splitlines()
    assert len(lines) == 2 + len(SEEDS)
    assert all(line.count("|") == 2 + 2 * len(SPREADS) for line in lines)
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {n}" for n in SEEDS]
