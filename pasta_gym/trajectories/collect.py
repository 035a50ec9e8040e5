"""The command ``python -m pasta_gym.trajectories.collect``; what it runs is in ``pasta_gym.trajectories.collection``.

Python warns of a command that its own package has imported. Import ``collect`` from the package: this
module, once imported, takes the place of the function of its name.
"""

from pasta_gym.trajectories.collection import main

if __name__ == "__main__":
    main()
