import pytest
import torch

from benchmarks.user_model_throughput import GIB, budget, by_slices, main, measure
from pasta_gym.user_model.network import ResidualHeads, ScoreModel


def test_the_weights_are_counted_from_the_shapes():
    for dim, k in ((6, 3), (10, 1)):
        model = ScoreModel(
            dim, k, image_scale=1, text_scale=1, noise=1, comparison_temperature=1, generator=torch.Generator()
        )
        cost = budget(dim, k, 8, 4)
        assert cost.parameters == sum(p.numel() for p in model.parameters())
        assert cost.weight_bytes == 5 * 4 * cost.parameters


def test_operations_by_hand():
    # d = 1, K = 2: heads of 18 weights, 3 rows: 2 * 18 * 3 = 108 forward, once in the E-step, thrice in the M-step.
    assert budget(1, 2, 2, 1).flops == 4 * 108


def test_sixty_four_types_at_the_papers_size_fit_in_24_gib():
    assert budget(768, 64, 4096, 2048).bytes < 24 * GIB


def test_slices_give_what_one_product_gives():
    heads = ResidualHeads(6, 3, scale=2.0, noise=1.0, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(by_slices(heads, x), heads(x), atol=1e-6)


def test_a_measurement_has_sensible_figures(capsys, tmp_path):
    found = measure(8, 2, 16, torch.device("cpu"), peak=1e12)
    assert found.pairs_per_second > 0
    assert 0 < found.share < 1
    assert found.loop_ratio > 0
    assert found.peak_gib > 0
    page = tmp_path / "page.md"
    page.write_text("<!-- throughput:begin -->\n<!-- throughput:end -->\n")
    main(["--dim", "8", "--batch", "16", "--types", "2", "1", "--page", str(page)])
    said = capsys.readouterr().out
    assert "user_model_throughput --dim 8 --batch 16 --types 2 1` on 2" in page.read_text()
    assert said.strip() in page.read_text()
    assert said.index("| 1 |") < said.index("| 2 |")
    assert "K = 64" in said


def test_an_unknown_option_is_an_error():
    with pytest.raises(SystemExit):
        main(["--typos", "2"])
