"""The calls that a training run makes to whoever watches it."""


class Callback:
    """Base class of those who watch a run. Its methods do nothing.

    A run makes these calls between its steps and cases. Each method may raise, which ends the run
    there; what was saved before stays.
    """

    def on_step(self, epoch: int, done: int) -> None:
        """Take note that `done` optimiser steps of an epoch of training are finished.

        Args:
            epoch: The number of the epoch, from 1.
            done: How many of its steps are finished, from 1.
        """

    def on_pretraining_step(self, epoch: int, done: int) -> None:
        """Take note that `done` optimiser steps of an epoch of pretraining are finished.

        Args:
            epoch: The number of the pretraining epoch, from 1.
            done: How many of its steps are finished, from 1.
        """

    def on_validation_case(self, epoch: int, done: int) -> None:
        """Take note that `done` cases of the validation set are evaluated.

        Args:
            epoch: The number of the epoch that is validated, from 1.
            done: How many cases are evaluated, from 1.
        """

    def on_test_case(self, done: int) -> None:
        """Take note that `done` cases of the test set are evaluated.

        Args:
            done: How many cases are evaluated, from 1.
        """

    def on_note(self, text: str) -> None:
        """Take note of something that whoever started the run should know.

        Args:
            text: One line.
        """
