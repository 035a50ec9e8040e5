"""The commit that this process runs: read when it begins, because the checkout may move on under a long sweep.

Processes that a launcher starts, and starts again, import this module themselves: each names the commit of its code.
"""

from __future__ import annotations

from benchmarks.settings import CONFIG_FOLDER
from pasta_gym.trajectories import provenance

REVISION = provenance.git_revision(CONFIG_FOLDER.parent)
