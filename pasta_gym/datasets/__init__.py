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

__all__ = [
    "Comparison",
    "DatasetError",
    "Image",
    "LoadReport",
    "PreferenceDataset",
    "Rating",
    "Record",
    "Session",
    "Turn",
]
