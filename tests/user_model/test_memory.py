"""Tables of embeddings may be larger than the memory: they are read a block at a time."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from pasta_gym.user_model.em import all_rater_log_likelihoods, rater_log_likelihoods, root_mean_square
from pasta_gym.user_model.fit import session_scores
from pasta_gym.user_model.labels import labels_of
from pasta_gym.user_model.network import ScoreModel, score

MOST_ROWS = 20_000


class WaryTable:
    """A table that refuses to be read whole."""

    def __init__(self, table, most_rows=MOST_ROWS):
        self.table, self.most_rows, self.reads = table, most_rows, 0
        self.shape = table.shape

    def __len__(self):
        return len(self.table)

    def __array__(self, *args, **kwargs):
        raise MemoryError("read whole")

    def __getitem__(self, rows):
        taken = self.table[rows]
        if len(taken) > self.most_rows:
            raise MemoryError(f"{len(taken)} rows at once")
        self.reads += 1
        return taken


def make_model(data):
    sizes = {"image_scale": 1, "text_scale": 1, "noise": 1, "comparison_temperature": 5}
    return ScoreModel(data.embedding_dim, 2, **sizes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n", [MOST_ROWS * 3 + 7, 5])
def test_the_size_of_embeddings_is_read_in_blocks(n):
    table = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)).half() * 2.5
    wary = WaryTable(table)
    expected = math.sqrt(float(table.double().square().mean()))
    assert root_mean_square(wary) == pytest.approx(expected, rel=1e-12)
    assert wary.reads >= n / MOST_ROWS
    assert root_mean_square(table) == pytest.approx(math.sqrt(float(table.float().square().mean())), rel=1e-6)


def test_an_e_step_over_everybody_reads_prompts_and_pictures_in_blocks(planted):
    labels = labels_of(planted.data, planted.data.raters_of("train"))
    model = make_model(planted.data)
    images, prompts = (WaryTable(t, 50) for t in (labels.image_embeddings, labels.prompt_embeddings))
    wary = dataclasses.replace(labels, image_embeddings=images, prompt_embeddings=prompts)
    got = all_rater_log_likelihoods(model, wary, 0.2, size=50)
    assert torch.allclose(got, rater_log_likelihoods(model, labels, 0.2), atol=1e-3)
    assert images.reads == prompts.reads > 50


def test_an_empty_table_has_a_size_that_can_be_divided_by():
    assert root_mean_square(torch.zeros(0, 3)) == root_mean_square(torch.zeros(4, 3)) == 1e-6


def test_sessions_are_scored_in_blocks_of_their_own_pictures(planted):
    data, sessions = planted.data, np.arange(3, 150, 2)
    model = make_model(data)
    # A session has 32 pictures, and 32 sessions are read at once.
    images, prompts = WaryTable(data.image_embeddings, 32 * 32), WaryTable(data.prompt_embeddings, 32)
    wary = dataclasses.replace(data, image_embeddings=images, prompt_embeddings=prompts)
    scores, choices, rows = session_scores(model, wary, sessions)
    assert (images.reads, prompts.reads) == (3, 3)
    with torch.no_grad():
        text = model.text_heads(torch.from_numpy(data.prompt_embeddings[data.session_prompts[sessions]]))
        pictures = torch.from_numpy(data.image_embeddings[data.session_images[sessions]])
        units = model.image_heads(pictures.flatten(0, -2)).view(*pictures.shape[:-1], 2, -1)
        expected = score(text[:, None, None, None], units).permute(0, 1, 4, 2, 3).flatten(0, 1)
    assert torch.allclose(scores, expected, atol=1e-6)  # every turn has a choice
    assert choices.tolist() == data.session_choices[sessions].reshape(-1).tolist()
    assert rows.tolist() == np.repeat(np.arange(len(sessions)), 2).tolist()
