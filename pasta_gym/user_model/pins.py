"""Who is in which split because a dataset was put there whole, as a published test file is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pasta_gym.datasets.records import PreferenceDataset, Record
from pasta_gym.datasets.splits import normalised_prompt
from pasta_gym.user_model.data import SPLITS

_FIRST_TO_LAST = ("test", "validation", "train")


class Pins:
    """Datasets whose raters are all of one split, and the raters and prompts that were met in them.

    A rater whose id is in several datasets of one kind is one person, and a person is in one split. Whoever is in a
    dataset that is put into ``test`` is in ``test``; of the others, whoever is in one put into ``validation`` is there.
    What such a person said elsewhere never becomes training data: another dataset that is put somewhere loses it, and
    in one that is not put anywhere the person is in that split too. ``in_order`` is what makes this one pass.

    Args:
        as_split: Split by name of the dataset, for those that are put somewhere whole.
        datasets: All that are gathered.
        prompts_too: Whether prompts are kept apart like raters.

    Raises:
        ValueError: If a split is unknown, or no dataset has a name.
    """

    def __init__(
        self, as_split: Mapping[str, str], datasets: Sequence[PreferenceDataset], *, prompts_too: bool
    ) -> None:
        names = [dataset.name for dataset in datasets]
        for name, split in as_split.items():
            if split not in SPLITS:
                raise ValueError(f"as_split of {name} must be one of {', '.join(SPLITS)}, or left out; got {split!r}")
            if name not in names:
                raise ValueError(f"as_split names the dataset {name!r}; those given are {', '.join(names)}")
        self._as_split = dict(as_split)
        self._prompts_too = prompts_too
        self._raters: dict[tuple[str, str], str] = {}
        self._prompts: dict[str, str] = {}

    def in_order(self, datasets: Sequence[PreferenceDataset]) -> list[PreferenceDataset]:
        """Order datasets as they must be read: held-out ones first, those that are put nowhere last."""
        last = len(_FIRST_TO_LAST)
        place = {split: i for i, split in enumerate(_FIRST_TO_LAST)}
        return sorted(datasets, key=lambda dataset: place.get(self._as_split.get(dataset.name, ""), last))

    def of_dataset(self, name: str) -> str | None:
        """Return the split that a dataset is put into, None if its raters are split one by one."""
        return self._as_split.get(name)

    def of_rater(self, people: str, record: Record) -> str | None:
        """Return the split that the record's rater was met in, None for somebody new or unknown."""
        return None if record.rater is None else self._raters.get((people, record.rater))

    def of_prompt(self, record: Record) -> str | None:
        """Return the split that the record's prompt was met in, None if in none or if prompts are not kept apart."""
        return self._prompts.get(normalised_prompt(record.prompt)) if self._prompts else None

    def split_of(self, name: str, people: str, record: Record) -> str | None:
        """Return the split of a record of a dataset that is put somewhere, None if it must be left out."""
        split = self._as_split[name]
        return split if {self.of_rater(people, record), self.of_prompt(record)} <= {None, split} else None

    def meet(self, name: str, people: str, record: Record) -> None:
        """Remember rater and prompt of a record that was taken, if its dataset is put somewhere."""
        split = self._as_split.get(name)
        if split is None:
            return
        if record.rater is not None:
            self._raters[people, record.rater] = split
        if self._prompts_too:
            self._prompts[normalised_prompt(record.prompt)] = split
