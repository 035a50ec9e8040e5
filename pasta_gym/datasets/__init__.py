"""Public preference datasets as streams of two records, comparisons and sessions, plus ratings (section 5.2)."""

from pasta_gym.datasets.records import (
    Comparison,
    DatasetError,
    Image,
    LoadReport,
    PreferenceDataset,
    Rating,
    Record,
    Session,
    Turn,
)
from pasta_gym.datasets.registry import open_dataset
from pasta_gym.datasets.splits import Split, split_of_prompt, split_of_rater

__all__ = [
    "Comparison",
    "DatasetError",
    "Image",
    "LoadReport",
    "PreferenceDataset",
    "Rating",
    "Record",
    "Session",
    "Split",
    "Turn",
    "open_dataset",
    "split_of_prompt",
    "split_of_rater",
]
